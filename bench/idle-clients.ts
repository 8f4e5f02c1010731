// A process that holds idle MQTT connections: `idle-clients.ts PORT COUNT [PROTOCOL]`. Prints `open COUNT` when all are accepted and stays
// until it is ended; exits with 1 and one line when a connection is refused or lost.
import { createConnection } from 'node:net';
import mqttPacket from 'mqtt-packet';

const [port = 0, count = 0, protocol = 4] = process.argv.slice(2).map(Number);
const AT_ONCE = 200;

let started = 0;
let open = 0;

function fail(message: string): never {
  console.error(message);
  process.exit(1);
}

function openNext(): void {
  if (started === count) return;
  const number = started++;
  const socket = createConnection({ port, host: '127.0.0.1', noDelay: true });
  socket.on('error', (error) => fail(`connection ${number}: ${error.message}`));
  socket.on('close', () => fail(`connection ${number} was closed`));
  socket.write(
    mqttPacket.generate({
      cmd: 'connect',
      protocolId: 'MQTT',
      protocolVersion: protocol === 5 ? 5 : 4,
      clean: true,
      keepalive: 3600,
      clientId: `idle-${number}`,
    }),
  );
  socket.once('data', (bytes) => {
    if (bytes[0] !== 0x20 || bytes[3] !== 0) fail(`connection ${number} was refused`);
    if (++open === count) console.log(`open ${count}`);
    openNext();
  });
}

for (let at = 0; at < Math.min(AT_ONCE, count); at++) openNext();
