// Section 4.7 of the standard, written down with no thought for speed, and names and filters that make its rules meet.
import fc from 'fast-check';

/** Whether a topic filter matches a topic name. */
export function matchesNaively(filter: string, name: string): boolean {
  // [MQTT-4.7.2-1]
  if (name.startsWith('$') && (filter.startsWith('+') || filter.startsWith('#'))) return false;
  return matchLevels(filter.split('/'), name.split('/'));
}

function matchLevels(filter: readonly string[], name: readonly string[]): boolean {
  const [level, ...restOfFilter] = filter;
  if (level === undefined) return name.length === 0;
  // `a/#` matches `a` too, so `#` stands for no level as well.
  if (level === '#') return true;
  const [first, ...restOfName] = name;
  if (first === undefined) return false;
  return (level === '+' || level === first) && matchLevels(restOfFilter, restOfName);
}

/** Few words, so that things meet; the empty level and names with $ among them. */
const word = fc.constantFrom('a', 'b', '', '$SYS', 'ä', 'c');

export const name: fc.Arbitrary<string> = fc
  .array(word, { minLength: 1, maxLength: 4 })
  .map((levels) => levels.join('/'))
  .filter((text) => text !== '');

export const filter: fc.Arbitrary<string> = fc
  .tuple(
    fc.array(fc.oneof({ weight: 3, arbitrary: word }, { weight: 2, arbitrary: fc.constant('+') }), {
      maxLength: 4,
    }),
    fc.boolean(),
  )
  .map(([levels, endsInHash]) => [...levels, ...(endsInHash ? ['#'] : [])].join('/'))
  .filter((text) => text !== '');
