// Aedes as a process of its own, on the port given. Prints `ready` when it listens.
import { createServer } from 'node:net';
import { Aedes } from 'aedes';

const port = Number(process.argv[2]);
// The defaults, as its README starts it.
const aedes = await Aedes.createBroker();
const server = createServer((socket) => aedes.handle(socket));
server.listen(port, '127.0.0.1', () => console.log('ready'));
