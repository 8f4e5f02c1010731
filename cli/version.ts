// Owns `gomqctl version` and where the version is read from.
import { readFileSync } from 'node:fs';
import { Command, Option } from 'commander';
import { MqttClient } from 'mqtt';
import type { Io } from './io.js';

/** The version in the package.json of gomq, which lies one folder up in the sources and two in the build. */
export function packageVersion(): string {
  for (const path of ['../package.json', '../../package.json']) {
    try {
      const parsed: unknown = JSON.parse(readFileSync(new URL(path, import.meta.url), 'utf8'));
      if (typeof parsed === 'object' && parsed !== null && 'version' in parsed) return String(parsed.version);
    } catch {
      // The other place has it.
    }
  }
  return 'unknown';
}

export function versionCommand(io: Io): Command {
  const command = new Command('version')
    .description('print the version of gomqctl')
    .option('--json', 'print it as a JSON object');
  // The usual options are allowed with every command, also where there is nothing to connect to.
  for (const flags of [
    '--connect <address>',
    '-t, --topic <topic>',
    '-q, --qos <qos>',
    '-r, --retain [0|1]',
  ]) {
    command.addOption(new Option(flags).hideHelp());
  }
  return command.action((options: { json?: boolean }) => {
    const version = packageVersion();
    const { VERSION } = MqttClient as unknown as { VERSION: string };
    const json = JSON.stringify({ version, node: process.versions.node, mqtt: VERSION });
    io.stdout.write(options.json ? `${json}\n` : `gomqctl ${version}\n`);
  });
}
