// What published brokers got wrong about rights, each over sockets against a broker with a password and an ACL file. Rights are changed as an
// operator changes them: the file is written, then read again. That something was not delivered is shown by what comes first instead.
import assert from 'node:assert/strict';
import { chmodSync, rmSync, writeFileSync } from 'node:fs';
import { after, before, describe, it, type TestContext } from 'node:test';
import { hash } from '@node-rs/argon2';
import type { Config } from '../../src/core/config.js';
import { temporaryFile, warnings } from '../security/support.js';
import { type ConnectOptions, closeAllClients, RawClient, uniqueClientId } from '../support/raw-client.js';
import {
  type DeepPartial,
  type RunningGomq,
  type StartGomqOptions,
  startGomq,
} from '../support/start-gomq.js';

const NOT_AUTHORIZED = 0x87;
const BAD_USER_NAME_OR_PASSWORD = 0x86;
/** What 3.1 and 3.1.1 have in CONNACK for the same. */
const OLD_BAD_USER_NAME_OR_PASSWORD = 4;
const OLD_NOT_AUTHORIZED = 5;
const SUBACK_FAILURE = 0x80;

const PASSWORD = 'sesame';
const VERSIONS = [4, 5] as const;
type Version = (typeof VERSIONS)[number];

/** Made with the least cost that there is, so that a login takes no time. */
let passwordHash = '';
before(async () => {
  passwordHash = await hash(PASSWORD, { memoryCost: 8, timeCost: 1 });
});
after(() => closeAllClients());

interface Secured extends RunningGomq {
  /** Connects as a user, who must be let in. */
  as(user: string, options?: ConnectOptions): Promise<RawClient>;
  /** Writes the ACL file anew and has it read. */
  setRules(rules: string): void;
  readonly aclFile: string;
  readonly passwordFile: string;
}

/** A broker with the users alice, bob and carol, who all have the same password, and these rules. */
async function startSecured(
  context: TestContext,
  rules: string,
  {
    users = ['alice', 'bob', 'carol'],
    config = {},
    ...options
  }: { users?: string[]; config?: DeepPartial<Config> } & StartGomqOptions = {},
): Promise<Secured> {
  const aclFile = temporaryFile(context, 'acl', rules);
  const lines = users.map((user) => `${user}:${passwordHash}\n`);
  const passwordFile = temporaryFile(context, 'passwords', lines.join(''));
  const broker = await startGomq({ ...config, auth: { aclFile, passwordFile } }, options);
  context.after(() => {
    closeAllClients();
    return broker.stop();
  });
  return {
    ...broker,
    aclFile,
    passwordFile,
    as: (user, connectOptions) =>
      RawClient.open(broker.port, { username: user, password: PASSWORD, ...connectOptions }),
    setRules(text) {
      writeFileSync(aclFile, text);
      broker.reload();
    },
  };
}

/** For a session that outlives its connection, and begins as the client id does: without a past. */
function durable(version: Version, clientId: string): ConnectOptions {
  const properties = version === 5 ? { properties: { sessionExpiryInterval: 600 } } : {};
  return { version, clientId, clean: false, ...properties };
}

/** Publishes at QoS 1 and sees it refused: by a reason code in 5.0, by the end of the connection before. */
async function expectPublishRefused(client: RawClient, topic: string): Promise<void> {
  client.sendPublish(topic, 'refused', { qos: 1 });
  if (client.version === 5) {
    const puback = await client.expect('puback');
    assert.equal(puback.reasonCode, NOT_AUTHORIZED);
    await client.expectQuiet();
  } else {
    await client.expectClosed();
  }
}

async function expectSubscribeRefused(client: RawClient, filter: string): Promise<void> {
  const [code] = await client.subscribe(filter, 1);
  assert.equal(code, client.version === 5 ? NOT_AUTHORIZED : SUBACK_FAILURE, filter);
}

describe('an empty ACL file denies (CVE-2018-12550)', () => {
  for (const [what, rules] of [
    ['empty', ''],
    ['blank lines and comments', '\n   \n# topic readwrite #\n'],
  ] as const) {
    for (const version of [3, ...VERSIONS] as const) {
      it(`${what}, protocol level ${version}: no publish, no subscription, no will`, async (context) => {
        const broker = await startSecured(context, rules);
        for (const who of [{ username: 'alice', password: PASSWORD }, {}]) {
          const client = await RawClient.open(broker.port, { version, ...who });
          for (const filter of ['a', '#', '+', '$SYS/#', '$share/g/a'])
            await expectSubscribeRefused(client, filter);
          await expectPublishRefused(client, 'a');
          client.destroy();
          const withWill = await RawClient.connect(broker.port);
          const will = { topic: 'a', payload: Buffer.from('will'), qos: 1 as const, retain: false };
          const connack = await withWill.mqttConnect({ version, ...who, will });
          assert.equal(
            connack.reasonCode ?? connack.returnCode,
            version === 5 ? NOT_AUTHORIZED : OLD_NOT_AUTHORIZED,
          );
          await withWill.expectClosed();
        }
      });
    }
  }

  it('5.0: PUBREC and DISCONNECT carry 0x87, where there is no PUBACK to carry it', async (context) => {
    const broker = await startSecured(context, '');
    const client = await broker.as('alice', { version: 5 });
    const messageId = client.sendPublish('a', 'refused', { qos: 2 });
    const pubrec = await client.expect('pubrec');
    assert.deepEqual([pubrec.messageId, pubrec.reasonCode], [messageId, NOT_AUTHORIZED]);
    client.sendPublish('a', 'refused');
    await client.expectDisconnect(NOT_AUTHORIZED);
  });

  it('3.1.1: the connection is closed at QoS 0 and 2 too, without an acknowledgement', async (context) => {
    const broker = await startSecured(context, '');
    for (const qos of [0, 2] as const) {
      const client = await broker.as('alice');
      client.sendPublish('a', 'refused', { qos });
      await client.expectClosed();
    }
  });
});

describe('blank lines in the password file let nobody in (CVE-2018-12551)', () => {
  it('no user name is the blank one', async (context) => {
    const broker = await startSecured(context, 'topic readwrite #\n', {
      config: { auth: { anonymous: 'always' } },
    });
    writeFileSync(broker.passwordFile, `\n   \n\t\n# bob:${passwordHash}\nalice:${passwordHash}\n\n`);
    broker.reload();
    const attempts: ConnectOptions[] = ['', ' ', '   ', '\t', '# bob', '#', 'bob'].flatMap((username) => [
      { username },
      { username, password: '' },
      { username, password: PASSWORD },
    ]);
    for (const version of VERSIONS) {
      for (const attempt of attempts) {
        const client = await RawClient.connect(broker.port);
        const connack = await client.mqttConnect({ version, ...attempt });
        const wanted = version === 5 ? BAD_USER_NAME_OR_PASSWORD : OLD_BAD_USER_NAME_OR_PASSWORD;
        assert.equal(connack.reasonCode ?? connack.returnCode, wanted, JSON.stringify(attempt));
        await client.expectClosed();
      }
      (await broker.as('alice', { version })).destroy();
    }
  });
});

describe('a reload that fails changes nothing (CVE-2017-7652)', () => {
  // That a process out of file descriptors is such a case is shown in test/security/access-control.test.ts.
  for (const [what, spoil] of [
    ['a file that is gone', (path: string) => rmSync(path)],
    ['a file with a mistake', (path: string) => writeFileSync(path, 'topic readwrite #\nnonsense\n')],
  ] as const) {
    it(`${what} leaves the rules and the users in force`, async (context) => {
      const broker = await startSecured(context, 'user alice\ntopic readwrite open\n');
      const client = await broker.as('alice', { version: 5 });
      spoil(broker.aclFile);
      assert.ok(broker.reload().length > 0);
      await expectPublishRefused(client, 'closed');
      await client.publish('open', 'still allowed', { qos: 1 });
      spoil(broker.passwordFile);
      assert.ok(broker.reload().length > 0);
      (await broker.as('bob')).destroy();
    });
  }
});

describe('rights taken away while a subscription is live (CVE-2021-34434)', () => {
  const ALL = 'user alice\ntopic read #\nuser bob\ntopic write #\n';
  const LESS = 'user alice\ntopic read open/#\nuser bob\ntopic write #\n';

  for (const version of VERSIONS) {
    for (const qos of [0, 1, 2] as const) {
      it(`protocol level ${version}, QoS ${qos}: nothing more comes until they are given back`, async (context) => {
        const broker = await startSecured(context, ALL);
        const reader = await broker.as('alice', { version });
        const writer = await broker.as('bob');
        assert.deepEqual(await reader.subscribe(['secret/1', '#'], qos), [qos, qos]);
        await writer.publish('secret/1', 'before', { qos });
        await reader.expectMessage('secret/1', 'before');
        broker.setRules(LESS);
        await writer.publish('secret/1', 'during', { qos });
        await writer.publish('open/1', 'allowed', { qos });
        await reader.expectMessage('open/1', 'allowed');
        await expectSubscribeRefused(reader, 'secret/1');
        broker.setRules(ALL);
        await writer.publish('secret/1', 'after', { qos });
        await reader.expectMessage('secret/1', 'after');
      });
    }

    it(`protocol level ${version}: a backlog is not delivered by rights that are gone`, async (context) => {
      const broker = await startSecured(context, ALL);
      const clientId = uniqueClientId();
      const first = await broker.as('alice', durable(version, clientId));
      await first.subscribe('#', 1);
      await first.disconnect();
      const writer = await broker.as('bob');
      await writer.publish('secret/1', 'kept', { qos: 1 });
      await writer.publish('open/1', 'kept', { qos: 1 });
      broker.setRules(LESS);
      const second = await broker.as('alice', durable(version, clientId));
      assert.equal(second.connack?.sessionPresent, true);
      await second.expectMessage('open/1', 'kept');
      await second.expectQuiet();
    });

    it(`protocol level ${version}: a publisher loses the right between two packets of one topic`, async (context) => {
      const broker = await startSecured(context, ALL);
      const writer = await broker.as('bob', { version });
      await writer.publish('secret/1', 'before', { qos: 1 });
      broker.setRules('user bob\ntopic write open/#\n');
      await expectPublishRefused(writer, 'secret/1');
    });

    it(`protocol level ${version}: a publisher of QoS 0 too`, async (context) => {
      const broker = await startSecured(context, ALL);
      const writer = await broker.as('bob', { version });
      await writer.publish('secret/1', 'before');
      broker.setRules('user bob\ntopic write open/#\n');
      writer.sendPublish('secret/1', 'after');
      if (version === 5) await writer.expectDisconnect(NOT_AUTHORIZED);
      else await writer.expectClosed();
    });

    it(`protocol level ${version}: a session of one user is not to be had by another`, async (context) => {
      const broker = await startSecured(context, `${ALL}user carol\ntopic read #\ntopic write #\n`);
      const clientId = uniqueClientId();
      const alice = await broker.as('alice', durable(version, clientId));
      await alice.subscribe('#', 1);
      const carol = { username: 'carol', password: PASSWORD };
      for (const who of [carol, { ...carol, clean: true }, {}]) {
        const other = await RawClient.connect(broker.port);
        const connack = await other.mqttConnect({ ...durable(version, clientId), ...who });
        assert.equal(
          connack.reasonCode ?? connack.returnCode,
          version === 5 ? NOT_AUTHORIZED : OLD_NOT_AUTHORIZED,
        );
        await other.expectClosed();
      }
      const writer = await broker.as('bob');
      await writer.publish('secret', 'for alice', { qos: 1 });
      await alice.expectMessage('secret', 'for alice');
    });

    it(`protocol level ${version}: a session that had no user gets the rights of the first`, async (context) => {
      const broker = await startSecured(
        context,
        'topic read #\nuser bob\ntopic write #\nuser carol\ntopic read open\n',
      );
      const clientId = uniqueClientId();
      const nobody = await RawClient.open(broker.port, durable(version, clientId));
      const writer = await broker.as('bob');
      await nobody.subscribe('#', 1);
      // Delivered once, so that the way to this topic is worked out.
      await writer.publish('secret', 'for everybody', { qos: 1 });
      await nobody.expectMessage('secret', 'for everybody');
      const carol = await broker.as('carol', durable(version, clientId));
      assert.equal(carol.connack?.sessionPresent, true);
      await writer.publish('secret', 'not for carol', { qos: 1 });
      await writer.publish('open', 'for all', { qos: 1 });
      await carol.expectMessage('open', 'for all');
      await carol.expectQuiet();
    });
  }
});

describe('rights taken away while a message is retained (CVE-2018-12546)', () => {
  const ALL = 'user alice\ntopic read #\nuser bob\ntopic write #\n';

  for (const version of VERSIONS) {
    for (const filter of ['secret/1', 'secret/+', '#']) {
      it(`protocol level ${version}, ${filter}: who may not read it any more is not sent it`, async (context) => {
        const broker = await startSecured(context, ALL);
        const writer = await broker.as('bob');
        await writer.publish('secret/1', 'retained', { qos: 1, retain: true });
        await writer.publish('secret/2', 'retained', { qos: 1, retain: true });
        broker.setRules('user alice\ntopic read secret/#\ntopic deny secret/1\nuser bob\ntopic write #\n');
        const reader = await broker.as('alice', { version });
        if (filter === 'secret/1') {
          await expectSubscribeRefused(reader, filter);
        } else {
          await reader.subscribe(filter, 1);
          await reader.expectMessage('secret/2', 'retained');
        }
        await reader.expectQuiet();
      });

      it(`protocol level ${version}, ${filter}: what somebody published who no longer may is not sent`, async (context) => {
        const broker = await startSecured(context, `${ALL}user carol\ntopic write #\n`);
        const writer = await broker.as('bob');
        await writer.publish('secret/1', 'by bob', { qos: 1, retain: true });
        const other = await broker.as('carol');
        await other.publish('secret/2', 'by carol', { qos: 1, retain: true });
        broker.setRules('user alice\ntopic read #\nuser carol\ntopic write #\n');
        const reader = await broker.as('alice', { version });
        await reader.subscribe(filter, 1);
        if (filter !== 'secret/1') await reader.expectMessage('secret/2', 'by carol');
        await reader.expectQuiet();
      });
    }
  }
});

describe('rights taken away while a QoS 2 exchange is open', () => {
  const ALL = 'user alice\ntopic read #\nuser bob\ntopic write #\n';
  const LESS = 'user alice\ntopic read open/#\nuser bob\ntopic write open/#\n';

  for (const version of VERSIONS) {
    it(`protocol level ${version}: a publisher ends what was taken, and begins nothing`, async (context) => {
      const broker = await startSecured(context, ALL);
      const writer = await broker.as('bob', { version });
      const messageId = writer.sendPublish('secret', 'taken', { qos: 2 });
      await writer.expect('pubrec');
      broker.setRules(LESS);
      writer.send({ cmd: 'pubrel', messageId });
      assert.equal((await writer.expect('pubcomp')).messageId, messageId);
      await expectPublishRefused(writer, 'secret');
    });

    it(`protocol level ${version}: a publisher who sends the message again is told that it was taken`, async (context) => {
      const broker = await startSecured(context, ALL);
      const clientId = uniqueClientId();
      const first = await broker.as('bob', durable(version, clientId));
      const messageId = first.sendPublish('secret', 'taken', { qos: 2 });
      await first.expect('pubrec');
      first.destroy();
      broker.setRules(LESS);
      const second = await broker.as('bob', durable(version, clientId));
      second.sendPublish('secret', 'taken', { qos: 2, messageId, dup: true });
      const pubrec = await second.expect('pubrec');
      assert.deepEqual([pubrec.messageId, pubrec.reasonCode ?? 0], [messageId, 0]);
      second.send({ cmd: 'pubrel', messageId });
      await second.expect('pubcomp');
    });

    it(`protocol level ${version}: a subscriber ends what it was sent`, async (context) => {
      const broker = await startSecured(context, ALL);
      const reader = await broker.as('alice', { version });
      await reader.subscribe('#', 2);
      const writer = await broker.as('bob');
      await writer.publish('secret', 'sent', { qos: 2 });
      const publish = await reader.expect('publish');
      broker.setRules(LESS);
      await reader.acknowledge(publish);
      await writer.publish('open/1', 'next', { qos: 2 });
      await reader.expectMessage('open/1', 'next');
    });

    it(`protocol level ${version}: a subscriber that returns is not sent it again`, async (context) => {
      const broker = await startSecured(context, ALL);
      const clientId = uniqueClientId();
      const first = await broker.as('alice', durable(version, clientId));
      await first.subscribe('#', 2);
      const writer = await broker.as('bob');
      await writer.publish('secret', 'sent', { qos: 2 });
      await writer.publish('open/1', 'sent', { qos: 2 });
      await first.expect('publish');
      await first.expect('publish');
      first.destroy();
      broker.setRules(LESS);
      const second = await broker.as('alice', durable(version, clientId));
      const again = await second.expectMessage('open/1', 'sent');
      assert.equal(again.dup, true);
      await second.expectQuiet();
    });
  }

  it('5.0: a packet id whose message was sent again is free for another one once it is released', async (context) => {
    const broker = await startSecured(context, ALL);
    const reader = await broker.as('alice');
    await reader.subscribe('#', 2);
    const writer = await broker.as('bob', { version: 5 });
    const messageId = writer.sendPublish('secret', 'taken', { qos: 2 });
    await writer.expect('pubrec');
    await reader.expectMessage('secret', 'taken');
    broker.setRules('user alice\ntopic read #\nuser bob\ntopic write open/#\n');
    writer.sendPublish('secret', 'taken', { qos: 2, messageId, dup: true });
    const pubrec = await writer.expect('pubrec');
    assert.equal(pubrec.reasonCode ?? 0, 0);
    writer.send({ cmd: 'pubrel', messageId });
    await writer.expect('pubcomp');
    await writer.publish('open/1', 'another', { qos: 2, messageId });
    await reader.expectMessage('open/1', 'another');
  });

  it('5.0: a packet id whose message was refused is free for another one', async (context) => {
    const broker = await startSecured(context, ALL);
    const reader = await broker.as('alice');
    await reader.subscribe('#', 2);
    const writer = await broker.as('bob', { version: 5 });
    broker.setRules(`user alice\ntopic read #\nuser bob\ntopic write open/#\n`);
    const messageId = writer.sendPublish('secret', 'refused', { qos: 2 });
    assert.equal((await writer.expect('pubrec')).reasonCode, NOT_AUTHORIZED);
    await writer.publish('open/1', 'another', { qos: 2, messageId });
    await reader.expectMessage('open/1', 'another');
  });
});

describe('files that others can read or change (CVE-2017-9868)', () => {
  it('are warned of at start and at reload', { skip: process.platform === 'win32' }, async (context) => {
    const lines: { message: string; fields: Record<string, unknown> }[] = [];
    const broker = await startSecured(context, 'topic a\n', { logger: warnings(lines) });
    assert.equal(lines.length, 0);
    chmodSync(broker.aclFile, 0o644);
    chmodSync(broker.passwordFile, 0o666);
    broker.reload();
    assert.deepEqual(
      lines.map(({ message, fields }) => [message, fields.path]),
      [
        ['a security file can be changed by every user', broker.passwordFile],
        ['a security file can be read by every user', broker.aclFile],
      ],
    );
  });
});

describe('who exists is not to be learnt', () => {
  it('an unknown user takes as long as a known one, and is answered the same', async (context) => {
    const broker = await startSecured(context, '');
    // The default cost, so that there is something to measure.
    const costly = await hash(PASSWORD, { memoryCost: 19_456, timeCost: 2, parallelism: 1 });
    writeFileSync(broker.passwordFile, `alice:${costly}\n`);
    broker.reload();
    const attempt = async (options: ConnectOptions): Promise<{ cost: number; answer: string }> => {
      const client = await RawClient.connect(broker.port);
      // Work, not time: a busy machine stretches the one and not the other.
      const start = process.cpuUsage();
      const connack = await client.mqttConnect({ version: 5, ...options });
      const { user, system } = process.cpuUsage(start);
      await client.expectClosed();
      return { cost: user + system, answer: connack.raw.toString('hex') };
    };
    const kinds: ConnectOptions[] = [
      { username: 'alice', password: 'wrong' },
      { username: 'nobody', password: 'wrong' },
      { username: 'alice' },
      { username: 'nobody' },
    ];
    const least = kinds.map(() => Number.POSITIVE_INFINITY);
    const answers = new Set<string>();
    for (let round = 0; round < 8; round++) {
      for (const [index, options] of kinds.entries()) {
        const { cost, answer } = await attempt(options);
        least[index] = Math.min(least[index]!, cost);
        answers.add(answer);
      }
    }
    assert.equal(answers.size, 1);
    assert.ok(Math.min(...least) > Math.max(...least) / 2, `microseconds of work: ${least.join(', ')}`);
  });
});

describe('client ids and user names with #, + or / gain nothing from %c and %u (CVE-2017-7650)', () => {
  const RULES =
    'pattern readwrite devices/%c/state\npattern readwrite users/%u\npattern read mixed/%u-%c/#\n';

  for (const version of VERSIONS) {
    it(`protocol level ${version}: as a client id`, async (context) => {
      const broker = await startSecured(context, RULES);
      for (const clientId of ['#', '+', '+/+', 'a/b', 'a#']) {
        const client = await broker.as('alice', { version, clientId });
        for (const filter of ['devices/+/state', 'devices/victim/state', 'devices/a/b/state', 'devices/#'])
          await expectSubscribeRefused(client, filter);
        await expectPublishRefused(client, 'devices/victim/state');
        client.destroy();
      }
    });

    it(`protocol level ${version}: as a user name`, async (context) => {
      // A line that begins with # is a comment, so no user's name does.
      const users = ['+', '+/+', 'a/b', 'a#', '+/#'];
      const broker = await startSecured(context, RULES, { users });
      for (const user of users) {
        const client = await broker.as(user, { version, clientId: 'me' });
        for (const filter of ['users/+', 'users/victim', 'users/#', 'mixed/+/x', 'mixed/#'])
          await expectSubscribeRefused(client, filter);
        await expectPublishRefused(client, 'users/victim');
        client.destroy();
      }
    });

    it(`protocol level ${version}: marks are not filled in twice, and plain names are`, async (context) => {
      const broker = await startSecured(context, RULES, { users: ['%c', 'alice'] });
      const mark = await broker.as('%c', { version, clientId: 'victim' });
      await expectSubscribeRefused(mark, 'users/victim');
      await mark.subscribe('users/%c', 1);
      await mark.publish('users/%c', 'own', { qos: 1 });
      await mark.expectMessage('users/%c', 'own');
      mark.destroy();
      const plain = await broker.as('alice', { version, clientId: 'sensor-1' });
      assert.deepEqual(
        await plain.subscribe(['devices/sensor-1/state', 'users/alice', 'mixed/alice-sensor-1/x'], 1),
        [1, 1, 1],
      );
      await plain.publish('devices/sensor-1/state', 'on', { qos: 1 });
      await plain.expectMessage('devices/sensor-1/state', 'on');
      await expectPublishRefused(plain, 'devices/sensor-2/state');
    });
  }
});

describe('shared groups', () => {
  const ALL = 'user alice\ntopic read jobs/#\nuser carol\ntopic read jobs/#\nuser bob\ntopic write jobs/#\n';
  const WITHOUT_CAROL = 'user alice\ntopic read jobs/#\nuser bob\ntopic write jobs/#\n';
  const WITHOUT_BOTH = 'user alice\ntopic read jobs/1\nuser bob\ntopic write jobs/#\n';

  for (const version of VERSIONS) {
    for (const qos of [0, 1, 2] as const) {
      it(`protocol level ${version}, QoS ${qos}: a member that lost the right gets nothing, the others all of it`, async (context) => {
        const broker = await startSecured(context, ALL);
        const alice = await broker.as('alice', { version });
        const carol = await broker.as('carol', { version });
        const bob = await broker.as('bob');
        await alice.subscribe('$share/g/jobs/#', qos);
        await carol.subscribe('$share/g/jobs/#', qos);
        broker.setRules(WITHOUT_CAROL);
        for (let i = 0; i < 6; i++) await bob.publish('jobs/1', `job ${i}`, { qos });
        for (let i = 0; i < 6; i++) await alice.expectMessage('jobs/1', `job ${i}`);
        await carol.expectQuiet();
      });
    }

    it(`protocol level ${version}: what no member may read does not hold up what follows`, async (context) => {
      const broker = await startSecured(context, ALL);
      const alice = await broker.as('alice', { version });
      const bob = await broker.as('bob');
      await alice.subscribe('$share/g/jobs/#', 1);
      broker.setRules(WITHOUT_BOTH);
      await bob.publish('jobs/2', 'for nobody', { qos: 1 });
      await bob.publish('jobs/1', 'for alice', { qos: 1 });
      await alice.expectMessage('jobs/1', 'for alice');
      await alice.expectQuiet();
    });

    it(`protocol level ${version}: the right is that to the filter behind the group`, async (context) => {
      const broker = await startSecured(context, WITHOUT_CAROL);
      const carol = await broker.as('carol', { version });
      await expectSubscribeRefused(carol, '$share/g/jobs/#');
      await expectSubscribeRefused(carol, '$share/jobs/#');
    });

    it(`protocol level ${version}: what a member held that lost its right goes to another`, async (context) => {
      const broker = await startSecured(context, ALL);
      const clientId = uniqueClientId();
      const carol = await broker.as('carol', durable(version, clientId));
      const bob = await broker.as('bob');
      await carol.subscribe('$share/g/jobs/#', 1);
      await bob.publish('jobs/1', 'held', { qos: 1 });
      await carol.expect('publish');
      broker.setRules(WITHOUT_CAROL);
      carol.destroy();
      const alice = await broker.as('alice', { version });
      await alice.subscribe('$share/g/jobs/#', 1);
      await alice.expectMessage('jobs/1', 'held');
    });
  }
});

describe('history', () => {
  const RULES = 'user alice\ntopic readwrite #\nuser bob\ntopic read open/#\ntopic read other/#\n';
  for (const version of VERSIONS) {
    it(`protocol level ${version}: the right is that to the filter behind it`, async (context) => {
      const broker = await startSecured(context, RULES);
      const bob = await broker.as('bob', { version });
      for (const from of ['earliest', '0', '-1h', '2026-01-31T12:00:00Z', 'retained'])
        await expectSubscribeRefused(bob, `$replay/${from}/secret/a`);
      assert.deepEqual(await bob.subscribe('$replay/earliest/open/a', 1), [1]);
    });

    for (const from of ['earliest', 'retained']) {
      it(`protocol level ${version}: ${from} has only what may be read`, async (context) => {
        const broker = await startSecured(context, RULES);
        const alice = await broker.as('alice');
        for (const topic of ['secret/a', 'open/a', 'secret/b', 'other/z'])
          await alice.publish(topic, topic, { qos: 1, retain: true });
        const bob = await broker.as('bob', { version });
        assert.deepEqual(await bob.subscribe(`$replay/${from}/#`, 1), [1]);
        const seen = [];
        for (let i = 0; i < 2; i++) {
          const message = await bob.expect('publish');
          seen.push(message.topic);
          await bob.acknowledge(message);
        }
        assert.deepEqual(seen.sort(), ['open/a', 'other/z']);
        await bob.expectQuiet();
      });
    }

    it(`protocol level ${version}: not what may not be read any more when its turn comes`, async (context) => {
      const broker = await startSecured(context, RULES);
      const alice = await broker.as('alice');
      for (let i = 0; i < 3; i++) await alice.publish('open/a', `${i}`, { qos: 1 });
      await alice.publish('other/z', 'last', { qos: 1 });
      const clientId = uniqueClientId();
      const bob = await broker.as('bob', durable(version, clientId));
      assert.deepEqual(await bob.subscribe('$replay/earliest/+/+', 1), [1]);
      // Given out, and not acknowledged: sent again when he returns, as far as he may still read it.
      await bob.expect('publish');
      bob.destroy();
      broker.setRules('user bob\ntopic read other/#\n');
      const again = await broker.as('bob', durable(version, clientId));
      await again.expectMessage('other/z', 'last');
      await again.expectQuiet();
    });
  }
});

describe('wills', () => {
  const ALL = 'user alice\ntopic read #\nuser bob\ntopic write #\n';
  const LESS = 'user alice\ntopic read #\nuser bob\ntopic write open/#\n';

  for (const version of VERSIONS) {
    const will = (topic: string) => ({ topic, payload: Buffer.from('will'), qos: 1 as const, retain: false });

    it(`protocol level ${version}: CONNECT with a will without the right is refused`, async (context) => {
      const broker = await startSecured(context, LESS);
      const client = await RawClient.connect(broker.port);
      const connack = await client.mqttConnect({
        version,
        username: 'bob',
        password: PASSWORD,
        will: will('secret'),
      });
      assert.equal(
        connack.reasonCode ?? connack.returnCode,
        version === 5 ? NOT_AUTHORIZED : OLD_NOT_AUTHORIZED,
      );
      await client.expectClosed();
      (await broker.as('bob', { version, will: will('open/1') })).destroy();
    });

    it(`protocol level ${version}: a will without the right any more is not published`, async (context) => {
      const broker = await startSecured(context, ALL);
      const reader = await broker.as('alice', { version });
      await reader.subscribe('#', 1);
      const loser = await broker.as('bob', { version, will: will('secret') });
      const keeper = await broker.as('bob', { version, will: will('open/1') });
      broker.setRules(LESS);
      loser.end();
      await loser.closed();
      keeper.end();
      await reader.expectMessage('open/1', 'will');
      await reader.expectQuiet();
    });
  }

  it('5.0: nor is a will whose delay is over after that', async (context) => {
    const broker = await startSecured(context, ALL);
    const reader = await broker.as('alice', { version: 5 });
    await reader.subscribe('#', 1);
    const delayed = (topic: string): ConnectOptions => ({
      version: 5,
      properties: { sessionExpiryInterval: 600 },
      will: {
        topic,
        payload: Buffer.from('will'),
        qos: 1,
        retain: false,
        properties: { willDelayInterval: 1 },
      },
    });
    const loser = await broker.as('bob', delayed('secret'));
    const keeper = await broker.as('bob', delayed('open/1'));
    loser.end();
    await loser.closed();
    keeper.end();
    await keeper.closed();
    broker.setRules(LESS);
    await reader.expectMessage('open/1', 'will');
    await reader.expectQuiet();
  });
});
