import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { configKeys, configSchema, defaultConfig } from '../../src/core/config.js';
import { type ConfigSources, loadConfig, variableOf } from '../../src/core/config-load.js';
import { GomqError } from '../../src/core/errors.js';

const folder = mkdtempSync(join(tmpdir(), 'gomq-config-'));
after(() => rmSync(folder, { recursive: true }));

function file(text: string): string {
  const path = join(folder, 'gomq.yaml');
  writeFileSync(path, text);
  return path;
}

/** The problems that loading reports, the folder of the file left out. */
function problems(sources: ConfigSources): string[] {
  try {
    loadConfig(sources);
  } catch (error) {
    assert.ok(error instanceof GomqError, String(error));
    assert.equal(error.code, 'CONFIG_INVALID');
    return error.message.split('\n').map((line) => line.replace(`${folder}/`, ''));
  }
  return [];
}

describe('the configuration schema', () => {
  it('accepts its own defaults', () => {
    assert.deepEqual(configSchema.parse(defaultConfig()), defaultConfig());
  });

  it('gives every caller defaults of its own', () => {
    defaultConfig().listeners.mqtt.push('changed');
    assert.deepEqual(defaultConfig().listeners.mqtt, ['127.0.0.1:9000']);
  });

  it('has a variable of its own for every key', () => {
    assert.equal(variableOf('listeners.tls.requireClientCert'), 'GOMQ_LISTENERS__TLS__REQUIRE_CLIENT_CERT');
    assert.equal(new Set(configKeys.map(({ path }) => variableOf(path))).size, configKeys.length);
  });

  it('explains every key', () => {
    for (const { path, description, expected } of configKeys) {
      assert.match(description, /\.$/, path);
      assert.notEqual(expected, '', path);
    }
  });
});

describe('loading the configuration', () => {
  it('needs nothing', () => {
    assert.deepEqual(loadConfig({}), defaultConfig());
    assert.deepEqual(loadConfig({ file: file('') }), defaultConfig());
    assert.deepEqual(loadConfig({ file: file('# only a comment\n') }), defaultConfig());
  });

  it('takes flags over environment over file over defaults', () => {
    const sources: ConfigSources = {
      file: file('limits: { connections: 1, sessions: 1, topicLevels: 1, topicBytes: 1 }'),
      env: { GOMQ_LIMITS__CONNECTIONS: '2', GOMQ_LIMITS__SESSIONS: '2', GOMQ_LIMITS__TOPIC_LEVELS: '' },
      set: ['limits.connections=3'],
    };
    const { connections, sessions, topicLevels, topicBytes } = loadConfig(sources).limits;
    assert.deepEqual([connections, sessions, topicLevels, topicBytes], [3, 2, 1, 1]);
  });

  it('takes --mqtt and --http over --set', () => {
    const config = loadConfig({
      flags: { mqtt: [':1', '[::1]:2'], http: ':3' },
      set: ['listeners.mqtt=:4', 'http.listen=:5'],
    });
    assert.deepEqual([config.listeners.mqtt, config.http.listen], [[':1', '[::1]:2'], ':3']);
  });

  it('reads every kind of value from YAML', () => {
    const text = `
listeners: { mqtt: ['[::1]:1883', ':1884'], tls: { cert: a.pem } }
http: { listen: '' }
auth: { anonymous: never }
mqtt: { maximumQos: 1, retain: false }
`;
    const config = loadConfig({ file: file(text) });
    assert.deepEqual(config.listeners.mqtt, ['[::1]:1883', ':1884']);
    assert.deepEqual([config.listeners.tls.cert, config.http.listen], ['a.pem', '']);
    assert.deepEqual(
      [config.auth.anonymous, config.mqtt.maximumQos, config.mqtt.retain],
      ['never', 1, false],
    );
  });

  it('reads every kind of value from text', () => {
    const config = loadConfig({
      set: [
        'listeners.ws=:1, :2',
        'http.token=a=b,c',
        'mqtt.maximumQos=0',
        'mqtt.retain=0',
        'limits.sessions=7',
      ],
      env: { GOMQ_MQTT__SHARED_SUBSCRIPTIONS: 'false', GOMQ_AUTH__ANONYMOUS: 'always' },
    });
    assert.deepEqual(config.listeners.ws, [':1', ':2']);
    assert.deepEqual([config.http.token, config.mqtt.maximumQos, config.limits.sessions], ['a=b,c', 0, 7]);
    assert.deepEqual([config.mqtt.retain, config.mqtt.sharedSubscriptions], [false, false]);
    assert.equal(config.auth.anonymous, 'always');
  });

  it('turns listeners off where an empty value cannot be written', () => {
    const config = loadConfig({
      env: { GOMQ_LISTENERS__MQTT: 'off', GOMQ_LISTENERS__WS: ':1', GOMQ_HTTP__LISTEN: 'off' },
    });
    assert.deepEqual([config.listeners.mqtt, config.http.listen], [[], '']);
    assert.equal(loadConfig({ flags: { http: 'off' } }).http.listen, '');
    assert.equal(loadConfig({ set: ['http.listen='] }).http.listen, '');
  });

  it('keeps the default of a key or section with nothing behind it', () => {
    assert.deepEqual(loadConfig({ file: file('http:\n  listen:\nlimits:\n') }), defaultConfig());
  });

  it('names the line, the key, the value and what was expected', () => {
    const text = `
limits:
  connections: many
  sessions: 0
  topicLevels: 1.5
mqtt:
  retain: 'yes'
listeners:
  mqtt: ['127.0.0.1:9000', here]
  ws: :9001
`;
    assert.deepEqual(problems({ file: file(text) }), [
      'gomq.yaml:3: limits.connections = "many": expected a whole number from 1 to 1000000',
      'gomq.yaml:4: limits.sessions = 0: expected a whole number from 1 to 10000000',
      'gomq.yaml:5: limits.topicLevels = 1.5: expected a whole number from 1 to 1024',
      'gomq.yaml:7: mqtt.retain = "yes": expected true or false',
      'gomq.yaml:9: listeners.mqtt[1] = "here": expected HOST:PORT',
      'gomq.yaml:10: listeners.ws = ":9001": expected a list of HOST:PORT',
    ]);
  });

  it('names the variable or flag', () => {
    const found = problems({
      env: { GOMQ_MQTT__MAXIMUM_QOS: '3', GOMQ_LIMITS__SESSIONS: '1e3' },
      set: ['auth.anonymous=sometimes', 'limits.connections'],
      flags: { mqtt: ['1883'], http: 'x' },
    });
    assert.deepEqual(found, [
      '--set limits.connections: expected key.path=value',
      'GOMQ_MQTT__MAXIMUM_QOS: mqtt.maximumQos = 3: expected one of 0, 1, 2',
      'GOMQ_LIMITS__SESSIONS: limits.sessions = "1e3": expected a whole number from 1 to 10000000',
      '--set: auth.anonymous = "sometimes": expected one of loopback, always, never',
      '--mqtt: listeners.mqtt[0] = "1883": expected HOST:PORT',
      '--http: http.listen = "x": expected HOST:PORT, or \'\' for none',
    ]);
  });

  it('names the nearest key for an unknown one', () => {
    const text = `
limits:
  conections: 1
lgo:
  segmentBytes: 1
maximumQos: 1
`;
    assert.deepEqual(problems({ file: file(text), set: ['http.tokn=x', 'limits=1', '__proto__.x=1'] }), [
      'gomq.yaml:3: unknown key limits.conections; did you mean limits.connections?',
      'gomq.yaml:4: unknown key lgo; did you mean log?',
      'gomq.yaml:6: unknown key maximumQos; did you mean mqtt.maximumQos?',
      '--set: unknown key http.tokn; did you mean http.token?',
      '--set: limits is a section, not a key',
      '--set: unknown key __proto__.x; did you mean node?',
    ]);
  });

  it('names the nearest variable for an unknown one', () => {
    const env = {
      GOMQ_LOG__SEGMNT_BYTES: '1',
      GOMQ_LOG_SEGMENT_BYTES: '1',
      GOMQ_HTTP__TOKN: '',
    };
    assert.deepEqual(problems({ env }), [
      'unknown environment variable GOMQ_LOG__SEGMNT_BYTES; did you mean GOMQ_LOG__SEGMENT_BYTES?',
      'unknown environment variable GOMQ_LOG_SEGMENT_BYTES; did you mean GOMQ_LOG__SEGMENT_BYTES?',
    ]);
  });

  it('leaves variables alone that gomqctl and orchestrators put there', () => {
    const env = {
      GOMQ_URL: 'mqtt://localhost',
      GOMQ_USER: 'u',
      GOMQ_PASSWORD: 'p',
      GOMQ_PORT: 'tcp://10.0.0.1:9000',
      GOMQ_SERVICE_HOST: '10.0.0.1',
      GOMQ_SERVICE_PORT_MQTT: '9000',
      GOMQ_PORT_9000_TCP_ADDR: '10.0.0.1',
      LOG__SEGMENT_BYTES: '1',
    };
    assert.deepEqual(loadConfig({ env }), defaultConfig());
  });

  it('does not guess at a name of any length', () => {
    assert.deepEqual(problems({ set: [`${'x'.repeat(1000)}=1`] }), [
      `--set: unknown key ${'x'.repeat(1000)}`,
    ]);
  });

  it('hides the value of a secret that is wrong', () => {
    assert.deepEqual(problems({ file: file('http: { token: 12345 }') }), [
      'gomq.yaml:1: http.token = (hidden): expected text',
    ]);
  });

  it('says where a file is not YAML, or not a map', () => {
    assert.match(problems({ file: file('limits:\n  a: [1\n') }).join(), /^gomq\.yaml:\d: not YAML: /);
    assert.match(
      problems({ file: file('limits: {}\nlimits: {}\n') }).join(),
      /^gomq\.yaml:2: not YAML: .*unique/,
    );
    assert.deepEqual(problems({ file: file('hello') }), [
      'gomq.yaml:1: the file holds a single value; expected a section with keys',
    ]);
    assert.deepEqual(problems({ file: file('limits: [1]') }), [
      'gomq.yaml:1: limits holds a list; expected a section with keys',
    ]);
  });

  it('says that a file cannot be read', () => {
    const expected = {
      code: 'CONFIG_UNREADABLE',
      message: 'cannot read the configuration file /no/such: ENOENT',
    };
    assert.throws(() => loadConfig({ file: '/no/such' }), expected);
  });

  it('refuses what is right alone and wrong together', () => {
    assert.deepEqual(problems({ flags: { mqtt: ['off'] } }), [
      'listeners: at least one of mqtt, mqtts, ws and wss needs an address',
    ]);
    assert.deepEqual(problems({ set: ['listeners.wss=:1', 'listeners.tls.requireClientCert=true'] }), [
      'listeners.mqtts and listeners.wss need listeners.tls.cert and listeners.tls.key',
      'listeners.tls.requireClientCert needs listeners.tls.ca',
    ]);
    assert.deepEqual(
      problems({
        set: ['log.segmentBytes=1000000000', 'log.retentionBytes=67108864', 'log.hardLimitBytes=65536'],
      }),
      [
        'log.segmentBytes = 1000000000 is above log.retentionBytes = 67108864',
        'log.retentionBytes = 67108864 is above log.hardLimitBytes = 65536',
      ],
    );
  });
});
