// Disks that fail, as far as the machine lets a test have them: strace, which makes system calls of a process fail, and small file systems of memory
// that only this process and its children find. Where they are not allowed, `skip` of a test says why.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** For the option `skip` of a test. */
export type Skip = string | false;

/** Whether strace is missing or may not look into other processes. */
export function straceSkip(): Skip {
  const { status, error, stderr } = spawnSync('strace', ['-qq', '-e', 'trace=none', 'true'], {
    encoding: 'utf8',
  });
  if (error !== undefined) return 'there is no strace';
  return status === 0 ? false : `strace is not allowed: ${stderr.trim()}`;
}

/** Whether strace may not begin to look into a process that runs already. */
export function attachSkip(): Skip {
  const script = 'sleep 10 & strace -qq -e trace=none -o /dev/null -p $! & sleep 0.2; kill %1; wait %2';
  const { stderr } = spawnSync('bash', ['-c', script], { encoding: 'utf8' });
  const refused = /attach.*/.exec(stderr);
  return straceSkip() || (refused !== null && `strace is not allowed: ${refused[0]}`);
}

/**
 * From when this resolves on the calls of a process that runs fail as told, where they are about `path`; counts are by thread, and begin now.
 * @returns puts an end to it
 */
export async function failFromNowOn(
  pid: number,
  path: string,
  injection: string,
): Promise<() => Promise<void>> {
  const strace = spawn(
    'strace',
    [
      ...['-f', '-o', '/dev/null', '-e', `trace=${injection.split(':')[0]!}`, '-e', 'signal=none'],
      ...['-e', `inject=${injection}`, '-P', path, '-p', String(pid)],
    ],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  );
  let stderr = '';
  await new Promise<void>((resolve, reject) => {
    strace.stderr.on('data', (chunk: Buffer) => {
      stderr += chunk;
      if (/attached/.test(stderr)) resolve();
    });
    strace.once('close', () => reject(new Error(`strace did not attach: ${stderr}`)));
  });
  return async () => {
    const closed = once(strace, 'close');
    strace.kill();
    await closed;
  };
}

/** Processes under strace that fail as told, and what they did. */
export class Tracing {
  readonly #folder = mkdtempSync(join(tmpdir(), 'gomq-strace-'));
  readonly #file = join(this.#folder, 'trace');

  /**
   * What to put before a command. `injections` as after `-e inject=`; counts are by thread.
   * @param calls also noted
   */
  command(injections: readonly string[], calls: readonly string[] = []): string[] {
    const failing = injections.map((injection) => injection.split(':')[0]!);
    return [
      ...['strace', '-f', '--seccomp-bpf', '-qq', '-y', '-s', '32', '-o', this.#file],
      ...['-e', `trace=${[...failing, ...calls].join(',')}`, '-e', 'signal=none'],
      ...injections.flatMap((injection) => ['-e', `inject=${injection}`]),
    ];
  }

  /** The calls in their order. A call that had not come back when another thread's came has a line for its begin and one for its end. */
  lines(): string[] {
    return existsSync(this.#file) ? readFileSync(this.#file, 'utf8').split('\n') : [];
  }

  remove(): void {
    rmSync(this.#folder, { recursive: true });
  }
}

/** A file system of its own, in memory. */
export interface SmallFileSystem {
  readonly path: string;
  remove(): Promise<void>;
}

/** In a mount namespace that lives as long as the process that made it, which lives as long as this one: nothing is left behind. */
export async function mountSmall(mebibytes: number, filesMax = 0): Promise<SmallFileSystem> {
  const folder = mkdtempSync(join(tmpdir(), 'gomq-small-'));
  const script = `mount -t tmpfs -o size=${mebibytes}m,nr_inodes=${filesMax} tmpfs "$1" && echo mounted && exec cat`;
  const holder = spawn('unshare', [...unshareFlags(), 'sh', '-c', script, 'sh', folder], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const exit = once(holder, 'exit');
  const [line] = (await once(holder.stdout, 'data')) as [Buffer];
  assert.equal(line.toString(), 'mounted\n');
  return {
    path: `/proc/${holder.pid}/root${folder}`,
    async remove() {
      holder.stdin.end();
      await exit;
      rmSync(folder, { recursive: true });
    },
  };
}

/** Whether this machine does not let one mount a file system, in a namespace or at all. */
export function mountSkip(): Skip {
  const script = 'mount -t tmpfs -o size=1m tmpfs /tmp';
  const { status, error, stderr } = spawnSync('unshare', [...unshareFlags(), 'sh', '-c', script], {
    encoding: 'utf8',
  });
  if (error !== undefined) return 'there is no unshare';
  return status === 0 ? false : `mounting is not allowed: ${stderr.trim()}`;
}

/** Whoever is not root is, in a user namespace of its own. */
function unshareFlags(): string[] {
  return process.getuid?.() === 0 ? ['--mount'] : ['--mount', '--map-root-user'];
}
