// Tries docker-compose.yml for real: builds the image, starts the file, runs the commands that the README shows, kills the container that leads while
// messages are published, starts it again, and holds that everything acknowledged is there through every broker. Takes everything down at the end.
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { setTimeout as delay } from 'node:timers/promises';
import { Command, CommanderError } from 'commander';

const BROKERS = ['gomq', 'gomq-2', 'gomq-3'] as const;
const CONTAINERS = ['gomq-etcd', ...BROKERS] as const;
/** A name of its own: the volumes of a cluster that somebody runs with the file are not touched. */
const PROJECT = 'gomq-compose-test';
const SEED = 'hello world everyone';
const TOPIC = 'compose/orders';
const BATCH_MESSAGES = 20;
/** Acknowledged before the kill, while the leader is gone, and once it is back. */
const BATCHES_BETWEEN = 4;
const WAIT_MS_MAX = 120_000;
const LOOK_EVERY_MS = 500;
/** What the file takes from the shell, or from a file .env; podman-compose 1.0 does not give its default to what is empty. */
const ENVIRONMENT = {
  ...process.env,
  GOMQ_CLUSTER__SECRET: 'the secret of a test',
  GOMQ_AUTH__ANONYMOUS: 'loopback',
  GOMQ_HTTP__TOKEN: '',
};
const EXIT_FAILED = 1;
const EXIT_WRONG_USE = 2;

interface Tools {
  readonly engine: 'docker' | 'podman';
  readonly compose: readonly string[];
}

interface Outcome {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

interface CallOptions {
  readonly stdin?: string;
  /** What it writes is shown as it comes, and not kept. */
  readonly isShown?: boolean;
}

/** What the user should read, without a stack. */
class Failure extends Error {}

let isInterrupted = false;
const underWay = new Set<ChildProcess>();

/** Ends what is under way, so that everything is taken down. */
function interrupt(): void {
  isInterrupted = true;
  // Each is a process group, and so is what it has started itself.
  for (const { pid } of underWay) if (pid !== undefined) process.kill(-pid, 'SIGTERM');
}

/** Runs a program to its end, whatever that is; one that is not there ends with null. */
function call([program, ...args]: readonly string[], options: CallOptions = {}): Promise<Outcome> {
  return new Promise((done) => {
    const output = options.isShown === true ? 'inherit' : 'pipe';
    // Ctrl-C is for this process, which takes down what it has started.
    const child = spawn(program!, args, {
      stdio: ['pipe', output, output],
      detached: true,
      env: ENVIRONMENT,
    });
    underWay.add(child);
    let stdout = '';
    let stderr = '';
    child.stdout?.on('data', (chunk: Buffer) => {
      stdout += chunk;
    });
    child.stderr?.on('data', (chunk: Buffer) => {
      stderr += chunk;
    });
    child.stdin!.on('error', () => undefined);
    child.stdin!.end(options.stdin ?? '');
    const end = (code: number | null): void => {
      underWay.delete(child);
      done({ code, stdout, stderr });
    };
    child.once('error', (error) => {
      stderr += error.message;
      end(null);
    });
    child.once('close', end);
  });
}

async function succeeds(...command: readonly string[]): Promise<boolean> {
  return (await call(command)).code === 0;
}

/** @throws {Failure} that says what to install */
async function findTools(): Promise<Tools> {
  if ((await succeeds('docker', 'compose', 'version')) && (await succeeds('docker', 'info'))) {
    return { engine: 'docker', compose: ['docker', 'compose', '-p', PROJECT] };
  }
  if ((await succeeds('podman-compose', 'version')) && (await succeeds('podman', 'info'))) {
    return { engine: 'podman', compose: ['podman-compose', '-p', PROJECT] };
  }
  throw new Failure(
    'needs Docker with its compose plugin and a running engine, or podman with podman-compose: install one of them',
  );
}

class Composed {
  readonly #tools: Tools;

  constructor(tools: Tools) {
    this.#tools = tools;
  }

  /** @throws {Failure} where the names of the containers are somebody else's */
  async checkNames(): Promise<void> {
    const { stdout } = await this.#engine('ps', '-a', '--format', '{{.Names}}');
    const taken = CONTAINERS.filter((name) => stdout.split(/\s+/).includes(name));
    if (taken.length === 0) return;
    throw new Failure(`there are containers ${taken.join(', ')} already: docker compose down removes them`);
  }

  async compose(...args: readonly string[]): Promise<void> {
    const { code } = await call([...this.#tools.compose, ...args], { isShown: true });
    if (isInterrupted && args[0] !== 'down') throw new Failure('interrupted');
    if (code !== 0) throw new Failure(`${this.#tools.compose[0]} ${args.join(' ')} ended with ${code}`);
  }

  async down(): Promise<void> {
    await this.compose('down', '-v');
    // podman-compose 1.0 leaves it there; where it is gone already there is nothing to do.
    await this.#engine('network', 'rm', `${PROJECT}_default`);
  }

  /** `docker kill gomq`, say. */
  async act(action: 'kill' | 'start', container: string): Promise<void> {
    const { code, stderr } = await this.#engine(action, container);
    assert.equal(code, 0, `${action} ${container}: ${stderr}`);
  }

  async isHealthy(container: string): Promise<boolean> {
    // podman has systemd ask, which not every machine runs; here it asks itself.
    if (this.#tools.engine === 'podman')
      return (await this.#engine('healthcheck', 'run', container)).code === 0;
    const { stdout } = await this.#engine('inspect', '--format', '{{.State.Health.Status}}', container);
    return stdout.trim() === 'healthy';
  }

  /** Runs a command in a container. */
  exec(container: string, command: readonly string[], stdin?: string): Promise<Outcome> {
    return call(
      [this.#tools.engine, 'exec', '-i', container, ...command],
      stdin === undefined ? {} : { stdin },
    );
  }

  /** The same until it succeeds, as whoever typed it would; answers what it printed. A resolver that has just begun may not know all names. */
  async execWell(container: string, command: readonly string[]): Promise<string> {
    let outcome: Outcome | undefined;
    await until(`${command.join(' ')} in ${container}`, async () => {
      outcome = await this.exec(container, command);
      if (outcome.code !== 0) console.log(`${container}, tried again: ${outcome.stderr.trimEnd()}`);
      return outcome.code === 0;
    });
    return outcome!.stdout;
  }

  /** What GET /api/v1/cluster answers in a container; undefined where nothing does. */
  async status(container: string): Promise<{ leader: string | null; inSync: string[] } | undefined> {
    const ask = `fetch('http://127.0.0.1:8000/api/v1/cluster').then(async (answer) => {
      console.log(await answer.text());
      process.exitCode = answer.ok ? 0 : 1;
    })`;
    const { code, stdout } = await this.exec(container, ['node', '-e', ask]);
    return code === 0 ? JSON.parse(stdout) : undefined;
  }

  /** The last lines of every broker, for whoever looks into a failure. */
  async showLogs(): Promise<void> {
    for (const container of CONTAINERS) {
      const { stdout, stderr } = await this.#engine('logs', '--tail', '40', container);
      console.error(`-- ${container}\n${stdout}${stderr}`);
    }
  }

  #engine(...args: readonly string[]): Promise<Outcome> {
    return call([this.#tools.engine, ...args]);
  }
}

function gomqctl(topic: string): string[] {
  return ['gomqctl', '--topic', topic, '--connect', '127.0.0.1:9000'];
}

/** Publishes numbered messages through every broker in turn, those that were not acknowledged again. */
class Publisher {
  readonly #composed: Composed;
  readonly #acknowledged: string[] = [];
  readonly #running: Promise<void>;
  #isDone = false;

  constructor(composed: Composed) {
    this.#composed = composed;
    this.#running = this.#run();
  }

  get acknowledged(): number {
    return this.#acknowledged.length;
  }

  /** Waits until so many further batches are acknowledged. */
  async more(batches: number): Promise<void> {
    const target = this.acknowledged + batches * BATCH_MESSAGES;
    await until(`${target} messages to be acknowledged`, async () => this.acknowledged >= target);
  }

  /** Ends it, and answers what was acknowledged. */
  async finish(): Promise<readonly string[]> {
    this.#isDone = true;
    await this.#running;
    return this.#acknowledged;
  }

  async #run(): Promise<void> {
    for (let turn = 0; !this.#isDone; turn++) {
      const first = this.acknowledged;
      const batch = Array.from({ length: BATCH_MESSAGES }, (_, index) => `order ${first + index}`);
      const container = BROKERS[turn % BROKERS.length]!;
      const command = [...gomqctl(TOPIC), '--qos', '1', 'pub', '-l', '-W', '20'];
      const { code } = await this.#composed.exec(container, command, `${batch.join('\n')}\n`);
      if (code === 0) this.#acknowledged.push(...batch);
      else await delay(LOOK_EVERY_MS);
    }
  }
}

async function until(what: string, isSo: () => Promise<boolean>): Promise<void> {
  const endMs = performance.now() + WAIT_MS_MAX;
  while (!(await isSo())) {
    if (isInterrupted) throw new Failure('interrupted');
    if (performance.now() > endMs) throw new Failure(`waited ${WAIT_MS_MAX} ms for ${what}`);
    await delay(LOOK_EVERY_MS);
  }
}

function step(text: string): void {
  if (isInterrupted) throw new Failure('interrupted');
  console.log(`== ${text}`);
}

async function allInSync(composed: Composed): Promise<void> {
  await until('three brokers in sync', async () => {
    const statuses = await Promise.all(BROKERS.map((name) => composed.status(name)));
    return statuses.every((status) => BROKERS.every((name) => status?.inSync.includes(name)));
  });
}

async function leaderOf(composed: Composed, asked: readonly string[] = BROKERS): Promise<string> {
  let leader: string | null | undefined;
  await until('a leader', async () => {
    const statuses = await Promise.all(asked.map((name) => composed.status(name)));
    leader = statuses[0]?.leader;
    return leader != null && asked.includes(leader) && statuses.every((status) => status?.leader === leader);
  });
  return leader!;
}

async function seedCommands(composed: Composed): Promise<void> {
  let received: string | undefined;
  const subscribed = composed.execWell('gomq-2', [...gomqctl('A'), 'sub', '-C', '1', '-W', '60']);
  const isOver = subscribed.then((line) => {
    received = line;
  });
  // What is published before the subscriber comes is not kept for it.
  const published = until('the subscriber in gomq-2', async () => {
    await composed.execWell('gomq', [...gomqctl('A'), 'pub', ...SEED.split(' ')]);
    return received !== undefined;
  });
  await Promise.all([isOver, published]);
  assert.equal(received, `${SEED}\n`);
  await composed.execWell('gomq', [...gomqctl('A'), '--qos', '1', 'pub', ...SEED.split(' ')]);
  const listed = await composed.execWell('gomq-3', [...gomqctl('A'), 'list']);
  assert.ok(listed.includes(SEED), `gomq-3 lists the message:\n${listed}`);
}

async function killAndReturn(composed: Composed): Promise<void> {
  const publisher = new Publisher(composed);
  try {
    await publisher.more(BATCHES_BETWEEN);
    const killed = await leaderOf(composed);
    step(`kill ${killed}, which leads`);
    const killedMs = performance.now();
    await composed.act('kill', killed);
    const others = BROKERS.filter((name) => name !== killed);
    const next = await leaderOf(composed, others);
    console.log(`${next} leads, seen ${Math.round(performance.now() - killedMs)} ms after the kill`);
    await publisher.more(BATCHES_BETWEEN);
    step(`start ${killed} again`);
    await composed.act('start', killed);
    await allInSync(composed);
    console.log(`${killed} is in sync again`);
    await publisher.more(BATCHES_BETWEEN);
  } finally {
    await publisher.finish();
  }
  const acknowledged = await publisher.finish();
  step(`list the ${acknowledged.length} messages that were acknowledged, through every broker`);
  for (const broker of BROKERS) {
    const lines = await composed.execWell(broker, [...gomqctl(TOPIC), 'list', '--json']);
    const payloads = lines
      .trimEnd()
      .split('\n')
      .map((line) => (JSON.parse(line) as { payload: string }).payload);
    const listed = new Set(payloads);
    const lost = acknowledged.filter((payload) => !listed.has(payload));
    assert.deepEqual(lost, [], `${broker} has everything that was acknowledged`);
    console.log(`${broker} lists ${payloads.length}, ${payloads.length - listed.size} of them twice`);
  }
}

async function run({ build }: { build: boolean }): Promise<void> {
  const composed = new Composed(await findTools());
  await composed.checkNames();
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => {
      if (!isInterrupted) interrupt();
    });
  }
  try {
    if (build) {
      step('build the image');
      await composed.compose('build');
    }
    step('start');
    await composed.compose('up', '-d', '--no-build');
    step('wait until all are healthy and in sync');
    for (const container of CONTAINERS) await until(container, () => composed.isHealthy(container));
    await allInSync(composed);
    step('the commands of the README');
    await seedCommands(composed);
    step('publish through every broker');
    await killAndReturn(composed);
  } catch (error) {
    if (!isInterrupted) await composed.showLogs();
    throw error;
  } finally {
    console.log('== take everything down');
    await composed.down();
  }
  console.log('docker-compose.yml works');
}

const program = new Command('npm run test:compose --')
  .description('Tries docker-compose.yml for real, with docker compose or podman-compose.')
  .option('--no-build', 'the image gomq is there already')
  .configureOutput({
    outputError: (text, write) =>
      write(
        `${text
          .trimEnd()
          .replace(/^error: /, 'test-compose: ')
          .replaceAll('\n', ' ')}\n`,
      ),
  })
  .exitOverride()
  .allowExcessArguments(false)
  .action(run);

try {
  await program.parseAsync();
} catch (error) {
  if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? 0 : EXIT_WRONG_USE;
  else {
    console.error(`test-compose: ${error instanceof Failure ? error.message : (error as Error).stack}`);
    process.exitCode = EXIT_FAILED;
  }
}
