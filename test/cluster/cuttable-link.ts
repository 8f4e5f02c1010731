// A TCP link that is cut and mended, in one direction or in both, for all who use it or for one: nothing comes through and nobody is told, as where a
// cable is pulled. What was sent meanwhile comes late, or the connection turns out to be broken. It can also break where a request came through and
// its answer has not. Unlike over a cable, a connection that is opened meanwhile is taken, and then nothing comes.
import { connect, createServer, type Server, type Socket } from 'node:net';
import { Random } from '../crash/random.js';

/** From who dials to who listens, or the other way. */
export type Direction = 'there' | 'back';

/** Below those that the system gives to connections and to who asks for any: a broker that is started again finds its own free. */
const PORTS = { from: 15_000, to: 31_000 };
/** What is shorter is a handshake or a heartbeat. */
const REQUEST_BYTES_MIN = 200;

interface Pair {
  readonly near: Socket;
  readonly far: Socket;
  /** The first bytes, which say who dials. */
  hello: string;
  /** Where the last request came from. */
  asked: Direction | undefined;
}

export class CuttableLink {
  readonly host: string;
  readonly port: number;
  readonly #server: Server;
  readonly #pairs = new Set<Pair>();
  #cut: { readonly directions: readonly Direction[]; readonly who: string } = { directions: [], who: '' };
  #answersToLose = 0;

  private constructor(server: Server, host: string, port: number, target: { host: string; port: number }) {
    this.#server = server;
    this.host = host;
    this.port = port;
    server.on('connection', (near) => this.#join(near, connect({ ...target, noDelay: true })));
  }

  /** A link to whoever listens, or will, at 127.0.0.1 and `port`; where absent one that is free there too, the same as the link's own. */
  static async open(port?: number): Promise<CuttableLink> {
    if (port !== undefined) {
      const server = await listen('127.0.0.1', 0);
      const own = (server!.address() as { port: number }).port;
      return new CuttableLink(server!, '127.0.0.1', own, { host: '127.0.0.1', port });
    }
    const random = new Random(process.pid * 7919 + Math.floor(performance.now() * 1000));
    for (;;) {
      const drawn = random.integer(PORTS.from, PORTS.to);
      const taken = await listen('127.0.0.1', drawn);
      const server = taken === undefined ? undefined : await listen('127.0.0.2', drawn);
      if (taken !== undefined) await new Promise((resolve) => taken.close(resolve));
      if (server !== undefined)
        return new CuttableLink(server, '127.0.0.2', drawn, { host: '127.0.0.1', port: drawn });
    }
  }

  /** @param who only of those whose first bytes have this; of all where absent */
  cut(directions: readonly Direction[], who = ''): void {
    this.#cut = { directions, who };
    for (const pair of this.#pairs) this.#apply(pair);
  }

  /** What was held up comes now; or, where it `breaks`, never, and those who sent it are told. */
  mend(breaks = false): void {
    const broken = [...this.#pairs].filter((pair) => breaks && this.#directions(pair).length > 0);
    this.cut([]);
    for (const pair of broken) this.#end(pair);
  }

  /** The next `count` times that an answer to a request comes back, in whichever direction, the connection ends instead. */
  loseAnswers(count: number): void {
    this.#answersToLose = count;
    for (const pair of this.#pairs) pair.asked = undefined;
  }

  /** How many of these have still to come. */
  get answersToLose(): number {
    return this.#answersToLose;
  }

  async close(): Promise<void> {
    for (const pair of this.#pairs) this.#end(pair);
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #join(near: Socket, far: Socket): void {
    const pair: Pair = { near, far, hello: '', asked: undefined };
    this.#pairs.add(pair);
    near.setNoDelay(true);
    this.#pass(pair, 'there', near, far);
    this.#pass(pair, 'back', far, near);
    this.#apply(pair);
  }

  #pass(pair: Pair, direction: Direction, from: Socket, to: Socket): void {
    from.on('data', (chunk: Buffer) => {
      if (direction === 'there' && pair.hello === '') {
        pair.hello = chunk.toString('latin1');
        this.#apply(pair);
        if (this.#directions(pair).includes('there')) {
          from.unshift(chunk);
          return;
        }
      }
      if (this.#answersToLose > 0) {
        if (pair.asked !== undefined && pair.asked !== direction) {
          this.#answersToLose--;
          this.#end(pair);
          return;
        }
        if (chunk.length >= REQUEST_BYTES_MIN) pair.asked = direction;
      }
      to.write(chunk);
    });
    from.on('error', () => undefined);
    from.on('close', () => {
      // A direction that is cut does not tell of an end either.
      if (this.#directions(pair).includes(direction)) return;
      this.#end(pair);
    });
  }

  #directions(pair: Pair): readonly Direction[] {
    return pair.hello.includes(this.#cut.who) ? this.#cut.directions : [];
  }

  #apply(pair: Pair): void {
    const directions = this.#directions(pair);
    for (const [socket, direction] of [
      [pair.near, 'there'],
      [pair.far, 'back'],
    ] as const) {
      if (directions.includes(direction)) socket.pause();
      else if (socket.destroyed) this.#end(pair);
      else socket.resume();
    }
  }

  #end(pair: Pair): void {
    this.#pairs.delete(pair);
    pair.near.destroy();
    pair.far.destroy();
  }
}

function listen(host: string, port: number): Promise<Server | undefined> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => resolve(undefined));
    server.listen(port, host, () => resolve(server));
  });
}
