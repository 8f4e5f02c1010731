// The command `gomq`: reads what was typed, gathers the configuration, and says in one line what was wrong with either. A user's mistake
// never shows a stack trace; a defect of gomq always does.
import { accessSync, constants } from 'node:fs';
import { Command, CommanderError } from 'commander';
import { stringify } from 'yaml';
import { type Config, configKeys } from './core/config.js';
import { loadConfig } from './core/config-load.js';
import { GomqError } from './core/errors.js';
import { version } from './core/version.js';

export interface CommandLineHost {
  /** Starts the broker; resolves when it is ready. */
  start(config: Config): Promise<void>;
  /** The process's own where absent. */
  env?: Readonly<Record<string, string | undefined>>;
  stdout?: (text: string) => void;
  stderr?: (text: string) => void;
}

/** Something failed: an address in use, an unreadable file. */
const EXIT_FAILED = 1;
/** What was asked for makes no sense: a wrong flag, a wrong configuration. */
const EXIT_WRONG_USE = 2;

interface ConfigFlags {
  config?: string;
  mqtt?: string[];
  http?: string;
  set?: string[];
}

/**
 * Runs one command. `argv` is what followed the command's name.
 * @returns the exit code; after `start` 0 means that the broker is running.
 */
export async function runCommandLine(argv: readonly string[], host: CommandLineHost): Promise<number> {
  const stdout = host.stdout ?? ((text) => process.stdout.write(text));
  const stderr = host.stderr ?? ((text) => process.stderr.write(text));
  const load = ({ config: file, mqtt, http, set }: ConfigFlags) =>
    loadConfig({ file, env: host.env ?? process.env, flags: { mqtt, http }, set });

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

  try {
    await program.parseAsync(argv, { from: 'user' });
    return 0;
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

/** @throws {GomqError} CONFIG_UNREADABLE */
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

const EXAMPLES = `
Examples:
  gomq start                                       MQTT on 127.0.0.1:9000, HTTP on 127.0.0.1:8000
  gomq start --mqtt 0.0.0.0:1883 --http off        every address, no HTTP
  gomq start --config gomq.yaml --set logger.level=debug
  GOMQ_LIMITS__CONNECTIONS=1000 gomq start         any key, from the environment
  gomq print-config --json                         every key and its value

Exit codes: 0 fine, 1 it failed, 2 the command or the configuration is wrong.`;
