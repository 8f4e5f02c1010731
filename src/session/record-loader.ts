// One record at a time as a message: which topic it is of, and whom it is for. The message is the same object for every record; what is loaded holds
// until the next is. Topics that nobody asks about are not interned, so that history does not push those in use out of the table.
import type { LogReader } from '../log/log.js';
import type { Router } from '../router/router.js';
import { Topic } from '../router/topic-table.js';
import { type Interest, interestOf } from './interest.js';
import { isPublish, Message, type RetainedMessage } from './message.js';
import type { Reading } from './reading.js';
import { SharedGroup } from './shared-group.js';
import { narrowEntry, type Route, type Subscription } from './subscription.js';

export class RecordLoader {
  readonly message = new Message();
  readonly #router: Router<Subscription | SharedGroup, Route>;
  /** The last topic of a replay that is not interned. */
  #foreignTopic: Topic<Route> | undefined = undefined;

  constructor(router: Router<Subscription | SharedGroup, Route>) {
    this.#router = router;
  }

  /** Loads a retained message, which is in memory. */
  loadRetained(retained: RetainedMessage): Message {
    const message = this.message;
    message.topic = retained.topic;
    message.readRecord(retained.record);
    // In bytes of its own, which nobody overwrites.
    message.isBufferStable = true;
    return message;
  }

  /** Loads the record that was read, a publish. */
  load(reader: LogReader): void {
    const message = this.message;
    message.readRecord(reader.record);
    const { buffer, topicStart, topicEnd } = message;
    message.topic =
      this.#router.findTopic(buffer, topicStart, topicEnd) ??
      this.#router.internTopic(buffer.toString('utf8', topicStart, topicEnd));
  }

  /** Loads the record that was read, unless its topic is not wanted: false, and it is left alone, so that it is not interned either. */
  loadWanted(reader: LogReader, interest: Interest, isReplay = false): boolean {
    if (!isPublish(reader.record)) return false;
    const message = this.message;
    message.readRecord(reader.record);
    const { buffer, topicStart, topicEnd } = message;
    const known = this.#router.findTopic(buffer, topicStart, topicEnd);
    if (known !== undefined) {
      message.topic = known;
      return true;
    }
    const topicName = buffer.toString('utf8', topicStart, topicEnd);
    if (!interest(topicName)) return false;
    message.topic = isReplay ? this.#topicOfHistory(topicName) : this.#router.internTopic(topicName);
    return true;
  }

  /** A topic that is not interned: those of history are many, and nobody may publish to them any more. */
  #topicOfHistory(topicName: string): Topic<Route> {
    if (this.#foreignTopic?.name !== topicName)
      this.#foreignTopic = new Topic(topicName, Buffer.from(topicName), 0);
    return this.#foreignTopic;
  }

  /** True where the loaded record has to be delivered to somebody at QoS 1 or 2. */
  isFor(reading: Reading): boolean {
    const message = this.message;
    if (message.qos === 0) return false;
    if (reading instanceof SharedGroup) {
      return message.offset >= reading.since && interestOf(reading)(message.topic.name);
    }
    const entry = this.#router.route(message.topic).entryOf(reading);
    if (entry === undefined) return false;
    const narrowed = narrowEntry(entry, message.offset, message.publisher);
    return narrowed !== undefined && narrowed.qos > 0;
  }
}
