// The one small interface between the client edge (net/), which owns sockets, and the broker, which owns what bytes mean. TCP, TLS and
// WebSocket look the same behind it.

/** Called by the transport, never re-entrantly from inside one of its own methods. */
export interface TransportHandler {
  /** Bytes arrived. The handler may keep no reference to `chunk` after it returns, unless it copies. */
  onData(chunk: Buffer): void;
  /** Everything written has left for the kernel after `write` answered false. */
  onDrain(): void;
  /** Called exactly once, when the connection is over for whatever reason; `error` where it broke. */
  onClose(error: Error | undefined): void;
}

export interface Transport {
  /** `203.0.113.7:51234`, for logs and per-address limits. */
  readonly remoteAddress: string;
  readonly remotePort: number;
  /** Encrypted and, where asked for, with a verified client certificate. */
  readonly isSecure: boolean;
  /** Must be called once, synchronously, when the connection is handed over. */
  start(handler: TransportHandler): void;
  /** Hands `bytes` to the kernel. The caller must leave `bytes` unchanged until `onWritten`. False: wait for onDrain. */
  write(bytes: Buffer, onWritten: () => void): boolean;
  /** Bytes handed over by `write` that have not left for the kernel yet. */
  readonly pendingBytes: number;
  pause(): void;
  resume(): void;
  /** Sends what was written, then closes; destroys after a bounded time. */
  end(): void;
  /** Closes at once; what was not sent is lost. */
  destroy(): void;
}
