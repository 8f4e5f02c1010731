// Owns `gomqctl list`: prints what the log of a broker holds for a topic, oldest first, and ends where history ended when it asked. Nothing is
// gathered: a message is printed, then acknowledged, and while nobody reads the output the broker sends no more.
//
//     SUBSCRIBE $replay/FROM/FILTER, gomq-replay-end = 1  -->  SUBACK gomq-end-offset, messages, an empty message under the same text
import { Command, Option } from 'commander';
import type { MqttClient } from 'mqtt';
import type { IConnackPacket, IPublishPacket, ISubackPacket, UserProperties } from 'mqtt-packet';
import { parseFilter } from '../src/router/topic-name.js';
import { Connection, NotTaken, onceReaderIsBack } from './connection.js';
import { type Diagnostics, diagnose } from './diagnostics.js';
import { EXIT, Failure } from './failure.js';
import type { Io } from './io.js';
import { Columns, formatJson, type ListedMessage } from './list-format.js';
import {
  addConnectionOptions,
  addOutputOptions,
  addTlsOptions,
  areSeveral,
  type ConnectionSettings,
  collect,
  connectionSettings,
  parseCount,
  parseQos,
  parseSeconds,
  type SharedOptions,
  startEmpty,
} from './options.js';
import { Output, outputFailure } from './output.js';
import { describeReason } from './reasons.js';

interface ListOptions extends SharedOptions {
  from?: string;
  limit?: number;
  retained?: boolean;
  retain?: string | boolean;
  full?: boolean;
}

const EXAMPLES = `
FROM is where history begins:
  earliest               the oldest message that the log holds (the default)
  1234                   an offset
  -1h, -90s, -1d12h      so long ago; units are ms, s, m, h, d, w
  2026-01-31T12:00:00Z   a time, as RFC 3339 writes it

Examples:
  gomqctl --topic A --connect 127.0.0.1:9000 list
  gomqctl list A
  gomqctl list 'sensors/#' --from -1h --limit 20
  gomqctl list 'sensors/#' --retained                    the retained messages, topic by topic
  gomqctl list A --json | jq -r .payload

The log has what was published at QoS 1 and 2, and retained messages of QoS 0, as far back as retention lets it reach.
Exit status: 0, 1 for errors, 27 for a timeout, 130 after Ctrl-C, the CONNACK code where the broker refuses the connection.`;

export function listCommand(io: Io, exit: (code: number) => void): Command {
  const command = new Command('list')
    .description('print what the log of the broker holds for a topic, oldest first')
    .argument('[filter...]', 'topic or topic filter')
    .optionsGroup('Selection:')
    .option('-t, --topic <filter>', 'topic or topic filter', collect)
    .option('--from <from>', 'begin there: earliest, OFFSET, -DURATION or TIME (default: earliest)')
    .addOption(new Option('--limit <count>', 'end after so many messages').argParser(parseCount))
    .option('--retained', 'only the retained messages, as they are now')
    .addOption(new Option('-W, --timeout <seconds>', 'exit 27 after so long').argParser(parseSeconds))
    .addOption(new Option('-q, --qos <qos>', 'has no meaning here').argParser(parseQos).hideHelp())
    .addOption(new Option('-r, --retain [0|1]', 'has no meaning here').hideHelp());
  startEmpty(command, 'topic');
  addConnectionOptions(command);
  addTlsOptions(command);
  addOutputOptions(command)
    .option('--full', 'show payloads whole, however long')
    .addHelpText('after', EXAMPLES);
  command.action(async (words: string[], options: ListOptions) => {
    exit(await list({ ...options, topic: [...options.topic, ...words] }, io));
  });
  return command;
}

async function list(options: ListOptions, io: Io): Promise<number> {
  const diagnostics = diagnose(io, options);
  const settings = connectionSettings(options, io);
  const subscription = chooseSubscription(options);
  if (settings.version !== 5) throw new Failure('list needs MQTT 5; leave out -V or use -V 5');
  for (const name of ['qos', 'retain'] as const) {
    if (options[name] === undefined) continue;
    const instead = name === 'retain' ? '; --retained lists the retained messages' : '';
    diagnostics.notice(`--${name} has no meaning for list${instead}`);
  }
  const lister = new Lister(options, settings, subscription, io, diagnostics);
  const failure = await lister.run();
  if (failure !== undefined) diagnostics.error(failure.message);
  return failure?.exitCode ?? EXIT.ok;
}

interface ListSubscription {
  /** `$replay/FROM/FILTER` */
  readonly text: string;
  readonly filter: string;
}

/** @throws {Failure} unless there is one filter, and a beginning that is one */
function chooseSubscription({ topic: filters, from, retained }: ListOptions): ListSubscription {
  const [filter, ...more] = new Set(filters);
  if (filter === undefined) throw new Failure('no topic; add --topic FILTER, as in: gomqctl --topic A list');
  if (more.length > 0) {
    const all = [filter, ...more].map((one) => `"${one}"`).join(' and ');
    throw new Failure(`list takes one topic filter, not ${all}; a filter with + or # covers several topics`);
  }
  if (retained && from !== undefined) {
    throw new Failure('--retained shows the retained messages whatever their time; leave out --from');
  }
  const alone = parseFilter(filter);
  if (typeof alone === 'string') throw new Failure(`--topic "${filter}": ${alone}`);
  if (alone.group !== undefined || alone.replay !== undefined) {
    throw new Failure(`--topic "${filter}": list takes a plain filter; --from says where history begins`);
  }
  const begin = retained ? 'retained' : (from ?? 'earliest');
  const parsed = parseFilter(`$replay/${begin}/${filter}`);
  // A slash would end it and begin the filter.
  if (typeof parsed === 'string' || parsed.filter !== filter || parsed.replay === undefined) {
    throw new Failure(
      `--from "${begin}" is no beginning; use earliest, an offset, a duration like -1h30m or a time like 2026-01-31T12:00:00Z`,
    );
  }
  // A time zone has a plus sign, which does not belong into a filter.
  const { replay } = parsed;
  const level = replay.kind === 'time' ? new Date(replay.timestampMs).toISOString() : begin;
  return { text: `$replay/${level}/${filter}`, filter };
}

class Lister {
  readonly #options: ListOptions;
  readonly #settings: ConnectionSettings;
  readonly #subscription: ListSubscription;
  readonly #io: Io;
  readonly #diagnostics: Diagnostics;
  readonly #output: Output;
  readonly #ending = new AbortController();
  #client: MqttClient | undefined;
  /** Where history ended when the broker was asked; undefined until it has said so. */
  #endOffset: number | undefined;
  #format: ((message: ListedMessage) => string) | undefined;
  #brokerName = '';
  /** What is subscribed to: after a failover, what is left of it. */
  #text = '';
  #printed = 0;
  #lastOffset = -1;
  #failure: Failure | undefined;

  constructor(
    options: ListOptions,
    settings: ConnectionSettings,
    subscription: ListSubscription,
    io: Io,
    diagnostics: Diagnostics,
  ) {
    this.#options = options;
    this.#settings = settings;
    this.#subscription = subscription;
    this.#io = io;
    this.#diagnostics = diagnostics;
    this.#output = new Output(io.stdout, (error) => this.#finish(outputFailure(error)));
  }

  get #ended(): boolean {
    return this.#ending.signal.aborted;
  }

  /** Runs until the end; what went wrong, or undefined. */
  async run(): Promise<Failure | undefined> {
    const { timeout } = this.#options;
    const { signal } = this.#ending;
    const ended = new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()));
    const onSignal = () => this.#finish(new Failure('interrupted', EXIT.interrupted));
    this.#io.signal.addEventListener('abort', onSignal);
    if (this.#io.signal.aborted) onSignal();
    const onTimeout = () => this.#finish(new Failure(`timed out after ${timeout} s`, EXIT.timeout));
    const timer = timeout === undefined ? undefined : setTimeout(onTimeout, timeout * 1000);
    let connection: Connection | undefined;
    try {
      connection = await this.#open();
      await ended;
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      // What ended the command first is its result: a timeout while connecting is a timeout.
      if (!this.#ended) this.#failure = error;
    } finally {
      clearTimeout(timer);
      this.#io.signal.removeEventListener('abort', onSignal);
      await connection?.close();
      await this.#output.end();
    }
    return this.#failure;
  }

  #open(): Promise<Connection> {
    const listener = {
      onCreated: (client: MqttClient) => this.#listen(client),
      onUp: (_connack: IConnackPacket, _first: boolean, name: string) => {
        this.#brokerName = name;
        this.#subscribe();
      },
      // The broker forgets what was listed; whoever wants the rest knows from where. Another broker of the cluster has the same log.
      onDown: () => {
        if (this.#options.retained || !areSeveral(this.#settings)) {
          this.#finish(new Failure(`lost the connection; ${this.#howToGoOn()}`));
        }
      },
      onFailed: (failure: Failure) => this.#finish(failure),
      onNotice: (line: string) => this.#diagnostics.notice(line),
    };
    return Connection.open(this.#settings, { resume: false }, listener, this.#ending.signal);
  }

  #howToGoOn(): string {
    if (this.#options.retained || this.#lastOffset === -1) return 'try again';
    return `--from ${this.#lastOffset + 1} goes on behind the last message that was printed`;
  }

  #finish(failure?: Failure): void {
    if (this.#ended) return;
    this.#failure = failure;
    this.#ending.abort();
  }

  #listen(client: MqttClient): void {
    this.#client = client;
    // Called when a message of QoS 1 or 2 arrives; it is acknowledged, and the next one is read, when this calls back. One of QoS 2 is printed
    // here and not at its PUBREL, so that the order stays that of the log: on one connection it comes once.
    client.options.customHandleAcks = (topic, payload, packet: IPublishPacket, callback) => {
      this.#take(topic, payload, packet, (error) => (error === undefined ? callback(0) : callback(error)));
    };
    // MQTT.js calls back about SUBACK only after what comes right behind it.
    client.on('packetreceive', (packet) => {
      if (packet.cmd === 'suback') this.#onSuback(packet);
    });
    client.on('message', (topic, payload, packet) => {
      if (packet.qos === 0) this.#onMessage(topic, payload, packet);
    });
    client.handleMessage = (_packet, callback) => this.#whenRead(client, callback);
  }

  #take(
    topic: string,
    payload: Buffer,
    packet: IPublishPacket,
    callback: (error: Error | undefined) => void,
  ): void {
    this.#onMessage(topic, payload, packet);
    this.#whenRead(this.#client!, callback);
  }

  #whenRead(client: MqttClient, callback: (error?: Error) => void): void {
    if (this.#ended) callback(new NotTaken());
    else if (!this.#output.blocked) callback();
    else onceReaderIsBack(this.#output, client, callback);
  }

  #subscribe(): void {
    const { text, filter } = this.#subscription;
    const options = {
      // The highest, so that each message comes at the QoS that it has.
      qos: 2,
      // Without it, what is sent because it is retained is told from what is published meanwhile.
      rap: this.#options.retained !== true,
      properties: { userProperties: { 'gomq-replay-end': '1' } },
    } as const;
    this.#text = this.#printed === 0 ? text : `$replay/${this.#lastOffset + 1}/${filter}`;
    this.#client?.subscribe(this.#text, options, (error) => {
      // What SUBACK refuses is told of already, and a connection that was lost by that.
      if (error && this.#client?.connected) this.#finish(new Failure(`cannot subscribe: ${error.message}`));
    });
  }

  #onSuback({ granted, properties }: ISubackPacket): void {
    const { filter } = this.#subscription;
    const [code] = granted;
    if (typeof code === 'number' && code >= 0x80) {
      this.#finish(
        new Failure(`the broker refused to list "${filter}": ${describeReason(code, properties)}`),
      );
      return;
    }
    const endOffset = numberOf(properties?.userProperties, 'gomq-end-offset');
    if (endOffset === undefined) {
      this.#finish(
        new Failure(
          `the broker at ${this.#brokerName} is not gomq: it keeps no history that could be listed`,
        ),
      );
      return;
    }
    // It may have been asked before, at another broker: that is where the list ends.
    if (this.#endOffset !== undefined) return;
    this.#endOffset = endOffset;
    if (this.#options.json) {
      this.#format = formatJson;
      return;
    }
    const topic = /[+#]/.test(filter) ? undefined : filter;
    const columns = new Columns(endOffset, topic, this.#options.full === true);
    this.#format = (message) => columns.format(message);
  }

  #onMessage(topic: string, payload: Buffer, packet: IPublishPacket): void {
    if (this.#ended || this.#endOffset === undefined || this.#format === undefined) return;
    if (topic === this.#text) {
      if (this.#printed === 0) this.#diagnostics.notice(this.#nothing());
      this.#finish();
      return;
    }
    const { userProperties } = packet.properties ?? {};
    const offset = numberOf(userProperties, 'gomq-offset');
    const time = textOf(userProperties, 'gomq-timestamp') ?? '';
    // What is published meanwhile is not what was asked for.
    if (offset === undefined || (this.#options.retained ? !packet.retain : offset >= this.#endOffset)) return;
    this.#output.text(this.#format({ offset, time, topic, qos: packet.qos, retain: packet.retain, payload }));
    this.#printed++;
    this.#lastOffset = offset;
    if (this.#printed === this.#options.limit) this.#finish();
  }

  #nothing(): string {
    const { filter } = this.#subscription;
    const { from, retained } = this.#options;
    if (retained) return `there is no retained message for "${filter}"`;
    // At QoS 0, which `pub` has unless told otherwise, nothing is kept.
    const kept = 'only messages of QoS 1 and 2 and retained ones are kept';
    return `the log holds nothing for "${filter}"${from === undefined ? '' : ` from ${from} on`}; ${kept}`;
  }
}

function numberOf(properties: UserProperties | undefined, name: string): number | undefined {
  const text = textOf(properties, name);
  return text !== undefined && /^\d{1,16}$/.test(text) ? Number(text) : undefined;
}

/** The publisher may have given a property of that name as well: the broker's comes last. */
function textOf(properties: UserProperties | undefined, name: string): string | undefined {
  return [properties?.[name]].flat().at(-1);
}
