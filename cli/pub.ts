// Owns `gomqctl pub`: where the messages come from, and that each of them is with the broker before the command succeeds.
import { createReadStream, fstatSync, statSync } from 'node:fs';
import type { Readable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { Command, Option } from 'commander';
import type { QoS } from 'mqtt-packet';
import { type Diagnostics, diagnose } from './diagnostics.js';
import { EXIT, Failure } from './failure.js';
import type { Io } from './io.js';
import { LineSplitter, LineTooLong, PAYLOAD_BYTES_MAX } from './lines.js';
import {
  addSharedOptions,
  collect,
  connectionSettings,
  fileReason,
  parseCount,
  parseQos,
  parseSeconds,
  readFile,
  type SharedOptions,
  startEmpty,
  topicName,
} from './options.js';
import { Output } from './output.js';
import { ProgressBar } from './progress.js';
import { Publisher } from './publisher.js';

interface PubOptions extends SharedOptions {
  message?: string;
  file?: string;
  stdinLine?: boolean;
  nullMessage?: boolean;
  stdinFile?: boolean;
  retain?: string | boolean;
  repeat?: number;
  repeatDelay?: number;
}

const EXAMPLES = `
Examples:
  gomqctl --topic A pub hello world everyone
  gomqctl pub -t sensors/1/temperature -q 1 -r -m 21.5
  gomqctl --topic A --qos 1 pub -l < lines.txt          one message a line
  gomqctl -t A pub -f photo.jpg -D publish content-type image/jpeg
  gomqctl -L mqtts://user:secret@broker.example/A pub --cafile ca.pem hello
  gomqctl --connect a:9000,b:9000,c:9000 pub -t A -q 1 hello
  gomqctl --connect http://a:8000 pub -t A -q 1 hello   asks this broker for all of its cluster
  gomqctl --topic A --retain 1 pub -n                   clears the retained message of A

--retain may stand alone or before 0 or 1; a message that is a number goes into -m, or after --.
Exit status: 0, 1 for errors, 27 for a timeout, the CONNACK code where the broker refuses the connection.`;

export function pubCommand(io: Io, exit: (code: number) => void): Command {
  const command = new Command('pub')
    .description('publish messages')
    .argument('[word...]', 'the message: the words joined by a space; - or none reads stdin')
    .optionsGroup('Message:')
    .option('-t, --topic <topic>', 'topic to publish to', collect)
    .addOption(new Option('-q, --qos <qos>', 'QoS: 0, 1 or 2').argParser(parseQos).default(0 as QoS))
    .option('-r, --retain [0|1]', 'keep it as the retained message of the topic')
    .option('-m, --message <message>', 'message to publish')
    .option('-f, --file <file>', 'publish the content of a file; with -l, its lines')
    .option('-l, --stdin-line', 'publish each line of stdin as a message')
    .option('-n, --null-message', 'publish an empty message')
    .option('-s, --stdin-file', 'publish the whole of stdin as one message')
    .addOption(new Option('--repeat <count>', 'publish it so many times').argParser(parseCount))
    .addOption(new Option('--repeat-delay <seconds>', 'wait between repeats').argParser(parseSeconds))
    .addOption(
      new Option('-W, --timeout <seconds>', 'give up after so long, exit 27').argParser(parseSeconds),
    );
  startEmpty(command, 'topic');
  addSharedOptions(command);
  command.addHelpText('after', EXAMPLES);
  command.action(async (words: string[], options: PubOptions) => {
    exit(await pub(words, options, io));
  });
  return command;
}

/** What to publish: one payload, some number of times, or the lines of a stream. */
type Source =
  | { kind: 'payload'; payload: Buffer }
  | { kind: 'stdin' }
  | { kind: 'lines'; open: () => Readable; bytes: number | undefined };

async function pub(words: string[], options: PubOptions, io: Io): Promise<number> {
  const diagnostics = diagnose(io, options);
  const settings = connectionSettings(options, io);
  const topic = topicName(options);
  const publication = { topic, qos: options.qos, retain: parseRetain(options.retain) };
  const source = chooseSource(words, options, io);
  const ending = new AbortController();
  const publisher = new Publisher(publication, settings, () => ending.abort());
  const counts = { published: 0, bytes: 0, read: 0 };
  const startedMs = performance.now();
  const onSignal = () =>
    publisher.stop(new Failure(`interrupted, ${publisher.taken} messages are published`, EXIT.interrupted));
  const onTimeout = () => {
    publisher.stop(
      new Failure(
        `timed out after ${options.timeout} s, ${publisher.taken} messages are published`,
        EXIT.timeout,
      ),
    );
  };
  io.signal.addEventListener('abort', onSignal);
  if (io.signal.aborted) onSignal();
  const timeout = options.timeout === undefined ? undefined : setTimeout(onTimeout, options.timeout * 1000);
  let bar: ProgressBar | undefined;
  let failure: Failure | undefined;
  try {
    const payload = source.kind === 'stdin' ? await readAll(io, diagnostics, ending.signal) : undefined;
    await publisher.open(ending.signal, (line) => {
      bar?.clear();
      diagnostics.notice(line);
    });
    if (io.stderr.isTTY && !options.quiet) {
      bar = new ProgressBar(io.stderr, () => ({
        messages: publisher.taken,
        bytes: counts.read,
        elapsedMs: performance.now() - startedMs,
        ...(source.kind === 'lines'
          ? source.bytes === undefined
            ? {}
            : { bytesTotal: source.bytes }
          : { messagesTotal: options.repeat ?? 1 }),
      }));
    }
    if (source.kind === 'lines') {
      await publishLines(source.open(), publisher, counts, ending.signal);
    } else {
      await publishRepeated(
        source.kind === 'payload' ? source.payload : payload!,
        publisher,
        options,
        counts,
        ending.signal,
      );
    }
    await publisher.drain();
  } catch (error) {
    failure = publisher.failure ?? asFailure(error);
  } finally {
    clearTimeout(timeout);
    bar?.finish();
    io.signal.removeEventListener('abort', onSignal);
    await publisher.close();
  }
  if (failure !== undefined) diagnostics.error(failure.message);
  if (options.json) {
    const output = new Output(io.stdout, () => undefined);
    const seconds = Math.round(performance.now() - startedMs) / 1000;
    const summary = {
      ...publication,
      published: counts.published,
      acknowledged: publisher.taken,
      bytes: counts.bytes,
      seconds,
    };
    output.text(
      `${JSON.stringify(failure === undefined ? summary : { ...summary, error: failure.message })}\n`,
    );
    await output.end();
  }
  return failure?.exitCode ?? EXIT.ok;
}

function asFailure(error: unknown): Failure {
  if (error instanceof Failure) return error;
  if (error instanceof LineTooLong) return new Failure(`${error.message}, more than an MQTT packet holds`);
  throw error;
}

/** `--retain`, `--retain 1` and `--retain 0`; what follows is a value only if it is a number. */
export function parseRetain(value: string | boolean | undefined): boolean {
  if (value === undefined || value === false || value === '0') return false;
  if (value === true || value === '1') return true;
  throw new Failure(
    `--retain is 0 or 1, not "${value}"; a message that is a number goes into -m, or after --`,
  );
}

function chooseSource(words: string[], options: PubOptions, io: Io): Source {
  const lines = options.stdinLine === true;
  const given = [
    options.message === undefined ? undefined : '-m',
    options.file === undefined ? undefined : '-f',
    lines && options.file === undefined ? '-l' : undefined,
    options.nullMessage ? '-n' : undefined,
    options.stdinFile ? '-s' : undefined,
    words.length > 0 ? (words.length === 1 && words[0] === '-' ? '-' : 'words') : undefined,
  ].filter((name) => name !== undefined);
  // `pub -l -` says twice that stdin is the input, which is clear enough.
  const sameInput = given.length === 2 && given[1] === '-' && (given[0] === '-l' || given[0] === '-s');
  if (given.length > 1 && !sameInput) {
    throw new Failure(`only one kind of message at once, not ${given.join(' and ')}`);
  }
  if (options.repeat !== undefined && lines) throw new Failure('--repeat does not go with -l');
  if (options.repeatDelay !== undefined && options.repeat === undefined) {
    throw new Failure('--repeat-delay needs --repeat');
  }
  if (options.message !== undefined) return payloadSource(Buffer.from(options.message));
  if (options.nullMessage) return payloadSource(Buffer.alloc(0));
  if (options.file !== undefined) {
    const { file } = options;
    if (lines) {
      const bytes = fileBytes(file);
      return { kind: 'lines', open: () => createReadStream(file), bytes };
    }
    if ((fileBytes(file) ?? 0) > PAYLOAD_BYTES_MAX) {
      throw new Failure(
        `${file} is larger than an MQTT packet holds (256 MiB); with -l its lines are messages`,
      );
    }
    return payloadSource(readFile('-f', file));
  }
  if (lines) return { kind: 'lines', open: () => io.stdin, bytes: stdinBytes(io) };
  if (words.length > 0 && given[0] === 'words') return payloadSource(Buffer.from(words.join(' ')));
  return { kind: 'stdin' };
}

function payloadSource(payload: Buffer): Source {
  if (payload.length > PAYLOAD_BYTES_MAX)
    throw new Failure('the message is larger than an MQTT packet holds (256 MiB)');
  return { kind: 'payload', payload };
}

function fileBytes(file: string): number | undefined {
  try {
    const stat = statSync(file);
    return stat.isFile() ? stat.size : undefined;
  } catch (error) {
    throw new Failure(`-f: cannot read ${file}: ${fileReason(error)}`, undefined, error);
  }
}

/** The size of stdin where it is a file, `-l < FILE`. */
function stdinBytes(io: Io): number | undefined {
  if (io.stdin.fd === undefined) return undefined;
  try {
    const stat = fstatSync(io.stdin.fd);
    return stat.isFile() ? stat.size : undefined;
  } catch {
    return undefined;
  }
}

async function readAll(io: Io, diagnostics: Diagnostics, signal: AbortSignal): Promise<Buffer> {
  if (io.stdin.isTTY) diagnostics.notice('reading the message from the terminal; end it with Ctrl-D');
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of abortable(io.stdin, signal)) {
    bytes += chunk.length;
    if (bytes > PAYLOAD_BYTES_MAX)
      throw new Failure('stdin is larger than an MQTT packet holds (256 MiB); -l publishes its lines');
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

interface Counts {
  published: number;
  bytes: number;
  read: number;
}

async function publishLines(
  input: Readable,
  publisher: Publisher,
  counts: Counts,
  signal: AbortSignal,
): Promise<void> {
  const splitter = new LineSplitter();
  const publishAll = async (lines: Generator<Buffer>) => {
    for (const line of lines) {
      if (!publisher.tryPublish(line)) await publisher.publish(line);
      counts.published++;
      counts.bytes += line.length;
    }
  };
  for await (const chunk of abortable(input, signal)) {
    await publishAll(splitter.push(chunk));
    counts.read += chunk.length;
  }
  await publishAll(splitter.end());
}

async function publishRepeated(
  payload: Buffer,
  publisher: Publisher,
  options: PubOptions,
  counts: Counts,
  signal: AbortSignal,
): Promise<void> {
  const repeat = options.repeat ?? 1;
  const delayMs = (options.repeatDelay ?? 0) * 1000;
  for (let i = 0; i < repeat; i++) {
    if (i > 0 && delayMs > 0) {
      // The delay counts from the moment the message before was delivered.
      await publisher.drain();
      await delay(delayMs, undefined, { signal }).catch(() => undefined);
    }
    if (!publisher.tryPublish(payload)) await publisher.publish(payload);
    counts.published++;
    counts.bytes += payload.length;
    // An endless loop without a pause would keep timers and signals waiting.
    if (i % 1000 === 999) await new Promise((resolve) => setImmediate(resolve));
  }
}

/** The chunks of a stream until it ends or the signal ends the reading. */
async function* abortable(input: Readable, signal: AbortSignal): AsyncGenerator<Buffer> {
  const onAbort = () => input.destroy();
  signal.addEventListener('abort', onAbort);
  try {
    if (signal.aborted) return;
    for await (const chunk of input) yield typeof chunk === 'string' ? Buffer.from(chunk) : (chunk as Buffer);
  } catch (error) {
    if (signal.aborted) return;
    throw new Failure(`cannot read the input: ${fileReason(error)}`, undefined, error);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}
