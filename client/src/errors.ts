// Owns the one error class of the package and the table of its codes. README.md lists the same codes; a test holds the two equal.

/** Every failure has one of these codes: what it means (one sentence) and what to do about it. */
export const CLIENT_ERRORS = {
  ABORTED: {
    meaning: 'The AbortSignal of the call was aborted.',
    hint: 'A publish that had left already may still be delivered.',
  },
  AUTH_REFUSED: {
    meaning: 'The broker refused the credentials, or refuses this client for what it is.',
    hint: 'Check username, password, client certificate and the rights of the user at the broker.',
  },
  BUFFER_FULL: {
    meaning: 'As many publishes as the options allow are waiting already.',
    hint: 'Await earlier publishes before making more, or raise maxWaiting or maxBufferedBytes.',
  },
  CLOSED: {
    meaning: 'The producer or consumer was closed.',
    hint: 'Create a new one. A publish that was rejected by close() may still be delivered.',
  },
  CONNECTION_LOST: {
    meaning: 'The connection ended before the outcome was known.',
    hint: 'It comes back by itself; a QoS 0 publish in doubt is not sent again, use QoS 1 for that.',
  },
  CONNECTION_REFUSED: {
    meaning: 'The broker answered CONNECT with a refusal that is not about credentials.',
    hint: 'The reason code says why.',
  },
  CONNECT_FAILED: {
    meaning: 'No network connection to a broker could be made.',
    hint: 'Check that the broker runs and that host, port and protocol are right.',
  },
  DISCOVERY_FAILED: {
    meaning: 'Nobody who was asked named a broker.',
    hint: 'Check that the addresses in brokers are those of the HTTP API of a broker, or of etcd, and the name of the cluster.',
  },
  FILTER_INVALID: {
    meaning: 'A topic filter is not valid.',
    hint: '# stands alone as the last level, + stands alone in its level, a share is $share/GROUP/FILTER.',
  },
  OPTIONS_INVALID: {
    meaning: 'An option is unknown, missing or of the wrong shape.',
    hint: 'The message names the option; the README lists all of them.',
  },
  PACKET_TOO_LARGE: {
    meaning: 'The message is larger than the broker accepts.',
    hint: 'Send less, or raise the maximum packet size of the broker.',
  },
  PAYLOAD_INVALID: {
    meaning: 'The payload is neither a string nor bytes.',
    hint: 'Pass a string, a Uint8Array or a Buffer; JSON.stringify() objects.',
  },
  PROTOCOL: {
    meaning: 'The broker sent, or says it received, something that MQTT does not allow.',
    hint: 'Check that the address is that of an MQTT broker and which protocol version it speaks.',
  },
  PUBLISH_REFUSED: {
    meaning: 'The broker refused a message.',
    hint: 'The reason code says why: rights, quota, topic or payload format.',
  },
  SESSION_TAKEN_OVER: {
    meaning: 'Another connection uses the same client id.',
    hint: 'Give every producer and consumer a client id of its own.',
  },
  SUBSCRIBE_REFUSED: {
    meaning: 'The broker refused a subscription.',
    hint: 'The reason code says why: rights, quota or an unsupported kind of filter.',
  },
  TIMEOUT: {
    meaning: 'The time allowed was over before the broker answered.',
    hint: 'The cause tells what kept the connection down, if anything. A publish may still be delivered.',
  },
  TLS_FAILED: {
    meaning: 'The TLS handshake failed, or the certificate of the broker is not trusted.',
    hint: 'Check tls.ca, tls.servername, tls.cert and tls.key, and that the port speaks TLS.',
  },
  TOPIC_INVALID: {
    meaning: 'A topic name is missing or not valid.',
    hint: 'A topic name is 1 to 65535 bytes of UTF-8 without #, + and NUL.',
  },
  UNKNOWN_HOST: {
    meaning: 'The name of a broker does not resolve.',
    hint: 'Check the host name in brokers.',
  },
  UNSUPPORTED: {
    meaning: 'The broker, or the protocol version in use, does not offer what the call needs.',
    hint: 'Use protocolVersion 5, or a broker that offers it.',
  },
} as const satisfies Record<string, { meaning: string; hint: string }>;

export type ClientErrorCode = keyof typeof CLIENT_ERRORS;

export interface GomqClientErrorOptions {
  /** What to do about it; the table's hint where absent. */
  hint?: string;
  /** True where the same call may succeed later. */
  retriable?: boolean;
  /** The MQTT reason code (the CONNACK return code in 3.1 and 3.1.1), where the broker gave one. */
  reasonCode?: number | undefined;
  cause?: unknown;
}

/** Every failure of this package. The message says what happened, with the values. */
export class GomqClientError extends Error {
  readonly code: ClientErrorCode;
  readonly hint: string;
  readonly retriable: boolean;
  readonly reasonCode: number | undefined;

  constructor(code: ClientErrorCode, message: string, options: GomqClientErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'GomqClientError';
    this.code = code;
    this.hint = options.hint ?? CLIENT_ERRORS[code].hint;
    this.retriable = options.retriable ?? false;
    this.reasonCode = options.reasonCode;
  }
}
