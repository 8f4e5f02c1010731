// Owns what is measured on every broker, and the targets that each case has.
import type { BrokerName } from './brokers.js';

export interface Case {
  name: string;
  title: string;
  /** For the generator. */
  args: readonly string[];
  metric: 'delivered per second' | 'median latency';
  /** gomq to Mosquitto: at least this for throughput, at most this for latency. Undefined: for information. */
  target: number | undefined;
  /** gomq to gomq before, in the same way. */
  beforeTarget: number | undefined;
  brokers: readonly BrokerName[];
}

const ALL: readonly BrokerName[] = ['gomq', 'gomq before', 'mosquitto', 'aedes'];
const DURABLE: readonly BrokerName[] = ['gomq', 'gomq before', 'mosquitto'];
const THROUGHPUT_BEFORE = 0.95;
const LATENCY_BEFORE = 1.05;

export const CASES: readonly Case[] = [
  qos0('qos0-4-4', 'QoS 0, four to four', 6, 'pair', 4, 4),
  qos0('qos0-1-50', 'QoS 0, one to fifty', 6, 'fanout', 1, 50),
  qos0('qos0-50-1', 'QoS 0, fifty to one', 4, 'fanin', 50, 1),
  acknowledged('qos1-4-4-w500', 'QoS 1, window 500, four to four', 3, 1, 500),
  acknowledged('qos1-4-4', 'QoS 1, window 100, four to four', 1.5, 1, 100),
  acknowledged('qos2-4-4-w500', 'QoS 2, window 500, four to four', 1.5, 2, 500),
  acknowledged('qos2-4-4', 'QoS 2, window 100, four to four', undefined, 2, 100),
  durable('qos1-durable-w500', 'QoS 1, window 500, four to four durable sessions', 1, 500),
  durable('qos1-durable', 'QoS 1, window 100, four to four durable sessions', 1, 100),
  durable('qos2-durable-w500', 'QoS 2, window 500, four to four durable sessions', 2, 500),
  latency('latency-qos0', 'QoS 0, 2,000 messages/s, one to one', 0, 1.5),
  latency('latency-qos1', 'QoS 1, 2,000 messages/s, one to one', 1, undefined),
];

function qos0(name: string, title: string, target: number, mode: string, pubs: number, subs: number): Case {
  const args = ['--mode', mode, '--qos', '0', '--pubs', `${pubs}`, '--subs', `${subs}`, '--size', '64'];
  const metric = 'delivered per second';
  return { name, title, args, metric, target, beforeTarget: THROUGHPUT_BEFORE, brokers: ALL };
}

function acknowledged(
  name: string,
  title: string,
  target: number | undefined,
  qos: 1 | 2,
  window: number,
): Case {
  const args = ['--qos', `${qos}`, '--pubs', '4', '--subs', '4', '--size', '64', '--window', `${window}`];
  const metric = 'delivered per second';
  return { name, title, args, metric, target, beforeTarget: THROUGHPUT_BEFORE, brokers: ALL };
}

function durable(name: string, title: string, qos: 1 | 2, window: number): Case {
  const plain = acknowledged(name, title, undefined, qos, window);
  return { ...plain, args: [...plain.args, '--durable'], brokers: DURABLE };
}

function latency(name: string, title: string, qos: 0 | 1, target: number | undefined): Case {
  const args = ['--qos', `${qos}`, '--size', '64', '--rate', '2000'];
  return { name, title, args, metric: 'median latency', target, beforeTarget: LATENCY_BEFORE, brokers: ALL };
}
