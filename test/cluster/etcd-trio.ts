// Three etcds that are one, as in production: they and who asks them show each other certificates.
import { type ChildProcess, spawn } from 'node:child_process';
import { connect } from 'node:net';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { findEtcd, freePorts } from '../../scripts/etcd.js';
import type { Authority } from '../net/certificate-files.js';
import { temporaryFolder } from '../support/temporary-folder.js';

const MEMBERS = [0, 1, 2] as const;
const READY_MS_MAX = 20_000;
const OUTPUT_CHARACTERS_MAX = 64 * 1024;

interface Member {
  readonly client: number;
  readonly peer: number;
  readonly data: string;
  child: ChildProcess | undefined;
  output: string;
}

export class EtcdTrio {
  readonly #program: string;
  readonly #authority: Authority;
  readonly #members: readonly Member[];

  private constructor(program: string, authority: Authority, ports: readonly number[]) {
    const folder = temporaryFolder();
    this.#program = program;
    this.#authority = authority;
    this.#members = MEMBERS.map((at) => ({
      client: ports[2 * at]!,
      peer: ports[2 * at + 1]!,
      data: join(folder, `${at}`),
      child: undefined,
      output: '',
    }));
  }

  static async start(t: TestContext, authority: Authority): Promise<EtcdTrio> {
    authority.sign('etcd', '/CN=etcd');
    const ports = await freePorts(2 * MEMBERS.length);
    const trio = new EtcdTrio(await findEtcd(), authority, ports);
    t.after(() => Promise.all(MEMBERS.map((at) => trio.kill(at))));
    await Promise.all(MEMBERS.map((at) => trio.start(at)));
    return trio;
  }

  get endpoints(): string[] {
    return this.#members.map(({ client }) => `https://127.0.0.1:${client}`);
  }

  /** Waits until it takes connections. */
  async start(at: number): Promise<void> {
    const member = this.#members[at]!;
    const { client, peer, data } = member;
    const { ca } = this.#authority;
    const [cert, key] = [this.#authority.path('etcd.pem'), this.#authority.path('etcd.key')];
    const urls = (port: number) => `https://127.0.0.1:${port}`;
    const peers = this.#members.map((one, index) => `m${index}=${urls(one.peer)}`).join(',');
    const child = spawn(
      this.#program,
      [
        ...['--name', `m${at}`, '--data-dir', data, '--initial-cluster', peers],
        ...['--listen-client-urls', urls(client), '--advertise-client-urls', urls(client)],
        ...['--listen-peer-urls', urls(peer), '--initial-advertise-peer-urls', urls(peer)],
        ...['--cert-file', cert, '--key-file', key, '--trusted-ca-file', ca, '--client-cert-auth'],
        ...['--peer-cert-file', cert, '--peer-key-file', key, '--peer-trusted-ca-file', ca],
        ...['--peer-client-cert-auth', '--heartbeat-interval', '50', '--election-timeout', '500'],
      ],
      { stdio: ['ignore', 'ignore', 'pipe'], env: { PATH: process.env.PATH } },
    );
    member.child = child;
    child.stderr.on('data', (chunk: Buffer) => {
      member.output = `${member.output}${chunk}`.slice(-OUTPUT_CHARACTERS_MAX);
    });
    const endMs = performance.now() + READY_MS_MAX;
    while (!(await isListening(client))) {
      if (child.exitCode !== null || performance.now() > endMs) {
        throw new Error(`etcd ${at} does not listen:\n${member.output}`);
      }
      await delay(20);
    }
  }

  async kill(at: number): Promise<void> {
    const member = this.#members[at]!;
    const { child } = member;
    member.child = undefined;
    if (child === undefined || child.exitCode !== null) return;
    child.kill('SIGKILL');
    await new Promise((resolve) => child.once('close', resolve));
  }
}

function isListening(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1');
    const answer = (isThere: boolean) => {
      socket.destroy();
      resolve(isThere);
    };
    socket.once('connect', () => answer(true));
    socket.once('error', () => answer(false));
  });
}
