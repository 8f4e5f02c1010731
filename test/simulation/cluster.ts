// A whole cluster in one process, driven by a seed: its machines, the network between them, etcd, clients, and what goes wrong. After a time of
// faults everything is put right; then writes must go on, and all nodes must come to have the same log.
import { Checker } from './checker.js';
import { Client } from './clients.js';
import { Directory } from './directory.js';
import { SimulatedEtcd } from './etcd.js';
import { type FaultKind, Faults } from './faults.js';
import { Network } from './network.js';
import { COMMITS, SimulatedNode } from './node.js';
import { Life, type Note, Violation, World } from './world.js';

/** After everything is put right, writes go on within this. */
const RESUME_MS = 15_000;
/** And everybody is in sync within this. */
const CONVERGE_MS = 40_000;
export const LEASE_MS = 3000;
const NOTES_SHOWN = Number(process.env.NOTES ?? 100);
/** Of a directory, so that an emptied one that comes back is another. */
const CONVERGE_EVERY_MS = 250;

export interface SeedOptions {
  readonly seed: number;
  readonly keepsNotes?: boolean;
  /** Only these, where it is given. */
  readonly faults?: readonly FaultKind[] | undefined;
  /** Does something to the cluster before it runs. */
  readonly prepare?: (cluster: Cluster) => void;
}

export interface SeedResult {
  readonly events: number;
  readonly simulatedMs: number;
  readonly committed: number;
  readonly acknowledged: number;
  readonly epochs: number;
  readonly faults: ReadonlyMap<FaultKind, number>;
}

/** A machine with a disk, and the process on it, if there is one. */
export class Machine {
  readonly name: string;
  directory: Directory;
  node: SimulatedNode | undefined = undefined;
  life: Life | undefined = undefined;
  /** The one that is not mounted. */
  away: Directory | undefined = undefined;
  /** What its disk takes at most. */
  diskMs = 4;
  /** Its disk takes no note of an epoch. */
  refusesNotes = false;

  constructor(name: string, directory: Directory) {
    this.name = name;
    this.directory = directory;
  }
}

export class Cluster {
  readonly world: World;
  readonly network: Network;
  readonly etcd: SimulatedEtcd;
  readonly checker: Checker;
  readonly machines: readonly Machine[];
  readonly minInSync: number;
  readonly clients: readonly Client[];
  readonly #crashChance: number;
  /** Whoever is away for a while finds that the log does not reach back. */
  readonly #keepsLittle: boolean;
  isHealed = false;

  constructor(world: World, fixedSize?: number) {
    this.world = world;
    const { random } = world;
    const size = fixedSize ?? (random.chance(0.8) ? 3 : random.pick([1, 2, 5]));
    this.minInSync = Math.floor(size / 2) + 1;
    // A cluster of a size that is given is one that somebody wants to see without accidents.
    this.#crashChance = fixedSize === undefined && random.chance(0.3) ? 0.01 : 0;
    this.#keepsLittle = random.chance(0.4);
    this.network = new Network(world);
    if (random.chance(0.2)) this.network.slowMs = 40;
    this.etcd = new SimulatedEtcd(world, this.network, LEASE_MS);
    if (random.chance(0.2)) this.etcd.slowMs = 200;
    this.checker = new Checker(world, this.minInSync);
    this.etcd.onTransaction = (before, transaction) => {
      this.checker.onTransaction(before, transaction);
    };
    this.machines = Array.from({ length: size }, (_, i) => {
      const name = String.fromCharCode(97 + i);
      return new Machine(name, this.newDirectory(name));
    });
    world.onKilled = (life) => this.kill(this.machineOf(life.node), false);
    for (const machine of this.machines) {
      if (random.chance(0.2)) machine.diskMs = 30;
      world.after(world.delay(0, 1000), undefined, () => this.start(machine));
    }
    const pauseMs = random.pick([20, 60, 300]);
    this.clients = ['x', 'y'].map(
      (name) => new Client(world, name, pauseMs, () => this.machines.flatMap(({ node }) => node ?? [])),
    );
    world.note('world', () => `${size} nodes, ${this.minInSync} of them to commit`);
  }

  newDirectory(node: string): Directory {
    const directory = new Directory(this.world, node);
    this.checker.addDirectory(directory);
    return directory;
  }

  machineOf(node: string): Machine {
    return this.machines.find(({ name }) => name === node)!;
  }

  get running(): Machine[] {
    return this.machines.filter(({ life }) => life !== undefined);
  }

  /** Starts the process, unless it runs. */
  start(machine: Machine): void {
    if (machine.life !== undefined) return;
    this.network.onBoot(machine.name);
    const life = new Life(machine.name);
    life.crashChance = this.isHealed ? 0 : this.#crashChance;
    machine.life = life;
    this.world.reach(life, () => {
      machine.node = new SimulatedNode({
        world: this.world,
        network: this.network,
        etcd: this.etcd,
        checker: this.checker,
        directory: machine.directory,
        life,
        replicas: this.machines.length,
        minInSync: this.minInSync,
        diskMs: () => machine.diskMs,
        refusesNotes: () => machine.refusesNotes,
        keepsLittle: this.#keepsLittle,
        renewDirectory: () => {
          const { membership } = machine.directory;
          this.repair(machine);
          machine.directory.membership = membership;
          return machine.directory;
        },
        onFailure: (why) => {
          // What it sees under its name may be old, while etcd is away: an operator starts it again.
          if (!why.startsWith('another node called')) this.checker.fail(`${machine.name} gives up: ${why}`);
          this.world.note(machine.name, () => `gives up: ${why}`);
          this.kill(machine, false);
        },
        onStopped: () => {
          this.world.note(machine.name, () => 'has stopped');
          this.#end(machine, false);
          this.#startLater(machine);
        },
      });
    });
  }

  /** Kill -9, or the power of the machine. It comes back by itself. */
  kill(machine: Machine, isPower: boolean): void {
    if (machine.life === undefined) return;
    const writing = machine.node?.log?.writing ?? [];
    this.world.note(machine.name, () => (isPower ? 'loses its power' : 'is killed'));
    this.#end(machine, isPower);
    const mayTear = this.checker.mayTear(this.etcd.state);
    if (isPower) machine.directory.onPowerLoss(writing, mayTear);
    else machine.directory.onKilled(writing, mayTear);
    this.#startLater(machine);
  }

  /** An empty directory under the old name. */
  repair(machine: Machine): void {
    machine.directory.isLost = true;
    machine.directory = this.newDirectory(machine.name);
    this.world.note(machine.name, () => `has an empty directory, ${machine.directory.incarnation}`);
  }

  #end(machine: Machine, isPower: boolean): void {
    const { life } = machine;
    life!.isAlive = false;
    machine.node?.forget();
    machine.node = undefined;
    machine.life = undefined;
    this.network.onGone(life!, isPower);
  }

  #startLater(machine: Machine): void {
    const afterMs = this.isHealed ? 100 : this.world.delay(20, 6000);
    this.world.after(afterMs, undefined, () => this.start(machine));
  }

  // ---- a run ------------------------------------------------------------------------------------------------------------------------

  run(faults: Faults): void {
    const { world } = this;
    const faultyMs = world.random.integer(8, 25) * 1000;
    this.#operate();
    faults.begin();
    world.runUntil(faultyMs);
    faults.end();
    this.isHealed = true;
    for (const machine of this.machines) {
      if (machine.life !== undefined) machine.life.crashChance = 0;
      machine.diskMs = 4;
      machine.refusesNotes = false;
      this.start(machine);
    }
    world.note('world', () => 'everything is put right');
    const healedMs = world.nowMs;
    let resumedMs: number | undefined;
    for (;;) {
      world.runUntil(world.nowMs + CONVERGE_EVERY_MS);
      const sinceMs = world.nowMs - healedMs;
      if (resumedMs === undefined && this.clients.some((one) => one.lastAcknowledgedMs > healedMs + 10))
        resumedMs = world.nowMs;
      if (resumedMs === undefined && sinceMs > RESUME_MS)
        this.checker.fail(`nothing is acknowledged within ${RESUME_MS} ms of everything being put right`);
      const problem = this.#problem();
      if (problem === undefined && resumedMs !== undefined) break;
      if (sinceMs > CONVERGE_MS)
        this.checker.fail(`${CONVERGE_MS} ms after everything was put right: ${problem}`);
    }
    for (const client of this.clients) client.stop();
    const quietMs = world.nowMs;
    for (;;) {
      world.runUntil(world.nowMs + CONVERGE_EVERY_MS);
      const problem = this.#problem() ?? this.#difference();
      if (problem === undefined) break;
      if (world.nowMs - quietMs > CONVERGE_MS)
        this.checker.fail(`${CONVERGE_MS} ms after the last message: ${problem}`);
    }
    for (const { directory } of this.machines) this.checker.checkAcknowledged(directory);
  }

  /** What is not yet as it was. */
  #problem(): string | undefined {
    const { state } = this.etcd;
    const leaders = this.machines.filter(({ node }) => node?.isServing === true);
    if (leaders.length !== 1) return `${leaders.length} nodes serve`;
    for (const { name, directory } of this.machines) {
      if (!(state?.inSync.some(({ incarnation }) => incarnation === directory.incarnation) ?? false))
        return `${name} is not in sync`;
    }
    const flaws = this.machines.map(({ directory }) => directory.newestSnapshot?.flaw ?? '');
    return new Set(flaws).size === 1 ? undefined : `the states differ: '${flaws.join("', '")}'`;
  }

  #difference(): string | undefined {
    const ends = this.machines.map(({ node }) => node?.log?.highWatermark);
    return new Set(ends).size === 1 ? undefined : `nodes have applied up to ${ends.join(', ')}`;
  }

  /** Somebody who sees to what the program leaves to people: keys that are gone. */
  #operate(): void {
    this.world.after(1000, undefined, () => {
      this.#operate();
      if (this.isHealed && this.etcd.state === undefined) this.restoreKeys();
    });
  }

  /** The last state that was there, for an operator to bring back. */
  restoreKeys: () => void = () => undefined;
}

/** Runs one seed. @throws {Violation} and whatever the cores throw */
function runWorld({ faults: only, prepare }: SeedOptions, world: World): SeedResult {
  const cluster = new Cluster(world);
  prepare?.(cluster);
  const faults = new Faults(cluster, only);
  try {
    cluster.run(faults);
  } catch (error) {
    world.note('world', () => `FAILED: ${(error as Error).message}`);
    throw error;
  }
  return {
    events: world.events,
    simulatedMs: world.nowMs,
    committed: cluster.checker.committed.length,
    acknowledged: cluster.checker.acknowledged.length,
    epochs: cluster.checker.epochsServed,
    faults: faults.counts,
  };
}

/** Runs a seed; one that fails runs again, to tell what happened. @throws {Violation} with the history */
export function runSeed(options: SeedOptions): SeedResult {
  try {
    return runWorld(options, new World(options.seed, false));
  } catch (error) {
    const world = new World(options.seed, true);
    let again: unknown;
    try {
      runWorld(options, world);
    } catch (second) {
      again = second;
    }
    const isSame = (again as Error | undefined)?.message === (error as Error).message;
    const history = formatNotes(world.notes!);
    const message = `SEED=${options.seed}${isSame ? '' : ' (which did not fail the same way again)'}: ${(error as Error).message}\n${history}`;
    throw new Violation(message, { cause: error });
  }
}

function formatNotes(notes: readonly Note[]): string {
  const shown = notes.filter(({ who, text }, i) => {
    const next = notes[i + 1];
    return !text.startsWith(COMMITS) || next?.who !== who || !next.text.startsWith(COMMITS);
  });
  return shown
    .slice(-NOTES_SHOWN)
    .map(({ atMs, who, text }) => `${atMs.toFixed(1).padStart(9)} ms  ${who.padEnd(5)} ${text}`)
    .join('\n');
}
