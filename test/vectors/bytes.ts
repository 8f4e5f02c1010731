// The notation of the vectors: hexadecimal bytes, with strings in quotes where the bytes are their characters. `0004 "MQTT"` is
// the six bytes of a protocol name.

/** The bytes of a text in the notation. */
export function bytes(notation: string): Buffer {
  const parts = notation.match(/"[^"]*"|[0-9a-f]+/gi) ?? [];
  return Buffer.concat(
    parts.map((part) => {
      if (part.startsWith('"')) return Buffer.from(part.slice(1, -1), 'utf8');
      if (part.length % 2 !== 0) throw new Error(`half a byte in ${part}`);
      return Buffer.from(part, 'hex');
    }),
  );
}

/** A packet of which the remaining length follows from the body: for vectors that are wrong somewhere else. */
export function frame(firstByte: number, body: string | Buffer): Buffer {
  const content = typeof body === 'string' ? bytes(body) : body;
  const header = [firstByte];
  let rest = content.length;
  do {
    header.push(rest > 0x7f ? (rest & 0x7f) | 0x80 : rest);
    rest >>= 7;
  } while (rest > 0);
  return Buffer.concat([Buffer.from(header), content]);
}

/** Strings of bytes that no MQTT string may be, for every place where one stands. */
export const INVALID_UTF8: readonly { title: string; bytes: Buffer }[] = [
  { title: 'U+0000', bytes: bytes('00') },
  { title: 'U+0000 between letters', bytes: bytes('"a" 00 "b"') },
  { title: 'a lone high surrogate', bytes: bytes('ed a0 80') },
  { title: 'a lone low surrogate', bytes: bytes('ed bf bf') },
  { title: 'a surrogate pair', bytes: bytes('ed a0 b4 ed b4 9e') },
  { title: 'U+0000 in two bytes', bytes: bytes('c0 80') },
  { title: 'a slash in two bytes', bytes: bytes('c0 af') },
  { title: 'a slash in three bytes', bytes: bytes('e0 80 af') },
  { title: 'U+FFFF in four bytes', bytes: bytes('f0 8f bf bf') },
  { title: 'U+110000', bytes: bytes('f4 90 80 80') },
  { title: 'a first byte of five', bytes: bytes('f8 88 80 80 80') },
  { title: 'a following byte alone', bytes: bytes('80') },
  { title: 'a character cut off', bytes: bytes('"a" e2 82') },
  { title: 'a letter within a character', bytes: bytes('e2 "a" ac') },
  { title: 'the byte ff', bytes: bytes('ff') },
];
