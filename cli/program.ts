// Owns the command line as a whole: which commands there are, help, and that every failure is one line and an exit status.
import { Command, CommanderError } from 'commander';
import { commandFirst } from './arguments.js';
import { benchCommand } from './bench/command.js';
import { clusterCommand } from './cluster.js';
import { EXIT, Failure } from './failure.js';
import type { Io } from './io.js';
import { listCommand } from './list.js';
import { pubCommand } from './pub.js';
import { subCommand } from './sub.js';
import { verifyCommand } from './verify.js';
import { packageVersion, versionCommand } from './version.js';

const HELP = `
Options stand before or after the command. The usual ones:
  --connect HOST:PORT   broker (default: 127.0.0.1:9000), also a URL: mqtt, mqtts, ws, wss
  --topic T             topic (pub), topic filter (sub, list)
  --qos N               0, 1 or 2
  --retain N            0 or 1

Environment: GOMQ_URL, GOMQ_USER, GOMQ_PASSWORD; options win.

Examples:
  gomqctl --topic A --connect 127.0.0.1:9000 sub
  gomqctl --topic A --connect 127.0.0.1:9000 pub hello world everyone
  gomqctl --topic A --connect 127.0.0.1:9000 list
  gomqctl help pub`;

/** Runs one command line, the words after the program's name. @returns the exit status */
export async function run(argv: readonly string[], io: Io): Promise<number> {
  let exitCode: number = EXIT.ok;
  const exit = (code: number) => {
    exitCode = code;
  };
  const program = new Command('gomqctl')
    .description(
      'publish and subscribe with gomq, or any other MQTT broker, and list what the log of gomq holds',
    )
    .usage('[options] COMMAND [options]')
    .version(packageVersion(), '--version', 'print the version')
    .addHelpText('after', HELP);
  for (const command of [
    pubCommand(io, exit),
    subCommand(io, exit),
    listCommand(io, exit),
    clusterCommand(io, exit),
    verifyCommand(io, exit),
    benchCommand(io, exit),
    versionCommand(io),
  ]) {
    program.addCommand(command);
  }
  program.helpCommand('help [command]', 'show what a command does and its options');
  // What commander has to say about an error is collected and put on one line.
  for (const command of [program, ...program.commands]) {
    command
      .helpOption('--help', 'show this help')
      .exitOverride()
      .configureOutput({
        writeOut: (text) => io.stdout.write(text),
        writeErr: (text) => io.stderr.write(text),
        outputError: () => undefined,
      })
      .configureHelp({ helpWidth: 110 });
  }
  try {
    await program.parseAsync(commandFirst(argv, program.commands), { from: 'user' });
    return exitCode;
  } catch (error) {
    if (error instanceof Failure) {
      io.stderr.write(`gomqctl: ${error.message}\n`);
      return error.exitCode;
    }
    if (error instanceof CommanderError) return commanderExit(error, io);
    throw error;
  }
}

function commanderExit(error: CommanderError, io: Io): number {
  // Help and version end the parsing as errors do.
  if (error.exitCode === 0) return EXIT.ok;
  // Without any word on the command line, the help has gone to stderr.
  if (error.code === 'commander.help') return EXIT.error;
  const message = error.message.replace(/^error: /, '').replaceAll('\n', ' ');
  const dash =
    error.code === 'commander.unknownOption' ? '; a message that begins with a dash goes after --' : '';
  io.stderr.write(`gomqctl: ${message}${dash}; gomqctl help shows the options\n`);
  return EXIT.error;
}
