// A process that serves one listener, for the test that takes its file descriptors away. Prints the port, then a line per question on stdin.
import { closeSync, openSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { defaultConfig } from '../../src/core/config.js';
import { silentLogger } from '../../src/core/logger.js';
import { openListeners } from '../../src/net/listeners.js';

const DESCRIPTORS_LEFT = 20;

const config = defaultConfig();
const listeners = await openListeners({
  listeners: { ...config.listeners, mqtt: ['127.0.0.1:0'] },
  limits: config.limits,
  logger: silentLogger,
  onConnection(transport) {
    transport.start({
      onData: (chunk) => transport.write(Buffer.from(chunk), () => {}),
      onDrain() {},
      onEnd() {},
      onClose() {},
    });
  },
});
const tell = () => {
  const { loopCount } = performance.nodeTiming.uvMetricsInfo;
  process.stdout.write(`${JSON.stringify({ connections: listeners.connectionCount, loopCount })}\n`);
};
// Node itself needs many descriptors to start, so they are taken away only now.
const taken: number[] = [];
try {
  for (;;) taken.push(openSync('/dev/null', 'r'));
} catch {
  for (const descriptor of taken.splice(0, DESCRIPTORS_LEFT)) closeSync(descriptor);
}
process.stdout.write(`${listeners.addresses[0]!.port}\n`);
createInterface({ input: process.stdin })
  .on('line', tell)
  .on('close', () => process.exit());
