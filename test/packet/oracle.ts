// What the tests of this room share: mqtt-packet as the other opinion, inputs for properties, and a seed that is always printed.
import assert from 'node:assert/strict';
import type { TestContext } from 'node:test';
import fc from 'fast-check';
import { generate, type Packet, parser } from 'mqtt-packet';
import { GomqError } from '../../src/core/errors.js';

/**
 * Runs a property. The seed is printed whether it holds or not; `SEED=n` in the environment runs it again.
 * @param runs how many inputs
 */
export function check<T>(context: TestContext, property: fc.IProperty<T>, runs = 300): void {
  const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 0x7fff_ffff));
  context.diagnostic(`seed ${seed}`);
  fc.assert(property, { seed, numRuns: runs, includeErrorInReport: true });
}

/** Bytes by mqtt-packet. The packet's shape is looser than its types, which know no lists of user properties. */
export function encodeByOracle(packet: object, protocolVersion: number): Buffer {
  return generate(packet as Packet, { protocolVersion });
}

/** The one packet that mqtt-packet finds in the bytes. */
export function decodeByOracle(bytes: Buffer, protocolVersion: number): Packet {
  const packets: Packet[] = [];
  const oracle = parser({ protocolVersion });
  oracle.on('packet', (packet) => packets.push(packet));
  oracle.on('error', (error: Error) => {
    throw error;
  });
  oracle.parse(bytes);
  assert.equal(packets.length, 1, 'one packet');
  return packets[0]!;
}

/** fc.record with objects that are equal to literals: its own have no prototype half of the time. */
export function record<T>(fields: { [K in keyof T]: fc.Arbitrary<T[K]> }): fc.Arbitrary<T> {
  return fc.record(fields, { noNullPrototype: true }) as fc.Arbitrary<T>;
}

/** Any string that MQTT allows: all planes, no U+0000, no lone surrogate. */
export const mqttString = (maxLength = 20): fc.Arbitrary<string> =>
  fc
    .oneof(
      fc.string({ maxLength }),
      fc.string({ unit: 'grapheme', maxLength }),
      fc.string({ unit: 'binary', maxLength }),
    )
    .map((text) => text.replaceAll('\0', ''));

/** A topic name: no wildcard, not empty. */
export const topicName = mqttString()
  .map((text) => text.replace(/[+#]/g, '/'))
  .filter((text) => text !== '');

export const binary = fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes));
export const uint16 = fc.integer({ min: 0, max: 0xffff });
export const positiveUint16 = fc.integer({ min: 1, max: 0xffff });
export const uint32 = fc.integer({ min: 0, max: 0xffff_ffff });
export const userProperties = fc.array(fc.tuple(mqttString(8), mqttString(8)), { maxLength: 5 });

/** User properties as mqtt-packet keeps their order: a list of objects of one name each, and never an empty one. */
export function pairsForOracle(pairs: [string, string][]): object[] | undefined {
  if (pairs.length === 0) return undefined;
  return pairs.map(([name, value]) => ({ [name]: value }));
}

/** Asserts that bytes are refused with a reason code, by an error of the right class. */
export function refuses(decode: () => unknown, reasonCode?: number): GomqError {
  let caught: unknown;
  try {
    decode();
  } catch (error) {
    caught = error;
  }
  assert.ok(caught instanceof GomqError, `refused by a GomqError, not ${String(caught)}`);
  assert.equal(caught.code, 'PROTOCOL');
  if (reasonCode !== undefined) assert.equal(caught.reasonCode, reasonCode, caught.message);
  else assert.ok(caught.reasonCode === 0x81 || caught.reasonCode === 0x82, caught.message);
  return caught;
}

/** Asserts that bytes are either decoded or refused by a GomqError with a reason code: no other way out. */
export function decodesOrRefuses(decode: () => unknown): void {
  try {
    decode();
  } catch (error) {
    assert.ok(error instanceof GomqError, `a GomqError, not ${String(error)}`);
    assert.equal(error.code, 'PROTOCOL');
    assert.ok((error.reasonCode ?? 0) >= 0x80);
  }
}

/** Each packet cut before its end: as it stands, and with a remaining length that agrees with the cut. */
export function* truncations(packet: Buffer): Generator<Buffer> {
  for (let length = 0; length < packet.length; length++) yield packet.subarray(0, length);
}

/** A packet with some of its bytes changed: closer to the truth than random bytes, so it gets further. */
export const mutated = (packets: readonly Buffer[]): fc.Arbitrary<Buffer> =>
  fc
    .tuple(
      fc.constantFrom(...packets),
      fc.array(fc.tuple(fc.nat(), fc.integer({ min: 0, max: 255 })), { minLength: 1, maxLength: 4 }),
    )
    .map(([packet, changes]) => {
      const copy = Buffer.from(packet);
      // The fixed header stays, or nearly every change would end at the remaining length.
      for (const [where, value] of changes) {
        if (copy.length > 2) copy[2 + (where % (copy.length - 2))] = value;
      }
      return copy;
    });
