// Whether a broker has retained what it promised: somebody who only looks at what is retained, and holds it against the ledger.
import type { Ledger } from './ledger.js';
import { idOf, openLink } from './link.js';

/** What is retained is what was acknowledged last, or something sent after it. Nobody publishes meanwhile. */
export async function checkRetained(ledger: Ledger, port: number): Promise<void> {
  const expected = new Map(ledger.retainedTopics().map((topic) => [topic, ledger.retainable(topic)]));
  const missing = new Set(
    [...expected].filter(([, values]) => !values.includes(undefined)).map(([topic]) => topic),
  );
  let finish: () => void = () => undefined;
  const done = new Promise<void>((resolve) => {
    finish = resolve;
  });
  const fields = { clientId: 'retained', clean: true };
  const { link, connack } = openLink(port, 5, fields, {
    onPacket(packet) {
      if (packet.cmd === 'suback' && missing.size === 0) finish();
      if (packet.cmd !== 'publish') return;
      const { topic, retain } = packet;
      const id = idOf(packet);
      ledger.saw('retained', id, `retained on ${topic}`);
      const values = expected.get(topic) ?? [];
      const isRight = retain && values.some((message) => message !== undefined && message.id === id);
      if (!isRight) {
        const ids = values.map((message) => message?.id ?? 'nothing').join(' or ');
        ledger.fail(`message ${id} is retained on ${topic}, not ${ids}`, id);
      }
      missing.delete(topic);
      if (missing.size === 0) finish();
    },
    onClose: () => finish(),
  });
  await connack;
  const subscriptions = ['r/#', 'd/#'].map((topic) => ({ topic, qos: 0 as const }));
  link.send({ cmd: 'subscribe', messageId: 1, subscriptions });
  await done;
  if (missing.size > 0) ledger.fail(`nothing is retained on ${[...missing].join(', ')}`);
  link.destroy();
  await link.closed;
}
