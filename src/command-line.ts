// The command `gomq`: reads what was typed, gathers the configuration, and says in one line what was wrong with either. A user's mistake
// never shows a stack trace; a defect of gomq always does.

import { isUtf8 } from 'node:buffer';
import {
  accessSync,
  chmodSync,
  chownSync,
  constants,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createInterface } from 'node:readline';
import { type Readable, Writable } from 'node:stream';
import { Command, CommanderError, InvalidArgumentError } from 'commander';
import { stringify } from 'yaml';
import { type Config, configKeys } from './core/config.js';
import { loadConfig } from './core/config-load.js';
import { GomqError } from './core/errors.js';
import { silentLogger } from './core/logger.js';
import { version } from './core/version.js';
import { type LogCommandHost, runLogDump, runLogVerify } from './log/log-command.js';
import { createAccessControl } from './security/access-control.js';
import { hashPassword, readPasswordFile, setPasswordLine } from './security/password-file.js';
import { describeRecord } from './state/describe-record.js';

export interface CommandLineHost {
  /** Starts the broker; resolves when it is ready. */
  start(config: Config): Promise<void>;
  /** The process's own where absent. */
  env?: Readonly<Record<string, string | undefined>>;
  /** Where `gomq password` reads; `isTTY` as in the process's own. */
  stdin?: Readable & { isTTY?: boolean };
  stdout?: (text: string) => void;
  stderr?: (text: string) => void;
}

/** Something failed: an address in use, an unreadable file. */
const EXIT_FAILED = 1;
/** What was asked for makes no sense: a wrong flag, a wrong configuration. */
const EXIT_WRONG_USE = 2;
/** The length of a password in CONNECT has two bytes. */
const PASSWORD_BYTES_MAX = 65_535;
const LINE_FEED = 0x0a;
const PERMISSION_BITS = 0o777;

interface ConfigFlags {
  config?: string;
  mqtt?: string[];
  http?: string;
  data?: string;
  nodeId?: string;
  cluster?: string;
  etcd?: string[];
  peer?: string;
  set?: string[];
}

/**
 * Runs one command. `argv` is what followed the command's name.
 * @returns the exit code; after `start` 0 means that the broker is running.
 */
export async function runCommandLine(argv: readonly string[], host: CommandLineHost): Promise<number> {
  const stdout = host.stdout ?? ((text) => process.stdout.write(text));
  const stderr = host.stderr ?? ((text) => process.stderr.write(text));
  const load = ({ config: file, set, ...flags }: ConfigFlags) =>
    loadConfig({ file, env: host.env ?? process.env, flags, set });

  const program = new Command('gomq')
    .description('An MQTT 3.1, 3.1.1 and 5.0 broker.')
    .version(version)
    .helpCommand('help [command]', 'explain a command')
    .configureOutput({
      writeOut: stdout,
      writeErr: stderr,
      // Commander puts its suggestion on a second line.
      outputError: (text, write) =>
        write(
          `${text
            .trimEnd()
            .replace(/^error: /, 'gomq: ')
            .replaceAll('\n', ' ')}\n`,
        ),
    })
    .exitOverride()
    .addHelpText('after', EXAMPLES);

  const command = (name: string, description: string) =>
    program
      .command(name)
      .description(description)
      .option('-c, --config <file>', 'YAML file with the configuration')
      .option('--mqtt <host:port>', 'where to serve MQTT; may be repeated', append)
      .option('--http <host:port>', "where to serve the HTTP API; 'off' for none")
      .option('--data <dir>', 'the directory with the log and the state')
      .option('--node-id <id>', 'the name of this broker')
      .option('--cluster <name>', 'the name of the cluster that it belongs to')
      .option('--etcd <url,url>', 'where etcd is: makes it a node of a cluster; may be repeated', append)
      .option('--peer <host:port>', 'where to serve other brokers of the cluster')
      .option('--set <key.path=value>', 'set any key of the configuration; may be repeated', append);

  command('start', 'run the broker in the foreground').action(async (flags: ConfigFlags) => {
    await host.start(load(flags));
  });

  command('check-config', 'check the configuration and the files it names').action((flags: ConfigFlags) => {
    checkFiles(load(flags));
    stdout('the configuration is right\n');
  });

  command('print-config', 'print every key with its value, secrets hidden')
    .option('--json', 'as JSON rather than YAML')
    .action((flags: ConfigFlags & { json?: boolean }) => {
      const shown = hideSecrets(load(flags));
      stdout(flags.json === true ? `${JSON.stringify(shown, null, 2)}\n` : stringify(shown));
    });

  program
    .command('password')
    .description('set the password of a user in a password file, which is made where there is none')
    .argument('<file>', 'the file that auth.passwordFile names')
    .argument('<user>', 'the user name')
    .option('--delete', 'remove the user instead')
    .addHelpText(
      'after',
      '\nOn a terminal the password is asked for twice and not shown; otherwise it is the first line of stdin.',
    )
    .action(async (file: string, user: string, flags: { delete?: boolean }) => {
      if (flags.delete === true) {
        deletePasswordLine(file, user);
      } else {
        const password = await readNewPassword(host.stdin ?? process.stdin, user, stderr);
        setPasswordLine(file, user, await hashPassword(password));
      }
      const done = flags.delete === true ? 'removed' : 'wrote the password of';
      stdout(`${done} ${user} in ${file}; a running gomq reads the file again on SIGHUP\n`);
      // A line that gomq refuses makes it keep its old users, or not start at all: better to hear of it here.
      readPasswordFile(file);
    });

  let exitCode = 0;
  const logHost = (): LogCommandHost => ({
    stdout: host.stdout === undefined ? process.stdout : writableOf(host.stdout),
    stderr: host.stderr === undefined ? process.stderr : writableOf(host.stderr),
    monotonicMs: () => performance.now(),
  });
  const log = program
    .command('log')
    .description('look at the log in a data directory, also beside a running broker; changes nothing');

  log
    .command('verify')
    .description('read everything and report what is damaged; exit code 1 where anything is')
    .argument('<dir>', 'the data directory')
    .option('--json', 'one JSON object a line')
    .action(async (directory: string, flags: { json?: boolean }) => {
      exitCode = await runLogVerify(directory, flags, logHost());
    });

  log
    .command('dump')
    .description('print the records as JSON, one a line')
    .argument('<dir>', 'the data directory')
    .option('--from <offset>', 'the first offset', parseCount)
    .option('--limit <n>', 'how many records at most', parseCount)
    .action(async (directory: string, flags: { from?: number; limit?: number }) => {
      exitCode = await runLogDump(directory, { ...flags, describeRecord }, logHost());
    });

  try {
    await program.parseAsync(argv, { from: 'user' });
    return exitCode;
  } catch (error) {
    return report(error, stderr);
  }
}

function report(error: unknown, stderr: (text: string) => void): number {
  if (error instanceof CommanderError) {
    // Commander has written what it has to say; --help and --version end here too, with 0.
    return error.exitCode === 0 ? 0 : EXIT_WRONG_USE;
  }
  if (!(error instanceof GomqError) || error.code === 'INTERNAL') {
    stderr(`gomq: ${error instanceof Error ? error.stack : String(error)}\n`);
    return EXIT_FAILED;
  }
  for (const line of error.message.split('\n')) stderr(`gomq: ${line}\n`);
  if (error.code === 'CONFIG_INVALID') return EXIT_WRONG_USE;
  stderr(`      ${error.hint}\n`);
  return EXIT_FAILED;
}

/** @throws {GomqError} CONFIG_INVALID, CONFIG_UNREADABLE */
function checkFiles({ auth, listeners: { tls } }: Config): void {
  const files = {
    'auth.passwordFile': auth.passwordFile,
    'auth.aclFile': auth.aclFile,
    'listeners.tls.cert': tls.cert,
    'listeners.tls.key': tls.key,
    'listeners.tls.ca': tls.ca,
  };
  for (const [key, file] of Object.entries(files)) {
    if (file === '') continue;
    try {
      accessSync(file, constants.R_OK);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      throw new GomqError('CONFIG_UNREADABLE', `${key}: cannot read ${file}: ${code}`, { cause: error });
    }
  }
  if (auth.passwordFile !== '') readPasswordFile(auth.passwordFile);
  createAccessControl(auth.aclFile, silentLogger);
}

/**
 * Twice from a terminal, without showing it; else the first line, as it is.
 * @throws {GomqError} CONFIG_INVALID where there is none, it cannot be used, or the two differ
 */
async function readNewPassword(
  stdin: Readable & { isTTY?: boolean },
  user: string,
  stderr: (text: string) => void,
): Promise<Buffer> {
  const password = stdin.isTTY === true ? await askTwice(stdin, user, stderr) : await readFirstLine(stdin);
  if (password.length === 0)
    throw new GomqError('CONFIG_INVALID', 'no password was given; nothing is changed');
  if (password.length > PASSWORD_BYTES_MAX) {
    throw new GomqError('CONFIG_INVALID', `the password is longer than ${PASSWORD_BYTES_MAX} bytes`);
  }
  // The broker's argon2 takes no other passwords, so one that could never be right is not stored.
  if (!isUtf8(password)) throw new GomqError('CONFIG_INVALID', 'the password is not valid UTF-8');
  return password;
}

async function askTwice(stdin: Readable, user: string, stderr: (text: string) => void): Promise<Buffer> {
  // As a terminal, readline turns echoing off and edits the line itself; what it would show goes nowhere.
  const nowhere = new Writable({ write: (_chunk, _encoding, done) => done() });
  const terminal = createInterface({ input: stdin, output: nowhere, terminal: true, historySize: 0 });
  const lines = terminal[Symbol.asyncIterator]();
  const ask = async (prompt: string): Promise<string> => {
    stderr(prompt);
    const { value, done } = await lines.next();
    stderr('\n');
    return done === true ? '' : value;
  };
  try {
    const password = await ask(`password for ${user}: `);
    if (password !== '' && (await ask('once more: ')) !== password) {
      throw new GomqError('CONFIG_INVALID', 'the two passwords differ; nothing is changed');
    }
    return Buffer.from(password);
  } finally {
    terminal.close();
  }
}

async function readFirstLine(stdin: Readable): Promise<Buffer> {
  let bytes: Buffer = Buffer.alloc(0);
  for await (const chunk of stdin) {
    bytes = Buffer.concat([bytes, Buffer.from(chunk as Buffer | string)]);
    // One byte more than allowed is enough to know that it is too long.
    if (bytes.includes(LINE_FEED) || bytes.length > PASSWORD_BYTES_MAX + 1) break;
  }
  const lineFeed = bytes.indexOf(LINE_FEED);
  const line = lineFeed === -1 ? bytes : bytes.subarray(0, lineFeed);
  return line.at(-1) === 0x0d ? line.subarray(0, -1) : line;
}

/** @throws {GomqError} CONFIG_INVALID where the file has no such user, CONFIG_UNREADABLE */
function deletePasswordLine(file: string, user: string): void {
  const draft = `${file}.${process.pid}.new`;
  try {
    const lines = readFileSync(file, 'utf8').split('\n');
    // A user name may hold colons, a hash never does; a comment is nobody.
    const rest = lines.filter(
      (line) => line.startsWith('#') || line.slice(0, Math.max(line.lastIndexOf(':'), 0)) !== user,
    );
    if (user === '' || rest.length === lines.length) {
      throw new GomqError('CONFIG_INVALID', `${file} has no user '${user}'`);
    }
    const { mode, uid, gid } = statSync(file);
    // A reader sees the old file or the new one, with the owner and the rights of the old one.
    writeFileSync(draft, rest.join('\n'), { mode: 0o600, flag: 'wx', flush: true });
    if (process.getuid?.() === 0) chownSync(draft, uid, gid);
    chmodSync(draft, mode & PERMISSION_BITS);
    renameSync(draft, file);
  } catch (error) {
    if (error instanceof GomqError) throw error;
    rmSync(draft, { force: true });
    throw new GomqError('CONFIG_UNREADABLE', `cannot change ${file}: ${(error as Error).message}`, {
      cause: error,
    });
  }
}

function hideSecrets(config: Config): unknown {
  const secrets = new Set(configKeys.filter((key) => key.secret).map((key) => key.path));
  const visit = (value: unknown, path: string): unknown => {
    if (secrets.has(path)) return value === '' ? '' : '(hidden)';
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return value;
    const entries = Object.entries(value).map(([name, child]) => [
      name,
      visit(child, path === '' ? name : `${path}.${name}`),
    ]);
    return Object.fromEntries(entries);
  };
  return visit(config, '');
}

function append(value: string, previous: string[] | undefined): string[] {
  return [...(previous ?? []), value];
}

function parseCount(value: string): number {
  const count = Number(value);
  if (!/^\d+$/.test(value) || !Number.isSafeInteger(count)) {
    throw new InvalidArgumentError('expected a whole number from 0 on.');
  }
  return count;
}

function writableOf(write: (text: string) => void): Writable {
  return new Writable({
    decodeStrings: false,
    write: (chunk, _encoding, done) => {
      write(String(chunk));
      done();
    },
  });
}

const EXAMPLES = `
Examples:
  gomq start                                       MQTT on 127.0.0.1:9000, HTTP on 127.0.0.1:8000
  gomq start --mqtt 0.0.0.0:1883 --http off        every address, no HTTP
  gomq start --config gomq.yaml --set logger.level=debug
  gomq start --etcd http://127.0.0.1:2379 --node-id a --data ./a --peer 127.0.0.1:9001
                                                   one node of a cluster; two more make it whole
  GOMQ_LIMITS__CONNECTIONS=1000 gomq start         any key, from the environment
  gomq print-config --json                         every key and its value
  gomq password /etc/gomq/passwords alice          asks for alice's password
  gomq log verify ./data                           is everything in the log as it was written?
  gomq log dump ./data --from 1000 --limit 10      ten records as JSON

Exit codes: 0 fine, 1 it failed, 2 the command or the configuration is wrong.`;
