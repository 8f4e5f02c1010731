// What the rest of the broker knows of the log. Records have consecutive offsets, are appended, become committed in order, and are read
// from an offset. Nothing here says where they are kept: callers already treat a read as something that may have to wait.

/** Where the bytes of a record go, or where they are. The same object is used again for the next one. */
export interface RecordSlice {
  offset: number;
  buffer: Buffer;
  /** First byte in `buffer`. */
  start: number;
  /** One past the last byte in `buffer`. */
  end: number;
}

export const ReadResult = {
  /** `record` is the next one. */
  Record: 0,
  /** There is nothing committed beyond. */
  End: 1,
  /** The record is not in memory; `onReadable` will be called once, then ask again. */
  Pending: 2,
  /** Much was passed over and nothing found yet: ask again when others have had their turn. Only where `wants` was given. */
  Later: 3,
} as const;
export type ReadResult = (typeof ReadResult)[keyof typeof ReadResult];

/** Reads committed records in order, from wherever it was told to. */
export interface LogReader {
  /** The offset the next call starts at. An offset below the log's start moves up to it. */
  readonly position: number;
  /** What the last call to `next` found. Its bytes stay unchanged for as long as somebody refers to the buffer. */
  readonly record: RecordSlice;
  seek(offset: number): void;
  /**
   * The next committed record. Where `wants` is given, runs of records with no topic that it answers true for are passed over unread;
   * what comes out may still be of another topic.
   */
  next(wants?: (topicName: string) => boolean): ReadResult;
  close(): void;
}

export interface Log {
  /** The oldest offset that can still be read. */
  readonly startOffset: number;
  /** One past the last appended record. */
  readonly endOffset: number;
  /** One past the last committed record: everything below is kept, whatever happens. */
  readonly highWatermark: number;
  /** Bytes appended and not committed. */
  readonly uncommittedBytes: number;
  /** Bytes kept. */
  readonly storedBytes: number;
  /** There is hardly room for more: new messages must be refused, and only what lets go of others is appended. */
  readonly isFull: boolean;
  /** It is full, and so little is left for what lets go of others that who is not connected must wait. */
  readonly isReserveSpent: boolean;

  /**
   * Makes room for one record of `length` bytes about `topicName` and gives it the next offset. The caller writes all its bytes at once,
   * before anything else happens to the log. A record that is about no topic has ''; readers that want topics are never asked about it.
   * @param changesState whether replaying the log has to look at it: all but publishes of QoS 0 and 1 without RETAIN
   */
  append(topicName: string, length: number, changesState: boolean): RecordSlice;
  /** Says that a moment to commit has come: the end of a turn of the event loop. */
  flush(): void;
  /** The one to call when the high watermark has risen, with the old and the new one. */
  onCommit(listener: (from: number, to: number) => void): void;
  /** `onReadable` is called after a read that was pending. */
  createReader(onReadable: () => void): LogReader;
  /**
   * The offset from which on everything was appended at `timestampMs` (wall clock, milliseconds since the Unix epoch) or later, as exactly
   * as the log knows: a few records that are older may come out as well. The high watermark where there is nothing as late.
   */
  offsetAt(timestampMs: number): Promise<number>;
  /** Commits what is left and lets go of everything. */
  close(): Promise<void>;
}

/** What the log asks and tells those who read it before and after it lets records go. */
export interface RetentionEvents {
  /**
   * The lowest offset that a session still needs, if it is below `before`: the end of the segment that is to go. Undefined when that takes
   * longer to find out: it is asked again at the next flush.
   */
  neededFrom(before: number): number | undefined;
  /** Records [from, to) went although somebody needed them. */
  onLost(from: number, to: number): void;
}
