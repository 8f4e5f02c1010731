// Owns the progress bar of long publishing. It appears only on a terminal and only when the work takes longer than a blink, and it
// leaves one finished line behind.
import type { Terminal } from './io.js';

const FIRST_MS = 500;
const EVERY_MS = 100;
const BAR_MAX = 30;

export interface ProgressState {
  /** Messages the broker has taken. */
  messages: number;
  /** Messages expected, where that is known. */
  messagesTotal?: number;
  /** Bytes read from the input. */
  bytes: number;
  /** Bytes of the input, where it is a file. */
  bytesTotal?: number;
  elapsedMs: number;
}

/** One line of at most `columns` characters. */
export function renderProgress(state: ProgressState, columns: number): string {
  const rate = state.elapsedMs > 0 ? Math.round((state.messages * 1000) / state.elapsedMs) : 0;
  const counts = `${grouped(state.messages)} messages  ${grouped(rate)} msg/s`;
  const share = fraction(state);
  if (share === undefined) return fit(`${counts}  ${formatBytes(state.bytes)}`, columns);
  const percent = `${Math.floor(share * 100)}%`.padStart(4);
  const room = columns - percent.length - counts.length - 5;
  if (room < 5) return fit(`${percent} ${counts}`, columns);
  const cells = Math.min(room, BAR_MAX);
  const full = Math.floor(share * cells);
  return fit(`${percent} [${'#'.repeat(full)}${'-'.repeat(cells - full)}] ${counts}`, columns);
}

function fraction(state: ProgressState): number | undefined {
  if (state.bytesTotal !== undefined && state.bytesTotal > 0)
    return Math.min(1, state.bytes / state.bytesTotal);
  if (state.messagesTotal !== undefined && state.messagesTotal > 0) {
    return Math.min(1, state.messages / state.messagesTotal);
  }
  return undefined;
}

/** What stays on the screen at the end. */
export function renderSummary(state: ProgressState): string {
  const seconds = state.elapsedMs / 1000;
  const rate = seconds > 0 ? Math.round(state.messages / seconds) : 0;
  return `${grouped(state.messages)} messages in ${seconds.toFixed(1)} s, ${grouped(rate)} msg/s`;
}

function fit(line: string, columns: number): string {
  return line.slice(0, Math.max(0, columns - 1));
}

function grouped(value: number): string {
  return value.toLocaleString('en-US');
}

export function formatBytes(bytes: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
}

export class ProgressBar {
  readonly #terminal: Terminal;
  readonly #state: () => ProgressState;
  #timer: NodeJS.Timeout | undefined;
  #shown = false;

  constructor(terminal: Terminal, state: () => ProgressState) {
    this.#terminal = terminal;
    this.#state = state;
    this.#timer = setTimeout(() => {
      this.#draw();
      this.#timer = setInterval(() => this.#draw(), EVERY_MS);
      this.#timer.unref();
    }, FIRST_MS);
    this.#timer.unref();
  }

  #draw(): void {
    this.#shown = true;
    this.#terminal.write(`\r\x1b[K${renderProgress(this.#state(), this.#terminal.columns ?? 80)}`);
  }

  /** Takes the bar away so that another line can be written; the next tick draws it again. */
  clear(): void {
    if (this.#shown) this.#terminal.write('\r\x1b[K');
  }

  /** Replaces the bar, if it was ever shown, by the summary. */
  finish(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (!this.#shown) return;
    this.#terminal.write(`\r\x1b[K${renderSummary(this.#state())}\n`);
    this.#shown = false;
  }
}
