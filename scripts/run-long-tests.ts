// What takes too long for `npm test`: many simulated clusters, real ones under faults, hundreds of rounds of kill -9, then a soak. SIMULATION_MINUTES, CLUSTER_ROUNDS, ROUNDS and SOAK_MINUTES
// say how much of each (0 for none), SEED brings the simulation back, and the other schedules as far as the timing allows. Ends with 1 at the first
// failure, and leaves the data directory for whoever looks into it.
import { availableParallelism } from 'node:os';
import { Nodes } from '../test/cluster/nodes.js';
import { ClusterRounds, FAULTS } from '../test/cluster/rounds.js';
import { killAllBrokers, temporaryDirectory } from '../test/crash/broker-process.js';
import { Random, seedOf } from '../test/crash/random.js';
import { type RoundsResult, runRounds } from '../test/crash/rounds.js';
import { soak } from '../test/crash/soak.js';
import { runSeeds } from '../test/simulation/seeds.js';
import { temporaryFolder } from '../test/support/temporary-folder.js';
import { EtcdProcess } from './etcd.js';

/** Rounds on one directory before everything is drained and a new one begins. */
const ROUNDS_PER_DIRECTORY = 10;
const SMALL_SEGMENTS = ['log.segmentBytes=65536', 'log.retentionBytes=262144'];

const rounds = Number(process.env.ROUNDS ?? 300);
const soakMinutes = Number(process.env.SOAK_MINUTES ?? 30);
const clusterRounds = Number(process.env.CLUSTER_ROUNDS ?? 100);
const simulationMinutes = Number(process.env.SIMULATION_MINUTES ?? 10);
const seed = seedOf(process.env);
const beganMs = performance.now();

function say(line: string): void {
  console.log(`${((performance.now() - beganMs) / 1000).toFixed(1).padStart(8)} s  ${line}`);
}

function runSimulation(): void {
  const { text } = runSeeds({
    first: seed,
    seeds: Number.POSITIVE_INFINITY,
    seconds: simulationMinutes * 60,
    say,
  });
  say(`simulation: ${text}: 0 lost`);
}

/** Faults on three real brokers and a real etcd, ten on one cluster. */
async function runClusters(): Promise<void> {
  let acknowledged = 0;
  for (let done = 0, part = 0; done < clusterRounds; done += FAULTS.length, part++) {
    const random = new Random(seed + part);
    const etcd = await EtcdProcess.start();
    const nodes = new Nodes({ etcd: etcd.endpoint, folder: temporaryFolder(), names: ['a', 'b', 'c'] });
    const faults = random.shuffle(FAULTS).slice(0, clusterRounds - done);
    try {
      const result = await new ClusterRounds({ random, nodes, etcd, faults }).run();
      acknowledged += result.acknowledged;
      say(`cluster ${part + 1}, SEED=${seed + part}: ${JSON.stringify(result)}`);
    } finally {
      await etcd.remove();
    }
  }
  say(`clusters: ${clusterRounds} faults, ${acknowledged} acknowledged: 0 lost, 0 duplicated at QoS 2`);
}

async function runCrashes(): Promise<void> {
  const total = { rounds: 0, kills: 0, messages: 0, acknowledged: 0, delivered: 0, again: 0, wills: 0 };
  for (let part = 0; total.rounds < rounds; part++) {
    const random = new Random(seed + part);
    const isSmall = part % 2 === 1;
    const directory = temporaryDirectory();
    const name = `part ${part + 1}, ${isSmall ? 'small segments' : 'one segment'}`;
    let result: RoundsResult;
    try {
      result = await runRounds({
        random,
        rounds: Math.min(ROUNDS_PER_DIRECTORY, rounds - total.rounds),
        data: directory.path,
        settings: isSmall ? SMALL_SEGMENTS : [],
        payloadBytesMax: isSmall ? 4000 : 500,
      });
    } catch (error) {
      say(
        `FAILED in ${name}, SEED=${seed + part} ROUNDS=${ROUNDS_PER_DIRECTORY}; the data directory is ${directory.path}`,
      );
      throw error;
    }
    directory.remove();
    for (const key of Object.keys(total) as (keyof typeof total)[]) total[key] += result[key];
    say(
      `${total.rounds} of ${rounds} rounds: ${name}: ${result.messages} messages, ${result.acknowledged} acknowledged, ${result.delivered} delivered, ` +
        `log from ${result.logFrom} to ${result.logEnd}, snapshot ${result.snapshot}`,
    );
  }
  const { kills, messages, acknowledged, delivered, again, wills } = total;
  say(
    `crashes: ${total.rounds} rounds, ${kills} kills, ${messages} messages, ${acknowledged} acknowledged, ${delivered} delivered, ${wills} wills: ` +
      `0 lost, 0 duplicated at QoS 2, ${again} sent again at QoS 1`,
  );
}

async function runSoak(): Promise<void> {
  const directory = temporaryDirectory();
  const samples = await soak({ random: new Random(seed), minutes: soakMinutes, data: directory.path, say });
  directory.remove();
  const rss = samples.map(({ rssBytes }) => Math.round(rssBytes / 1024 / 1024));
  say(
    `soak: ${soakMinutes} minutes, rss ${rss[0]} MiB first, ${Math.max(...rss)} at most, ${rss.at(-1)} last`,
  );
}

say(
  `SEED=${seed} SIMULATION_MINUTES=${simulationMinutes} CLUSTER_ROUNDS=${clusterRounds} ROUNDS=${rounds} SOAK_MINUTES=${soakMinutes}, node ${process.version}, ${availableParallelism()} cores`,
);
try {
  if (simulationMinutes > 0) runSimulation();
  if (clusterRounds > 0) await runClusters();
  if (rounds > 0) await runCrashes();
  if (soakMinutes > 0) await runSoak();
} catch (error) {
  console.error(error);
  process.exitCode = 1;
} finally {
  await killAllBrokers();
}
