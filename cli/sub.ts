// Owns `gomqctl sub`: subscribes, prints what arrives, and stops after a count, a time, a signal, or when nobody reads its output.
import { setTimeout as delay } from 'node:timers/promises';
import { Command, Option } from 'commander';
import type { IClientSubscribeOptions, MqttClient } from 'mqtt';
import type { IConnackPacket, IPublishPacket, ISubackPacket, QoS } from 'mqtt-packet';
import { Connection, NotTaken, onceReaderIsBack } from './connection.js';
import { type Diagnostics, diagnose } from './diagnostics.js';
import { EXIT, Failure } from './failure.js';
import { matchesFilter } from './filter.js';
import { createFormatter, type Formatter, type Message } from './format.js';
import type { Io } from './io.js';
import {
  addSharedOptions,
  areSeveral,
  type ConnectionSettings,
  checkFilters,
  collect,
  connectionSettings,
  keepForResuming,
  parseCount,
  parseQos,
  parseSeconds,
  type SharedOptions,
  startEmpty,
} from './options.js';
import { Output, outputFailure } from './output.js';
import { describeReason } from './reasons.js';

interface SubOptions extends SharedOptions {
  retain?: string | boolean;
  count?: number;
  exitAfterSubscribe?: boolean;
  verbose?: boolean;
  format?: string;
  pretty?: boolean;
  newline: boolean;
  skipRetained?: boolean;
  retainedOnly?: boolean;
  removeRetained?: boolean;
  retainAsPublished?: boolean;
  retainHandling?: 'always' | 'new' | 'never';
  local: boolean;
  filterOut: string[];
  unsubscribe: string[];
}

const EXAMPLES = `
Examples:
  gomqctl --topic A sub
  gomqctl sub -t 'sensors/#' -v -q 1
  gomqctl sub -t A -C 1 -W 5                            one message, or exit 27 after 5 seconds
  gomqctl sub -t '#' -F '@H:@M:@S %t %q %x'
  gomqctl sub -t 'jobs/#' -q 1 -c -i worker-1           a session that outlives the connection
  gomqctl sub -t '$share/workers/jobs/#' --json
  gomqctl --connect a:9000,b:9000,c:9000 sub -t A -q 2  any of a cluster; goes on at the next when one dies
  gomqctl sub -t 'old/#' --remove-retained --retained-only -W 2

Exit status: 0, 1 for errors, 27 for a timeout, the CONNACK code where the broker refuses the connection.`;

export function subCommand(io: Io, exit: (code: number) => void): Command {
  const command = new Command('sub')
    .description('subscribe and print messages')
    .optionsGroup('Subscription:')
    .option('-t, --topic <filter>', 'topic filter, several are allowed', collect)
    .addOption(new Option('-q, --qos <qos>', 'QoS: 0, 1 or 2').argParser(parseQos).default(0 as QoS))
    .addOption(new Option('-r, --retain [0|1]', 'has no meaning here').hideHelp())
    .addOption(new Option('-C, --count <count>', 'exit after so many messages').argParser(parseCount))
    .addOption(new Option('-W, --timeout <seconds>', 'exit 27 after so long').argParser(parseSeconds))
    .option('-E, --exit-after-subscribe', 'exit as soon as the subscriptions are acknowledged')
    .option('-U, --unsubscribe <filter>', 'unsubscribe, several are allowed', collect)
    .option('-T, --filter-out <filter>', 'do not print these topics, several are allowed', collect)
    .option('-R, --skip-retained', 'do not print retained messages')
    .option('--retained-only', 'print retained messages only, exit at the first other one')
    .option('--remove-retained', 'clear each retained message that arrives')
    .option('--retain-as-published', 'keep the retain flag of the publisher (MQTT 5)')
    .addOption(
      new Option('--retain-handling <when>', 'when to send retained messages (MQTT 5)').choices([
        'always',
        'new',
        'never',
      ]),
    )
    .option('--no-local', 'not what this client publishes itself (MQTT 5)');
  startEmpty(command, 'topic', 'unsubscribe', 'filterOut');
  addSharedOptions(command);
  command
    .option('-v, --verbose', 'print the topic before each message')
    .option('-F, --format <format>', 'print by a format of mosquitto_sub: %t topic, %p payload, ...')
    .option('-N, --no-newline', 'do not end each message with a newline')
    .option('--pretty', 'spread the JSON of %j and %J over several lines')
    .addHelpText('after', EXAMPLES);
  command.action(async (options: SubOptions) => {
    exit(await sub(options, io));
  });
  return command;
}

async function sub(options: SubOptions, io: Io): Promise<number> {
  const diagnostics = diagnose(io, options);
  const settings = connectionSettings(options, io);
  checkOptions(options, settings);
  const formatter = createFormatter({
    format: options.format,
    verbose: options.verbose === true,
    json: options.json === true,
    newline: options.newline,
    pretty: options.pretty === true,
    warn: diagnostics.notice,
  });
  if (options.retain !== undefined) {
    diagnostics.notice('--retain has no meaning for sub; --retained-only prints retained messages only');
  }
  const subscriber = new Subscriber(options, settings, formatter, io, diagnostics);
  const failure = await subscriber.run();
  if (failure !== undefined) diagnostics.error(failure.message);
  return failure?.exitCode ?? EXIT.ok;
}

function checkOptions(options: SubOptions, settings: ConnectionSettings): void {
  if (options.topic.length === 0 && options.unsubscribe.length === 0) {
    throw new Failure('no topic; add --topic FILTER, as in: gomqctl --topic A sub');
  }
  checkFilters('--topic', options.topic);
  checkFilters('--unsubscribe', options.unsubscribe);
  checkFilters('--filter-out', options.filterOut);
  if (options.skipRetained && options.retainedOnly) {
    throw new Failure('-R and --retained-only together leave nothing to print; use one of them');
  }
  if (options.json && options.format !== undefined)
    throw new Failure('--json and -F are two formats; use one of them');
  const needsV5 = [
    options.retainAsPublished ? '--retain-as-published' : undefined,
    options.retainHandling !== undefined ? '--retain-handling' : undefined,
    options.local ? undefined : '--no-local',
  ].find((name) => name !== undefined);
  if (needsV5 !== undefined && settings.version !== 5)
    throw new Failure(`${needsV5} needs MQTT 5; leave out -V or use -V 5`);
  const shared = options.topic.find((filter) => filter.startsWith('$share/'));
  if (!options.local && shared !== undefined) {
    // [MQTT-3.8.3-4]
    throw new Failure(`--no-local is not allowed on the shared subscription "${shared}"`);
  }
}

const RETAIN_HANDLING = { always: 0, new: 1, never: 2 } as const;
/** How long the last clearing of a retained message may take at the end. */
const REMOVING_MS_MAX = 5_000;

class Subscriber {
  readonly #options: SubOptions;
  readonly #settings: ConnectionSettings;
  readonly #formatter: Formatter;
  readonly #io: Io;
  readonly #diagnostics: Diagnostics;
  readonly #output: Output;
  readonly #ending = new AbortController();
  #client: MqttClient | undefined;
  #wasSubscribed = false;
  #printed = 0;
  /** Packet ids of QoS 2 messages that were taken over with PUBREC and are not printed yet. */
  readonly #promised = new Set<number>();
  /** Retained messages being cleared. */
  #removing = 0;
  /** With --retained-only: a message came that was not retained. */
  #sawFresh = false;
  #failure: Failure | undefined;

  constructor(
    options: SubOptions,
    settings: ConnectionSettings,
    formatter: Formatter,
    io: Io,
    diagnostics: Diagnostics,
  ) {
    this.#options = options;
    this.#settings = settings;
    // What is published between the death of one broker and the subscription at the next would be missed.
    if (options.qos > 0 && areSeveral(settings)) keepForResuming(settings);
    this.#formatter = formatter;
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
    const onSignal = () => this.#finish();
    this.#io.signal.addEventListener('abort', onSignal);
    if (this.#io.signal.aborted) onSignal();
    const onTimeout = () => this.#finish(new Failure(`timed out after ${timeout} s`, EXIT.timeout));
    const timer = timeout === undefined ? undefined : setTimeout(onTimeout, timeout * 1000);
    let connection: Connection | undefined;
    try {
      connection = await this.#open();
      await ended;
      await this.#removalsDone();
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
    const policy = { resume: (this.#settings.properties.connect.sessionExpiryInterval ?? 0) > 0 };
    const listener = {
      onCreated: (client: MqttClient) => this.#listen(client),
      onUp: (connack: IConnackPacket, first: boolean) => this.#onUp(connack, first),
      onFailed: (failure: Failure) => this.#finish(failure),
      onNotice: this.#diagnostics.notice,
    };
    return Connection.open(this.#settings, policy, listener, this.#ending.signal);
  }

  #finish(failure?: Failure): void {
    if (this.#ended) return;
    this.#failure = failure;
    this.#ending.abort();
  }

  #listen(client: MqttClient): void {
    this.#client = client;
    let taken = true;
    client.on('message', (topic, payload, packet) => {
      taken = this.#onMessage(topic, payload, packet);
    });
    // Called after each message: it is acknowledged, and the next one is read, when this calls back.
    client.handleMessage = (_packet, callback) => {
      if (!taken) callback(new NotTaken());
      else if (!this.#output.blocked) callback();
      else onceReaderIsBack(this.#output, client, callback);
    };
    client.options.customHandleAcks = (topic, _payload, packet: IPublishPacket, callback) => {
      if (packet.qos === 2 && !this.#promise(topic, packet)) callback(new NotTaken());
      else callback(0);
    };
  }

  /** PUBREC takes a message over. What would not be printed any more is left to the broker, for the next time. */
  #promise(topic: string, packet: IPublishPacket): boolean {
    // At PUBREL, MQTT.js looks at the packet again, where a topic alias has left the topic empty.
    packet.topic = topic;
    if (this.#ended) return false;
    if (!this.#wants(topic, packet.retain)) return true;
    const id = packet.messageId ?? 0;
    const { count } = this.#options;
    const full = count !== undefined && this.#printed + this.#promised.size >= count;
    if (full && !this.#promised.has(id)) return false;
    this.#promised.add(id);
    return true;
  }

  #onUp(connack: IConnackPacket, first: boolean): void {
    if (!connack.sessionPresent) this.#promised.clear();
    // The session kept the subscriptions; asking again would make the broker send the retained messages again.
    if (!first && connack.sessionPresent) return;
    if (this.#options.topic.length > 0) this.#subscribe();
    else this.#unsubscribe();
  }

  #subscribe(): void {
    const { topic: filters, qos } = this.#options;
    const options: IClientSubscribeOptions = { qos };
    if (this.#settings.version === 5) {
      options.nl = !this.#options.local;
      options.rap = this.#options.retainAsPublished === true;
      options.rh = RETAIN_HANDLING[this.#options.retainHandling ?? 'always'];
      options.properties = this.#settings.properties.subscribe;
    }
    const unique = [...new Set(filters)];
    this.#client?.subscribe(unique, options, (error, _granted, suback) => {
      if (suback !== undefined) this.#onSuback(unique, suback);
      // Without an answer the connection was lost, and the next one subscribes again.
      else if (error && this.#client?.connected)
        this.#finish(new Failure(`cannot subscribe: ${error.message}`));
    });
  }

  #onSuback(filters: readonly string[], suback: ISubackPacket): void {
    const refused: string[] = [];
    for (const [index, code] of suback.granted.entries()) {
      if (typeof code !== 'number' || code < 0x80) continue;
      const why = describeReason(code, suback.properties);
      refused.push(`the broker refused the subscription to "${filters[index]}": ${why}`);
    }
    if (refused.length === filters.length) {
      this.#finish(new Failure(refused.join('; ')));
      return;
    }
    for (const line of refused) this.#diagnostics.error(line);
    // Whoever waits at a terminal sees nothing else until a message comes.
    if (this.#io.stderr.isTTY && !this.#wasSubscribed && !this.#options.exitAfterSubscribe) {
      const granted = filters.filter((_, index) => Number(suback.granted[index]) < 0x80);
      this.#diagnostics.notice(`subscribed to ${granted.join(', ')}`);
    }
    this.#wasSubscribed = true;
    this.#unsubscribe();
  }

  #unsubscribe(): void {
    const { unsubscribe: filters, exitAfterSubscribe } = this.#options;
    if (filters.length === 0) {
      if (exitAfterSubscribe) this.#finish();
      return;
    }
    const { properties } = this.#settings;
    this.#client?.unsubscribe([...filters], { properties: properties.unsubscribe }, (error) => {
      if (!error && exitAfterSubscribe) this.#finish();
    });
  }

  /** Prints a message if it is wanted. @returns false where it must not be acknowledged, because the printing has ended */
  #onMessage(topic: string, payload: Buffer, packet: IPublishPacket): boolean {
    if (this.#ended) return false;
    const { retainedOnly, removeRetained, count } = this.#options;
    if (retainedOnly && !packet.retain) {
      this.#sawFresh = true;
      if (this.#removing === 0) this.#finish();
      return true;
    }
    if (removeRetained && packet.retain && payload.length > 0 && !this.#filteredOut(topic))
      this.#remove(topic);
    if (!this.#wants(topic, packet.retain)) return true;
    const message: Message = { topic, payload, qos: packet.qos, retain: packet.retain, dup: packet.dup };
    if (packet.messageId !== undefined) {
      message.packetId = packet.messageId;
      this.#promised.delete(packet.messageId);
    }
    if (packet.properties !== undefined) message.properties = packet.properties;
    this.#formatter(message, this.#output);
    this.#printed++;
    if (this.#printed === count) this.#finish();
    return true;
  }

  /** True where a message is to be printed. */
  #wants(topic: string, retain: boolean): boolean {
    const { skipRetained, retainedOnly } = this.#options;
    return !(skipRetained && retain) && !(retainedOnly && !retain) && !this.#filteredOut(topic);
  }

  #filteredOut(topic: string): boolean {
    return this.#options.filterOut.some((filter) => matchesFilter(filter, topic));
  }

  #remove(topic: string): void {
    this.#removing++;
    this.#client?.publish(topic, '', { qos: 1, retain: true }, (error) => {
      this.#removing--;
      if (error) this.#diagnostics.error(`cannot clear the retained message of "${topic}": ${error.message}`);
      if (this.#sawFresh && this.#removing === 0) this.#finish();
    });
  }

  async #removalsDone(): Promise<void> {
    const latestMs = Date.now() + REMOVING_MS_MAX;
    while (this.#removing > 0 && Date.now() < latestMs && this.#client?.connected) await delay(5);
  }
}
