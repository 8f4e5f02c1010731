// Clients that publish numbered messages to whoever serves. Each message is sent once: one whose acknowledgement does not come may be in the log or
// not, and the client goes on with the next one, wherever it is taken.
import type { SimulatedNode } from './node.js';
import type { World } from './world.js';

const PATIENCE_MS = 700;

export class Client {
  readonly #world: World;
  readonly #name: string;
  readonly #nodes: () => readonly SimulatedNode[];
  readonly #pauseMs: number;
  #node: SimulatedNode | undefined = undefined;
  #number = 0;
  #isOver = false;
  acknowledged = 0;
  lastAcknowledgedMs = 0;

  constructor(world: World, name: string, pauseMs: number, nodes: () => readonly SimulatedNode[]) {
    this.#world = world;
    this.#name = name;
    this.#nodes = nodes;
    this.#pauseMs = pauseMs;
    world.after(world.delay(0, 500), undefined, () => this.#publish());
  }

  stop(): void {
    this.#isOver = true;
  }

  #publish(): void {
    if (this.#isOver) return;
    const world = this.#world;
    const node = this.#choose();
    const again = (afterMs: number): void => world.after(afterMs, undefined, () => this.#publish());
    if (node === undefined) {
      again(100);
      return;
    }
    const content = `${this.#name}-${++this.#number}`;
    let isDone = false;
    const done = (isAcknowledged: boolean): void => {
      if (isDone) return;
      isDone = true;
      if (isAcknowledged) {
        this.acknowledged++;
        this.lastAcknowledgedMs = world.nowMs;
        again(world.delay(0.5, this.#pauseMs));
      } else {
        this.#node = undefined;
        again(world.delay(1, 50));
      }
    };
    world.after(world.delay(0.1, 2), undefined, () =>
      world.reach(node.life, () => {
        const isTaken = node.publish(content, () => {
          world.after(world.delay(0.1, 2), undefined, () => done(true));
        });
        if (!isTaken) world.after(1, undefined, () => done(false));
      }),
    );
    world.after(PATIENCE_MS, undefined, () => done(false));
  }

  #choose(): SimulatedNode | undefined {
    if (this.#node?.life.isAlive === true && this.#node.isServing) return this.#node;
    const serving = this.#nodes().filter(({ isServing }) => isServing);
    this.#node = serving.length === 0 ? undefined : this.#world.random.pick(serving);
    return this.#node;
  }
}
