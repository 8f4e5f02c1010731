// Owns what is measured on every broker, and the target each case has.

export interface Case {
  name: string;
  title: string;
  /** For the generator. */
  args: readonly string[];
  metric: 'delivered per second' | 'median latency';
  /** gomq to Mosquitto: at least this for throughput, at most this for latency. */
  target: number;
}

export const CASES: readonly Case[] = [
  throughput('qos0-4-4', 'QoS 0, four to four', 6, 'pair', 0, 4, 4),
  throughput('qos0-1-50', 'QoS 0, one to fifty', 6, 'fanout', 0, 1, 50),
  throughput('qos0-50-1', 'QoS 0, fifty to one', 4, 'fanin', 0, 50, 1),
  throughput('qos1-4-4', 'QoS 1, window 100, four to four', 5, 'pair', 1, 4, 4),
  throughput('qos2-4-4', 'QoS 2, window 100, four to four', 4, 'pair', 2, 4, 4),
  latency('latency-qos0', 'QoS 0, 2,000 messages/s, one to one', 0),
  latency('latency-qos1', 'QoS 1, 2,000 messages/s, one to one', 1),
];

function throughput(
  name: string,
  title: string,
  target: number,
  mode: string,
  qos: number,
  pubs: number,
  subs: number,
): Case {
  const args = ['--mode', mode, '--qos', `${qos}`, '--pubs', `${pubs}`, '--subs', `${subs}`, '--size', '64'];
  return { name, title, args, metric: 'delivered per second', target };
}

function latency(name: string, title: string, qos: number): Case {
  const args = ['--qos', `${qos}`, '--size', '64', '--rate', '2000'];
  return { name, title, args, metric: 'median latency', target: 1.5 };
}
