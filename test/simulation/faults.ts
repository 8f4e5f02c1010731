// What goes wrong, and when. A seed chooses some kinds of faults and how often they come, so that each is met alone and with each other. None takes
// more than the cluster promises to survive: of the disks that hold what was committed, one that is whole is always left.
import type { ClusterState } from '../../src/cluster/coordinator.js';
import { GOES_BEYOND } from './checker.js';
import type { Cluster, Machine } from './cluster.js';
import { type Copy, ETCD } from './etcd.js';

const KINDS = [
  'kill',
  'kill-leader',
  'kill-at-change',
  'kill-all',
  'power',
  'power-all',
  'pause',
  'pause-leader',
  'cut',
  'isolate',
  'cut-etcd',
  'reset-link',
  'swallow-link',
  'slow-network',
  'slow-disk',
  'etcd-down',
  'etcd-lossy',
  'etcd-slow',
  'etcd-restored',
  'etcd-wiped',
  'stop',
  'step-down',
  'let-go',
  'disk-error',
  'refuse-notes',
  'empty-directory',
  'unmounted-directory',
  'rot-end',
  'rot-middle',
  'wrong-state',
] as const;

export type FaultKind = (typeof KINDS)[number];

export class Faults {
  readonly #cluster: Cluster;
  readonly #kinds: readonly FaultKind[];
  readonly #everyMs: number;
  readonly counts = new Map<FaultKind, number>();
  /** How to end what lasts. */
  readonly #ends = new Set<() => void>();
  readonly #copies: Copy[] = [];
  /** The last one that was there. */
  #state: ClusterState | undefined = undefined;
  #isOver = false;
  /** When the next change is in etcd, the leader is killed. */
  #killsAtChange = false;

  constructor(cluster: Cluster, only: readonly FaultKind[] | undefined) {
    this.#cluster = cluster;
    const { random } = cluster.world;
    const count = random.integer(1, KINDS.length);
    const drawn = random.shuffle(KINDS).slice(0, count);
    this.#kinds = only ?? drawn;
    this.#everyMs = random.pick([300, 800, 2000]);
  }

  begin(): void {
    const { world, etcd } = this.#cluster;
    etcd.reusesRevisions = GOES_BEYOND;
    this.#later(world.delay(0, 3000));
    this.#copyLater();
    this.#cluster.restoreKeys = () => {
      if (this.#state === undefined) return;
      world.note('world', () => 'an operator brings the state key back');
      etcd.putState(this.#state);
      this.#cluster.checker.isStateForeign = false;
    };
    const { onTransaction } = etcd;
    etcd.onTransaction = (before, transaction) => {
      onTransaction(before, transaction);
      this.#state = transaction.state ?? this.#state;
      if (!this.#killsAtChange || this.#isOver) return;
      this.#killsAtChange = false;
      world.after(world.delay(0, 60), undefined, () => this.#kill(this.#leader, world.random.chance(0.3)));
    };
  }

  end(): void {
    this.#isOver = true;
    for (const end of this.#ends) end();
    this.#ends.clear();
  }

  #later(delayMs: number): void {
    const { world } = this.#cluster;
    world.after(delayMs, undefined, () => {
      if (this.#isOver) return;
      const kind = world.random.pick(this.#kinds);
      if (this.#happen(kind)) this.counts.set(kind, (this.counts.get(kind) ?? 0) + 1);
      this.#later(world.delay(1, this.#everyMs * 4));
    });
  }

  #copyLater(): void {
    this.#cluster.world.after(3000, undefined, () => {
      if (this.#isOver) return;
      this.#copies.push(this.#cluster.etcd.copy());
      this.#copyLater();
    });
  }

  /** For a while, or until everything is put right. */
  #last(what: string, fromMs: number, toMs: number, end: () => void): boolean {
    const { world } = this.#cluster;
    const durationMs = world.delay(fromMs, toMs);
    world.note('world', () => `${what} for ${durationMs.toFixed(0)} ms`);
    const once = (): void => {
      if (!this.#ends.delete(once)) return;
      world.note('world', () => `over: ${what}`);
      end();
    };
    this.#ends.add(once);
    world.after(durationMs, undefined, once);
    return true;
  }

  /** @returns whether there was anything to do it to */
  #happen(kind: FaultKind): boolean {
    const { world, network, etcd, machines, running } = this.#cluster;
    const { random } = world;
    const machine = random.pick(machines);
    switch (kind) {
      case 'kill':
        return this.#kill(machine, false);
      case 'kill-leader':
        return this.#kill(this.#leader, false);
      case 'kill-at-change':
        this.#killsAtChange = true;
        return true;
      case 'kill-all':
        for (const one of running) this.#cluster.kill(one, false);
        return true;
      case 'power':
        return this.#kill(machine, true);
      case 'power-all':
        for (const one of running) this.#cluster.kill(one, true);
        return true;
      case 'pause':
        return this.#pause(machine);
      case 'pause-leader':
        return this.#pause(this.#leader);
      case 'cut': {
        const other = random.pick(machines);
        if (other === machine) return false;
        const ends = [network.cut(machine.name, other.name)];
        if (random.chance(0.5)) ends.push(network.cut(other.name, machine.name));
        const what = `${machine.name} ${ends.length === 2 ? '<->' : '->'} ${other.name} is cut`;
        return this.#last(what, 50, 8000, () => {
          for (const end of ends) end();
        });
      }
      case 'isolate': {
        const others = [...machines.map(({ name }) => name), ETCD].filter((name) => name !== machine.name);
        const ends = others.flatMap((name) => [
          network.cut(machine.name, name),
          network.cut(name, machine.name),
        ]);
        return this.#last(`${machine.name} is cut off`, 50, 8000, () => {
          for (const end of ends) end();
        });
      }
      case 'cut-etcd': {
        const ways = random.pick(['to', 'from', 'both']);
        const ends: (() => void)[] = [];
        if (ways !== 'from') ends.push(network.cut(machine.name, ETCD));
        if (ways !== 'to') ends.push(network.cut(ETCD, machine.name));
        return this.#last(`etcd is cut from ${machine.name} (${ways})`, 50, 9000, () => {
          for (const end of ends) end();
        });
      }
      case 'reset-link':
      case 'swallow-link': {
        const { open } = network;
        if (open.length === 0) return false;
        const connection = random.pick(open);
        world.note('world', () => `${kind} ${connection.name}`);
        if (kind === 'reset-link') connection.reset();
        else {
          connection.swallow();
          this.#ends.add(() => connection.reset());
        }
        return true;
      }
      case 'slow-network': {
        const { slowMs } = network;
        if (slowMs >= 50) return false;
        network.slowMs = random.pick([50, 300, 1000]);
        return this.#last('the network is slow', 100, 4000, () => {
          network.slowMs = slowMs;
        });
      }
      case 'slow-disk': {
        const { diskMs } = machine;
        if (diskMs >= 50) return false;
        machine.diskMs = random.pick([50, 300, 1500]);
        return this.#last(`the disk of ${machine.name} is slow`, 100, 4000, () => {
          machine.diskMs = diskMs;
        });
      }
      case 'refuse-notes':
        if (machine.refusesNotes) return false;
        machine.refusesNotes = true;
        return this.#last(`the disk of ${machine.name} takes no notes`, 500, 8000, () => {
          machine.refusesNotes = false;
        });
      case 'etcd-down': {
        if (etcd.isDown) return false;
        etcd.isDown = true;
        const extendsLeases = random.chance(0.5);
        const toMs = random.chance(0.1) ? 60_000 : 6000;
        return this.#last('etcd is down', 50, toMs, () => etcd.comeBack(extendsLeases));
      }
      case 'etcd-lossy': {
        if (etcd.lossChance > 0) return false;
        etcd.lossChance = random.pick([0.1, 0.4]);
        return this.#last('etcd loses requests and answers', 100, 6000, () => {
          etcd.lossChance = 0;
        });
      }
      case 'etcd-slow': {
        const { slowMs } = etcd;
        if (slowMs >= 300) return false;
        etcd.slowMs = random.pick([300, 2000, 6000]);
        return this.#last('etcd is slow', 100, 6000, () => {
          etcd.slowMs = slowMs;
        });
      }
      case 'etcd-restored':
        return this.#restoreEtcd();
      case 'etcd-wiped':
        return this.#wipeEtcd();
      case 'stop':
        if (machine.node === undefined) return false;
        world.reach(machine.life!, () => machine.node?.stop());
        return true;
      case 'step-down': {
        const leader = this.#leader;
        if (leader?.life === undefined) return false;
        world.note(leader.name, () => 'is asked to step down');
        world.reach(leader.life, () => leader.node?.stepDown());
        return true;
      }
      case 'let-go':
        for (const one of running) world.reach(one.life!, () => one.node?.letGo());
        return true;
      case 'disk-error':
        return this.#failDisk(machine);
      case 'empty-directory':
        if (!this.#isSpare(machine)) return false;
        this.#cluster.kill(machine, false);
        this.#cluster.repair(machine);
        return true;
      case 'unmounted-directory':
        return this.#unmount(machine);
      case 'rot-end':
        if (!this.#isSpare(machine) || machine.directory.length === 0) return false;
        this.#cluster.kill(machine, false);
        machine.directory.rotEnd(
          random.integer(1, Math.min(random.chance(0.5) ? 40 : 4, machine.directory.length)),
        );
        world.note(machine.name, () => `the end of its log rots from ${machine.directory.file.length} on`);
        return true;
      case 'rot-middle':
        if (!this.#isSpare(machine) || machine.directory.file.length === 0) return false;
        this.#cluster.kill(machine, false);
        machine.directory.isDamaged = true;
        return true;
      case 'wrong-state':
        // Of two nobody knows which is right, and more than one at a time is more than others can tell.
        if (!this.#isSpare(machine) || machines.length < 3) return false;
        if (machines.some(({ directory }) => directory.hasErred)) return false;
        machine.directory.flaw = world.draw('flaw');
        world.note(machine.name, () => `errs about its state: ${machine.directory.flaw}`);
        return true;
    }
  }

  get #leader(): Machine | undefined {
    const leader = this.#cluster.etcd.leader?.node;
    return leader === undefined ? undefined : this.#cluster.machineOf(leader);
  }

  /** The others have everything without it. */
  #isSpare({ directory, away }: Machine): boolean {
    return away === undefined && this.#cluster.checker.isSpare(directory, this.#cluster.etcd.state);
  }

  #kill(machine: Machine | undefined, isPower: boolean): boolean {
    if (machine?.life === undefined) return false;
    this.#cluster.kill(machine, isPower);
    return true;
  }

  #pause(machine: Machine | undefined): boolean {
    const life = machine?.life;
    if (life === undefined || life.isPaused) return false;
    life.isPaused = true;
    return this.#last(`${life.node} is stopped`, 50, 9000, () => this.#cluster.world.resume(life));
  }

  /** An fsync that failed: the process ends, and the log goes on after what was synced before. */
  #failDisk(machine: Machine): boolean {
    if (machine.life === undefined) return false;
    this.#cluster.world.note(machine.name, () => 'an fsync fails');
    this.#cluster.kill(machine, false);
    machine.directory.truncate(machine.directory.syncedEnd);
    machine.directory.isTorn = false;
    return true;
  }

  /** It starts with an empty directory, because its own is not mounted; later it has its own again. */
  #unmount(machine: Machine): boolean {
    if (!this.#isSpare(machine)) return false;
    const { directory } = machine;
    this.#cluster.kill(machine, false);
    this.#cluster.repair(machine);
    directory.isLost = false;
    directory.isAway = true;
    machine.away = directory;
    return this.#last(`${directory.incarnation} is not mounted`, 300, 9000, () => {
      machine.away = undefined;
      directory.isAway = false;
      const there = machine.directory;
      // Meanwhile the cluster may count on the other one.
      if (!this.#isSpare(machine)) {
        directory.isLost = true;
        return;
      }
      this.#cluster.kill(machine, false);
      there.isLost = true;
      machine.directory = directory;
      this.#cluster.world.note(machine.name, () => `has ${directory.incarnation} again`);
    });
  }

  #wipeEtcd(): boolean {
    const { etcd, world, checker, machines } = this.#cluster;
    if (etcd.state === undefined || etcd.isDown) return false;
    // Those who know nothing could begin a new cluster, if they are enough and nobody else is there.
    if (machines.some(({ directory }) => directory.membership === undefined)) return false;
    world.note('world', () => 'etcd is wiped');
    checker.isStateForeign = true;
    etcd.restore(undefined);
    return true;
  }

  /**
   * From a copy that says the same of the epoch and of who is in sync. With an older one an epoch could be given twice, or a node be elected that
   * lacks something; BEYOND=1 shows how.
   */
  #restoreEtcd(): boolean {
    const { etcd, world, checker, machines } = this.#cluster;
    const { state } = etcd;
    if (state === undefined || etcd.isDown || this.#copies.length === 0) return false;
    const copy = world.random.pick(this.#copies);
    const there = copy.view.state?.value;
    const isSame = there?.epoch === state.epoch && namesOf(there) === namesOf(state);
    if (!isSame && !GOES_BEYOND) return false;
    // Nor is it of another cluster, which an operator would be told.
    const { clusterId } = there ?? state;
    if (machines.some(({ directory }) => (directory.membership?.clusterId ?? clusterId) !== clusterId))
      return false;
    world.note('world', () => `etcd is brought back as it was at revision ${copy.view.revision}`);
    checker.isStateForeign = true;
    etcd.restore(copy);
    return true;
  }
}

function namesOf({ inSync }: ClusterState): string {
  return inSync
    .map(({ incarnation }) => incarnation)
    .sort()
    .join();
}
