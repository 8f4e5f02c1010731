// Owns what commander cannot express: options that may stand before the command as well as after it, `--retain` with or without its
// number, and `-D` with its three or four words. The result is a plain command line, the command first, that commander parses.
import type { Command, Option } from 'commander';
import { Failure } from './failure.js';
import { valueCount } from './properties.js';

/** One thing on the command line: an option with its value, or a word. */
type Item =
  | { kind: 'option'; option: Option; value: string | undefined }
  | { kind: 'unknown'; token: string }
  | { kind: 'word'; token: string };

/** Reads options the way the command that they belong to declares them; the whole line after `--` is words. */
class Scanner {
  readonly #tokens: readonly string[];
  readonly #byFlag = new Map<string, Option>();
  #at = 0;
  /** True once `--` has been passed. */
  wordsOnly = false;

  constructor(tokens: readonly string[], options: readonly Option[]) {
    this.#tokens = tokens;
    for (const option of options) {
      if (option.short !== undefined) this.#byFlag.set(option.short, option);
      if (option.long !== undefined) this.#byFlag.set(option.long, option);
      if (option.long === '--password') this.#byFlag.set('--pw', option); // as mosquitto spells it
    }
  }

  /** How many tokens have been read. */
  get position(): number {
    return this.#at;
  }

  next(): Item[] | undefined {
    const token = this.#tokens[this.#at++];
    if (token === undefined) return undefined;
    if (this.wordsOnly || token === '-' || !token.startsWith('-')) return [{ kind: 'word', token }];
    if (token === '--') {
      this.wordsOnly = true;
      return this.next();
    }
    return token.startsWith('--') ? [this.#long(token)] : this.#cluster(token);
  }

  #long(token: string): Item {
    const equals = token.indexOf('=');
    const option = this.#byFlag.get(equals === -1 ? token : token.slice(0, equals));
    if (option === undefined) return { kind: 'unknown', token };
    return this.#withValue(option, equals === -1 ? undefined : token.slice(equals + 1));
  }

  /** `-rq1` is `-r -q 1`, and `-q 1` or `-q1` are the same. */
  #cluster(token: string): Item[] {
    const items: Item[] = [];
    for (let i = 1; i < token.length; i++) {
      const option = this.#byFlag.get(`-${token[i]}`);
      if (option === undefined) return [{ kind: 'unknown', token }];
      const rest = token.slice(i + 1);
      if (option.required || (option.optional && /^\d*$/.test(rest))) {
        items.push(this.#withValue(option, rest === '' ? undefined : rest.replace(/^=/, '')));
        return items;
      }
      items.push({ kind: 'option', option, value: undefined });
    }
    return items;
  }

  #withValue(option: Option, attached: string | undefined): Item {
    if (isProperty(option)) return this.#property(option, attached);
    if (attached !== undefined) return { kind: 'option', option, value: attached };
    const following = this.#tokens[this.#at];
    // A number after `--retain` is its value; any other word after it is not, so `--retain pub` publishes.
    const takes =
      option.required || (option.optional && following !== undefined && takesAsValue(option, following));
    if (!takes || following === undefined) return { kind: 'option', option, value: undefined };
    this.#at++;
    return { kind: 'option', option, value: following };
  }

  #property(option: Option, attached: string | undefined): Item {
    const words = attached === undefined ? [] : [attached];
    while (words.length < 2 || words.length < 2 + valueCount(words[1]!)) {
      const word = this.#tokens[this.#at];
      if (word === undefined) {
        throw new Failure(
          '-D needs COMMAND PROPERTY VALUE, as in -D publish content-type text/plain, and two values for user-property',
        );
      }
      this.#at++;
      words.push(word);
    }
    return { kind: 'option', option, value: JSON.stringify(words) };
  }
}

function isProperty(option: Option): boolean {
  return option.short === '-D' && option.long === '--property';
}

function isRetain(option: Option): boolean {
  return option.long === '--retain' && option.optional;
}

function takesAsValue(option: Option, following: string): boolean {
  return isRetain(option) ? /^-?\d+$/.test(following) : !following.startsWith('-');
}

/** Puts the command first and each option into the one form `--name=value` that has a single reading. */
export function commandFirst(argv: readonly string[], commands: readonly Command[]): string[] {
  const names = commands.map((command) => command.name());
  for (const command of commands) {
    const at = firstWord(argv, command.options);
    if (at !== -1 && argv[at] === command.name()) return [command.name(), ...normalise(argv, at, command)];
  }
  // No command stands where one belongs, or an option before it is unknown. With the command first, commander says what is wrong
  // and names the nearest option.
  const at = argv.findIndex((token) => names.includes(token));
  if (at > 0 && argv[0] !== 'help') return [argv[at]!, ...argv.slice(0, at), ...argv.slice(at + 1)];
  const meantForHelp =
    argv.length === 0 || argv.some((token) => ['help', '--help', '--version'].includes(token));
  if (meantForHelp || !argv[0]!.startsWith('-')) return [...argv];
  const word =
    argv[
      firstWord(
        argv,
        commands.flatMap((command) => command.options),
      )
    ];
  const what = word === undefined ? 'no command given' : `unknown command '${word}'`;
  throw new Failure(`${what}; use one of ${names.join(', ')}, help`);
}

/** The index of the first word, or -1 where there is none or an option before it is none of these. */
function firstWord(argv: readonly string[], options: readonly Option[]): number {
  const scanner = new Scanner(argv, options);
  for (let items = scanner.next(); items !== undefined; items = scanner.next()) {
    for (const item of items) {
      if (item.kind === 'unknown') return -1;
      if (item.kind === 'word') return scanner.wordsOnly ? -1 : scanner.position - 1;
    }
  }
  return -1;
}

function normalise(argv: readonly string[], commandAt: number, command: Command): string[] {
  const options: string[] = [];
  const words: string[] = [];
  const scanner = new Scanner([...argv.slice(0, commandAt), ...argv.slice(commandAt + 1)], command.options);
  for (let items = scanner.next(); items !== undefined; items = scanner.next()) {
    for (const item of items) {
      if (item.kind === 'word') words.push(item.token);
      else if (item.kind === 'unknown') options.push(item.token);
      else options.push(canonical(item.option, item.value));
    }
  }
  // Everything after `--` is a word to commander as well, so a message may begin with a dash.
  return words.length === 0 ? options : [...options, '--', ...words];
}

function canonical(option: Option, value: string | undefined): string {
  const name = option.long ?? option.short!;
  return value === undefined ? name : `${name}=${value}`;
}
