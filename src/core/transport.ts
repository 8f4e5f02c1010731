// The one small interface between the client edge (net/), which owns sockets, and the broker, which owns what bytes mean. TCP, TLS and
// WebSocket look the same behind it.

/** Called by the transport, never re-entrantly from inside one of its own methods. */
export interface TransportHandler {
  /** Bytes arrived. They are overwritten once the handler has returned: what is kept has to be copied. */
  onData(chunk: Buffer): void;
  /** Everything written has left for the kernel after `write` answered false. */
  onDrain(): void;
  /** The peer sends no more. What is written can still arrive. */
  onEnd(): void;
  /** Called exactly once, when the connection is over for whatever reason; `error` where it broke. */
  onClose(error: Error | undefined): void;
}

export type OnWritten = (error?: Error | null) => void;

export interface Transport {
  /** IP address without port, an IPv4 address always as `203.0.113.7`. */
  readonly remoteAddress: string;
  readonly remotePort: number;
  /** Encrypted. */
  readonly isSecure: boolean;
  /** The common name of the client certificate, where one was verified. */
  readonly clientCertificateName: string | undefined;
  /** Must be called once, synchronously, when the connection is handed over. */
  start(handler: TransportHandler): void;
  /**
   * Hands `bytes` to the kernel. The caller must leave `bytes` unchanged until `onWritten`, which is called exactly once, later, and also
   * where the connection broke or is over. With an error the kernel may still hold `bytes`: they must not be used for anything else. The
   * calls do not come in the order of the writes. False: wait for onDrain, which may come although `pendingBytes` is 0 already.
   */
  write(bytes: Buffer, onWritten: OnWritten): boolean;
  /** Bytes handed over by `write` that have not left for the kernel yet. */
  readonly pendingBytes: number;
  /** What is written until `uncork` may leave together. */
  cork(): void;
  uncork(): void;
  pause(): void;
  resume(): void;
  /** Sends what was written, then closes; destroys after a bounded time. What still arrives is dropped. */
  end(): void;
  /** Closes at once; what was not sent is lost. */
  destroy(): void;
}
