// What an HTTP caller is told when a request fails: one shape for every failure, the router's and Fastify's own included.
import { STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import { type ErrorCode, GomqError } from '../core/errors.js';

export interface Problem {
  error: { code: ErrorCode; message: string; hint: string };
}

/** Codes that are not here are the broker's fault, as far as an HTTP caller is concerned. */
const STATUS: Partial<Record<ErrorCode, number>> = {
  REQUEST_INVALID: 400,
  TOPIC_INVALID: 400,
  TOKEN_WRONG: 401,
  ORIGIN_FOREIGN: 403,
  REFUSED: 403,
  ROUTE_UNKNOWN: 404,
  METHOD_INVALID: 405,
  BODY_TOO_LARGE: 413,
  CONTENT_TYPE_INVALID: 415,
  MISDIRECTED: 421,
  NOT_LEADER: 503,
  NOT_READY: 503,
  PEER_UNREACHABLE: 503,
};

export function statusOf(error: GomqError): number {
  return error.retriable ? 503 : (STATUS[error.code] ?? 500);
}

/** Defects are told without their text: it may hold what is none of the caller's business. */
export function problemOf(error: GomqError): Problem {
  const message = error.code === 'INTERNAL' ? 'gomq failed to answer; its log says why' : error.message;
  return { error: { code: error.code, message, hint: error.hint } };
}

/** Puts what Fastify throws into the terms of the table of errors. */
export function toGomqError(error: unknown, bodyBytesMax: number): GomqError {
  if (error instanceof GomqError) return error;
  const { code, statusCode, message } = error as { code?: string; statusCode?: number; message?: string };
  if (code === 'FST_ERR_CTP_BODY_TOO_LARGE') {
    return new GomqError('BODY_TOO_LARGE', `the body is larger than ${bodyBytesMax} bytes`);
  }
  if (code === 'FST_ERR_CTP_INVALID_MEDIA_TYPE') {
    return new GomqError('CONTENT_TYPE_INVALID', 'the body is not declared as application/json');
  }
  if (statusCode !== undefined && statusCode < 500) {
    return new GomqError('REQUEST_INVALID', message ?? 'the request cannot be read');
  }
  return new GomqError('INTERNAL', message ?? String(error), { cause: error });
}

/** Answers bytes that are no HTTP, on the bare socket, as there is no request to answer. */
export function refuseConnection(error: NodeJS.ErrnoException, socket: Socket): void {
  if (!socket.writable || error.code === 'ECONNRESET') {
    socket.destroy();
    return;
  }
  const status =
    error.code === 'HPE_HEADER_OVERFLOW' ? 431 : error.code === 'ERR_HTTP_REQUEST_TIMEOUT' ? 408 : 400;
  const body = JSON.stringify(
    problemOf(new GomqError('REQUEST_INVALID', `not a request: ${STATUS_CODES[status]}`)),
  );
  const head = `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nContent-Type: application/json\r\nConnection: close\r\n`;
  socket.end(`${head}Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`);
}
