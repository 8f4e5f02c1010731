// Owns the one error class of the project and the table of its codes. docs/ERRORS.md is kept equal to the table by a test.

/** Every expected failure has one of these codes: what it means (one sentence) and what to do about it. */
export const ERRORS = {
  ADDRESS_INVALID: {
    meaning: 'A listen or connect address is not HOST:PORT.',
    hint: 'Write it as 127.0.0.1:9000, [::1]:9000 or localhost:9000.',
  },
  ADDRESS_IN_USE: {
    meaning: 'A listener could not be opened because another process holds the address.',
    hint: 'Stop the other process or choose another address (port 0 takes a free one).',
  },
  BODY_TOO_LARGE: {
    meaning: 'The body of an HTTP request is larger than one message may be.',
    hint: 'Send less at once, or raise limits.packetBytes.',
  },
  CLUSTER_MISMATCH: {
    meaning: 'The data directory and the cluster that the broker was to join do not belong together.',
    hint: 'The message names both. An empty directory joins any cluster.',
  },
  CONFIG_INVALID: {
    meaning: 'The configuration has an unknown key or a value of the wrong shape.',
    hint: 'The message names the key; `gomq print-config` shows every key with its value.',
  },
  CONFIG_UNREADABLE: {
    meaning: 'A configuration, certificate, password or ACL file could not be read.',
    hint: 'Check the path and the permissions of the file.',
  },
  CONTENT_TYPE_INVALID: {
    meaning: 'An HTTP request has a body that is not declared as JSON.',
    hint: 'Send the header Content-Type: application/json.',
  },
  DATA_DAMAGED: {
    meaning: 'A file of the data directory does not hold what was written to it.',
    hint: 'Run `gomq log verify DIR` to see all that is damaged, and bring the file back from a copy.',
  },
  DATA_IN_USE: {
    meaning: 'Another process works on the data directory.',
    hint: 'Stop it, or give this one a directory of its own with --data.',
  },
  DATA_UNREADABLE: {
    meaning: 'The data directory or a file in it cannot be opened, made or read.',
    hint: 'Check the path, its owner and its permissions.',
  },
  DATA_VERSION: {
    meaning:
      'The data directory was written by a version of gomq with another format, newer or before the first release.',
    hint: 'Start it with the version that wrote it, or a newer one where the format of the directory is the higher.',
  },
  DISK_FAILED: {
    meaning:
      'The disk refused a write or could not keep what was written. gomq ends, since it can no longer promise anything.',
    hint: 'Look into the state of the disk before starting again; nothing that was acknowledged is lost with the process.',
  },
  DISK_FULL: {
    meaning: 'There is hardly room left on the disk, so that nothing new is kept.',
    hint: 'Make room on the disk of the data directory, then try again: gomq notices by itself.',
  },
  INTERNAL: {
    meaning: 'A defect in gomq: something that cannot happen did.',
    hint: 'Report it with the log lines before it.',
  },
  METHOD_INVALID: {
    meaning: 'An HTTP route exists, but not for this method.',
    hint: 'The header Allow of the answer names the right one.',
  },
  MISDIRECTED: {
    meaning: 'What was asked for concerns another node, which has to be asked itself.',
    hint: 'Ask that node at its own HTTP address.',
  },
  NOT_LEADER: {
    meaning: 'Another node of the cluster leads, and only that one can do this.',
    hint: 'The message says which; ask that one.',
  },
  NOT_READY: {
    meaning: 'The broker is starting or stopping, or no node of its cluster leads: it takes no messages.',
    hint: 'Try again in a moment.',
  },
  ORIGIN_FOREIGN: {
    meaning:
      'An HTTP request came from a web page of another site, or under a host name that is not this machine.',
    hint: 'Call the API directly, under the address it listens on; or set http.token and send it.',
  },
  PEER_PROTOCOL: {
    meaning: 'A broker of the cluster sent bytes that the protocol between brokers does not know.',
    hint: 'The message names the frame and the field; all brokers of a cluster should be of one version.',
  },
  PEER_REFUSED: {
    meaning: 'A broker of the cluster does not let this one in.',
    hint: 'The message says why: cluster.name and cluster.secret must be the same on all brokers of a cluster.',
  },
  PEER_UNREACHABLE: {
    meaning: 'A broker of the cluster cannot be reached, or does not answer in time.',
    hint: 'Check that it runs, and that its peer address can be reached from here. It is tried again.',
  },
  PROTOCOL: {
    meaning: 'A client sent bytes that the MQTT standard forbids.',
    hint: 'The reason code and the message say which rule; the client needs mending.',
  },
  REFUSED: {
    meaning: 'A client asked for something that this broker does not allow.',
    hint: 'The message says why; limits and rights are in the configuration.',
  },
  REQUEST_INVALID: {
    meaning:
      'An HTTP request is not what the route takes: no JSON, a missing or unknown key or parameter, a value of the wrong shape.',
    hint: 'POST /pub takes {"topic": "A", "body": "hello", "qos": 0, "retain": false}, GET /messages the parameters topic, from, limit, encoding.',
  },
  ROUTE_UNKNOWN: {
    meaning: 'There is no such HTTP route.',
    hint: 'There are GET /version, POST /pub, GET /messages, GET /api/v1/cluster, GET /health/live and GET /health/ready.',
  },
  TOKEN_WRONG: {
    meaning: 'The HTTP request does not carry the token that http.token asks for.',
    hint: 'Send the header Authorization: Bearer TOKEN.',
  },
  TOPIC_INVALID: {
    meaning: 'A topic name is none, or cannot be published to.',
    hint: 'A topic name has no + and no #, is not empty, and does not begin with $.',
  },
} as const satisfies Record<string, { meaning: string; hint: string }>;

export type ErrorCode = keyof typeof ERRORS;

export interface GomqErrorOptions {
  /** What to do about it; the table's hint where absent. */
  hint?: string;
  /** True where the same call may succeed later. */
  retriable?: boolean;
  /** The MQTT 5 reason code (0x80 and above) to tell the client. */
  reasonCode?: number;
  cause?: unknown;
}

/** An expected failure. The message says what happened, with the values. */
export class GomqError extends Error {
  readonly code: ErrorCode;
  readonly hint: string;
  readonly retriable: boolean;
  readonly reasonCode: number | undefined;

  constructor(code: ErrorCode, message: string, options: GomqErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'GomqError';
    this.code = code;
    this.hint = options.hint ?? ERRORS[code].hint;
    this.retriable = options.retriable ?? false;
    this.reasonCode = options.reasonCode;
  }
}
