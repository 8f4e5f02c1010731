import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { parse } from 'yaml';
import { runCommandLine } from '../src/command-line.js';
import { type Config, defaultConfig } from '../src/core/config.js';
import { GomqError } from '../src/core/errors.js';
import { version } from '../src/core/version.js';

const folder = mkdtempSync(join(tmpdir(), 'gomq-command-line-'));
after(() => rmSync(folder, { recursive: true }));

interface Outcome {
  exitCode: number;
  stdout: string;
  stderr: string;
  started: Config | undefined;
}

async function run(argv: string[], env: Record<string, string> = {}, failure?: Error): Promise<Outcome> {
  const outcome: Outcome = { exitCode: -1, stdout: '', stderr: '', started: undefined };
  outcome.exitCode = await runCommandLine(argv, {
    env,
    stdout: (text) => {
      outcome.stdout += text;
    },
    stderr: (text) => {
      outcome.stderr += text;
    },
    start: async (config) => {
      if (failure !== undefined) throw failure;
      outcome.started = config;
    },
  });
  return outcome;
}

describe('gomq', () => {
  it('starts with the defaults', async () => {
    const { exitCode, stdout, stderr, started } = await run(['start']);
    assert.deepEqual([exitCode, stdout, stderr], [0, '', '']);
    assert.deepEqual(started, defaultConfig());
  });

  it('starts with flags, environment and file together', async () => {
    const file = join(folder, 'gomq.yaml');
    writeFileSync(file, 'mqtt: { retain: false }\n');
    const flags = [
      '--config',
      file,
      '--mqtt',
      ':1',
      '--mqtt',
      ':2',
      '--http',
      'off',
      '--set',
      'limits.sessions=3',
    ];
    const { started } = await run(['start', ...flags, '--set', 'node.id=n1'], { GOMQ_LOGGER__LEVEL: 'warn' });
    assert.deepEqual([started?.listeners.mqtt, started?.http.listen], [[':1', ':2'], '']);
    assert.deepEqual([started?.limits.sessions, started?.node.id], [3, 'n1']);
    assert.deepEqual([started?.logger.level, started?.mqtt.retain], ['warn', false]);
  });

  it('prints its version', async () => {
    const { exitCode, stdout } = await run(['--version']);
    assert.deepEqual([exitCode, stdout], [0, `${version}\n`]);
    assert.match(version, /^\d+\.\d+\.\d+/);
  });

  it('explains itself with examples', async () => {
    for (const argv of [['--help'], ['help']]) {
      const { exitCode, stdout, stderr } = await run(argv);
      assert.deepEqual([exitCode, stderr], [0, '']);
      assert.match(stdout, /Examples:\n {2}gomq start /);
    }
    const { exitCode, stderr } = await run([]);
    assert.equal(exitCode, 2);
    assert.match(stderr, /^Usage: gomq/);
  });

  const wrong: [string[], RegExp][] = [
    [['strat'], /^gomq: unknown command 'strat' \(Did you mean start\?\)\n$/],
    [['start', '--hlep'], /^gomq: unknown option '--hlep' \(Did you mean --help\?\)\n$/],
    [['start', 'now'], /^gomq: too many arguments for 'start'.*\n$/],
    [['start', '--set'], /^gomq: option '.*' argument missing\n$/],
    [['start', '--mqtt', '1883'], /^gomq: --mqtt: listeners\.mqtt\[0\] = "1883": expected HOST:PORT\n$/],
    [
      ['start', '--set', 'limits.conections=1'],
      /^gomq: --set: unknown key .* did you mean limits\.connections\?\n$/,
    ],
    [['check-config', '--set', 'a'], /^gomq: --set a: expected key\.path=value\n$/],
  ];
  for (const [argv, line] of wrong) {
    it(`answers '${argv.join(' ')}' with one line and exit code 2`, async () => {
      const { exitCode, stdout, stderr, started } = await run(argv);
      assert.deepEqual([exitCode, stdout, started], [2, '', undefined]);
      assert.match(stderr, line);
    });
  }

  it('tells a failure in words, and a defect with its stack', async () => {
    const failed = await run(
      ['start'],
      {},
      new GomqError('ADDRESS_IN_USE', 'cannot listen on :1', { hint: 'Choose.' }),
    );
    assert.deepEqual([failed.exitCode, failed.stderr], [1, 'gomq: cannot listen on :1\n      Choose.\n']);
    const defect = await run(['start'], {}, new TypeError('oops'));
    assert.equal(defect.exitCode, 1);
    assert.match(defect.stderr, /^gomq: TypeError: oops\n +at /);
  });

  it('checks the configuration and the files it names', async () => {
    const right = await run(['check-config']);
    assert.deepEqual(
      [right.exitCode, right.stdout, right.started],
      [0, 'the configuration is right\n', undefined],
    );
    const missing = await run(['check-config', '--set', 'auth.aclFile=/no/such']);
    assert.equal(missing.exitCode, 1);
    assert.match(missing.stderr, /^gomq: auth\.aclFile: cannot read \/no\/such: ENOENT\n/);
  });

  it('prints a configuration that it can read again', async () => {
    const { stdout } = await run(['print-config', '--set', 'limits.sessions=3', '--mqtt', '[::1]:0']);
    const file = join(folder, 'printed.yaml');
    writeFileSync(file, stdout);
    const { started } = await run(['start', '--config', file]);
    assert.deepEqual([started?.limits.sessions, started?.listeners.mqtt], [3, ['[::1]:0']]);
    assert.deepEqual(parse(stdout), started);
  });

  it('prints JSON where asked, and never a secret', async () => {
    const env = { GOMQ_HTTP__TOKEN: 'hunter2' };
    const json = await run(['print-config', '--json'], env);
    assert.deepEqual(JSON.parse(json.stdout), {
      ...defaultConfig(),
      http: { listen: '127.0.0.1:8000', token: '(hidden)' },
    });
    assert.doesNotMatch((await run(['print-config'], env)).stdout, /hunter2/);
  });
});
