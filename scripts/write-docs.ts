// Writes the pages that repeat what the code holds. test/core/docs.test.ts fails while they differ: run `npm run docs` then.
import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { type ConfigKey, configKeys } from '../src/core/config.js';
import { variableOf } from '../src/core/config-load.js';
import { ERRORS } from '../src/core/errors.js';

/** Every generated page, by its path from the root of the project. */
export const pages: Readonly<Record<string, () => string>> = {
  'docs/CONFIGURATION.md': renderConfiguration,
  'docs/ERRORS.md': renderErrors,
};

const WRITTEN_BY = '<!-- Written by `npm run docs`; edit the table in the source instead. -->';

function renderErrors(): string {
  const rows = Object.entries(ERRORS).map(
    ([code, { meaning, hint }]) => `| \`${code}\` | ${cell(meaning)} | ${cell(hint)} |`,
  );
  return `# Errors

${WRITTEN_BY}

Every expected failure has one of these codes: in logs as \`code\`, in answers of the HTTP API as \`error.code\`. The message that
comes with it says what happened, with the values; the hint says what to do.

| code | what happened | what to do |
|---|---|---|
${rows.join('\n')}
`;
}

function renderConfiguration(): string {
  const names = [...new Set(configKeys.map(({ path }) => path.slice(0, path.indexOf('.'))))];
  const tables = names.map((name) => {
    const keys = configKeys.filter(({ path }) => path.startsWith(`${name}.`));
    return `## ${name}\n\n| key | default | takes | what it means |\n|---|---|---|---|\n${keys.map(row).join('\n')}\n`;
  });
  return `# Configuration

${WRITTEN_BY}

gomq needs none. What is set comes, the first that has it, from:

1. flags: \`--mqtt\`, \`--http\`, and \`--set key.path=value\` for any key;
2. environment variables: \`GOMQ_\`, the key in upper case with \`_\` before each new word and \`__\` between levels:
   \`log.segmentBytes\` is \`${variableOf('log.segmentBytes')}\`. An empty variable counts as not set;
3. the YAML file named by \`--config\`;
4. the defaults below.

In variables and after \`--set\`, lists are separated by commas (\`${variableOf('listeners.mqtt')}=127.0.0.1:9000,[::1]:9000\`), and \`off\`
stands for an empty list or no address. Numbers are plain digits; their unit is the end of the key's name. An address without a host,
\`:9000\`, is every address of the machine; port 0 takes a free one, which the ready line tells.

An unknown key or a wrong value stops \`gomq\` with exit code 2 and a line for each, which names the file and line, variable or flag.
\`gomq check-config\` checks without starting, the files that the configuration names included; \`gomq print-config\` prints every key with
its value, in the form of the file below.

\`\`\`yaml
listeners:
  mqtt: [':1883']
  mqtts: [':8883']
  tls:
    cert: /etc/gomq/tls.crt
    key: /etc/gomq/tls.key
auth:
  anonymous: never
  passwordFile: /etc/gomq/passwords
limits:
  connections: 10000
\`\`\`

${tables.join('\n')}`;
}

function row(key: ConfigKey): string {
  const takes = key.kind === 'list' ? `a list of ${key.expected}` : key.expected;
  return `| \`${key.path}\` | ${cell(showDefault(key.byDefault))} | ${cell(takes)} | ${cell(key.description)} |`;
}

function showDefault(value: unknown): string {
  if (value === '') return '';
  return Array.isArray(value) ? value.map((item) => `\`${item}\``).join(', ') : `\`${value}\``;
}

/** A bar would end the cell. */
function cell(text: string): string {
  return text.replaceAll('|', '\\|');
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  for (const [path, render] of Object.entries(pages)) writeFileSync(path, render());
}
