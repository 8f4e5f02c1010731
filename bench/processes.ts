// Owns every process that the benchmark starts: each is remembered with its id and ended by it, also when the benchmark is interrupted.
import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';

const running = new Set<ChildProcess>();
let isStopping = false;

export function start(file: string, args: readonly string[], options: SpawnOptions = {}): ChildProcess {
  if (isStopping) throw new Error('the benchmark is being stopped');
  const child = spawn(file, args, { stdio: ['ignore', 'pipe', 'pipe'], ...options });
  running.add(child);
  child.once('exit', () => running.delete(child));
  child.once('error', () => running.delete(child));
  return child;
}

/** Runs to the end; answers what it printed. */
export function run(
  file: string,
  args: readonly string[],
  options: SpawnOptions = {},
): Promise<{ code: number; out: string; err: string }> {
  return new Promise((resolve, reject) => {
    const child = start(file, args, options);
    const output = collect(child);
    child.once('error', reject);
    child.once('close', (code) => resolve({ code: code ?? 1, ...output }));
  });
}

/** Gathers what a process prints, the newest part of it, in the object returned. */
export function collect(child: ChildProcess): { out: string; err: string } {
  const output = { out: '', err: '' };
  const keep = 1024 * 1024;
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    output.out = (output.out + text).slice(-keep);
  });
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    output.err = (output.err + text).slice(-keep);
  });
  return output;
}

/** Asks a process to end and waits; after five seconds it is made to. */
export async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  child.kill('SIGTERM');
  const force = setTimeout(() => child.kill('SIGKILL'), 5000);
  await ended;
  clearTimeout(force);
}

/** Ends a process as a crash does, and waits. */
export async function kill(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return;
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  child.kill('SIGKILL');
  await ended;
}

/** Ends every process that was started, and lets none be started any more. */
export async function stopAll(): Promise<void> {
  isStopping = true;
  await Promise.all([...running].map(stop));
}

/** Resident memory in bytes; undefined where /proc does not tell. */
export function residentBytes(pid: number): number | undefined {
  try {
    const match = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
    return match === null ? undefined : Number(match[1]) * 1024;
  } catch {
    return undefined;
  }
}

/** Clock ticks per second of /proc; 100 on every Linux that Node runs on. */
const TICKS_PER_SECOND = 100;

/** Processor time that a process has used, in seconds; undefined where /proc does not tell. */
export function cpuSeconds(pid: number): number | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The command name stands in parentheses and may hold anything, so fields are counted from its end.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
  } catch {
    return undefined;
  }
}

/** Processor time that the whole machine has used since it started, in seconds; undefined where /proc does not tell. */
export function machineCpuSeconds(): number | undefined {
  try {
    const fields = readFileSync('/proc/stat', 'utf8')
      .split('\n')[0]!
      .trim()
      .split(/\s+/)
      .slice(1)
      .map(Number);
    const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0, steal = 0] = fields;
    return (user + nice + system + irq + softirq + steal) / TICKS_PER_SECOND;
  } catch {
    return undefined;
  }
}
