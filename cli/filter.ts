// Owns the question whether a topic name matches a topic filter, for -T; the broker answers it for subscriptions.

/** Section 4.7: `+` is one level, `#` any number, and neither at the front matches a topic that begins with `$` [MQTT-4.7.2-1]. */
export function matchesFilter(filter: string, topic: string): boolean {
  if (topic.startsWith('$') && (filter.startsWith('+') || filter.startsWith('#'))) return false;
  const wanted = filter.split('/');
  const levels = topic.split('/');
  for (let i = 0; i < wanted.length; i++) {
    if (wanted[i] === '#') return true;
    // `a/#` matches `a` as well, so the loop may run one level past the topic.
    if (i >= levels.length || (wanted[i] !== '+' && wanted[i] !== levels[i])) return false;
  }
  return wanted.length === levels.length;
}
