import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { parseJson, readMessage } from '../../src/http/publish-request.js';

const limits = {
  topicBytes: 1024,
  topicLevels: 64,
  packetBytes: 1024 * 1024,
  maximumQos: 2,
  retain: true,
} as const;

describe('the body of POST /pub', () => {
  it('may nest as deep as JSON.parse reads, which is deeper than JSON.stringify writes', () => {
    const depth = 200_000;
    const request = parseJson(Buffer.from(`{"topic":"A","body":${'['.repeat(depth)}${']'.repeat(depth)}}`));
    assert.throws(() => readMessage(request, limits), {
      code: 'REQUEST_INVALID',
      message: 'body is nested too deeply',
    });
  });

  it('is shown in part only where it is wrong', () => {
    const qos = 'x'.repeat(100_000);
    assert.throws(
      () => readMessage({ topic: 'A', body: '', qos }, limits),
      (error: Error) => error.message.length < 100,
    );
  });

  it('counts the topic and the payload against the largest packet', () => {
    const body = 'x'.repeat(limits.packetBytes - 1);
    assert.equal(readMessage({ topic: 'A', body }, limits).payload.length, limits.packetBytes - 1);
    assert.throws(() => readMessage({ topic: 'AB', body }, limits), { code: 'BODY_TOO_LARGE' });
  });
});
