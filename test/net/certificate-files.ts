// Makes certificates for a test with the openssl command, since node:crypto cannot.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export interface CertificateFiles {
  cert: string;
  key: string;
}

/** A directory with one authority, and the certificates that it signs. */
export class Authority {
  readonly directory: string;
  readonly ca: string;
  #serial = 1;

  constructor() {
    this.directory = mkdtempSync(join(tmpdir(), 'gomq-certificates-'));
    this.ca = this.path('ca.pem');
    const subject = ['-subj', '/CN=gomq test authority', '-days', '2'];
    const files = ['-keyout', this.path('ca.key'), '-out', this.ca];
    openssl(['req', '-x509', ...newKey, ...files, ...subject]);
  }

  static get isAvailable(): boolean {
    try {
      openssl(['version']);
      return true;
    } catch {
      return false;
    }
  }

  path(name: string): string {
    return join(this.directory, name);
  }

  /** @param subject as openssl writes it: `/CN=alice` */
  sign(name: string, subject: string): CertificateFiles {
    const key = this.path(`${name}.key`);
    const request = this.path(`${name}.csr`);
    const cert = this.path(`${name}.pem`);
    const extensions = this.path(`${name}.ext`);
    writeFileSync(extensions, 'subjectAltName=DNS:localhost,IP:127.0.0.1\n');
    openssl(['req', ...newKey, '-keyout', key, '-out', request, '-subj', subject]);
    const signer = ['-CA', this.ca, '-CAkey', this.path('ca.key'), '-set_serial', String(this.#serial++)];
    openssl(['x509', '-req', '-in', request, '-out', cert, '-days', '2', '-extfile', extensions, ...signer]);
    return { cert, key };
  }

  remove(): void {
    rmSync(this.directory, { recursive: true, force: true });
  }
}

const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];

function openssl(args: string[]): void {
  execFileSync('openssl', args, { stdio: 'pipe' });
}
