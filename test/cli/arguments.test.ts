import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Command, Option } from 'commander';
import { commandFirst } from '../../cli/arguments.js';
import { words } from './harness.js';

function commands(): Command[] {
  const pub = new Command('pub')
    .option('--connect <address>')
    .option('-t, --topic <topic>')
    .option('-q, --qos <qos>')
    .option('-m, --message <message>')
    .option('-P, --password <password>')
    .option('-r, --retain [0|1]')
    .option('-l, --stdin-line')
    .addOption(new Option('-D, --property <property>'));
  const sub = new Command('sub').option('-t, --topic <filter>').option('-v, --verbose');
  return [pub, sub, new Command('version')];
}

const first = (line: string) => commandFirst(words(line), commands());

test('options may stand before the command, after it, or both', () => {
  const expected = ['pub', '--topic=A', '--connect=127.0.0.1:9000', '--', 'hello', 'world'];
  assert.deepEqual(first('--topic A --connect 127.0.0.1:9000 pub hello world'), expected);
  assert.deepEqual(first('pub --topic A --connect 127.0.0.1:9000 hello world'), expected);
  assert.deepEqual(first('--topic=A pub --connect=127.0.0.1:9000 hello world'), expected);
  assert.deepEqual(first('pub hello --topic A world --connect 127.0.0.1:9000'), expected);
});

test('a value that is the name of a command is a value', () => {
  assert.deepEqual(first('--topic sub pub pub'), ['pub', '--topic=sub', '--', 'pub']);
  assert.deepEqual(first('--topic pub sub'), ['sub', '--topic=pub']);
});

test('--retain takes a number that follows, and nothing else', () => {
  assert.deepEqual(first('--retain pub hello'), ['pub', '--retain', '--', 'hello']);
  assert.deepEqual(first('--retain 1 pub hello'), ['pub', '--retain=1', '--', 'hello']);
  assert.deepEqual(first('-r 0 pub hello'), ['pub', '--retain=0', '--', 'hello']);
  assert.deepEqual(first('pub --retain 1 hello'), ['pub', '--retain=1', '--', 'hello']);
  assert.deepEqual(first('pub -r hello'), ['pub', '--retain', '--', 'hello']);
  assert.deepEqual(first('pub -r 42'), ['pub', '--retain=42']);
  assert.deepEqual(first('pub -r -- 42'), ['pub', '--retain', '--', '42']);
  assert.deepEqual(first('pub hello -r'), ['pub', '--retain', '--', 'hello']);
  assert.deepEqual(first('pub -r -m 1'), ['pub', '--retain', '--message=1']);
});

test('short options may be put together, and their value may be attached', () => {
  assert.deepEqual(first('pub -rq1 -tA x'), ['pub', '--retain', '--qos=1', '--topic=A', '--', 'x']);
  assert.deepEqual(first('-lr1 pub'), ['pub', '--stdin-line', '--retain=1']);
  assert.deepEqual(first('pub -lq 2'), ['pub', '--stdin-line', '--qos=2']);
});

test('a value may begin with a dash, be empty, or contain an equals sign', () => {
  assert.deepEqual(first('pub -m -5'), ['pub', '--message=-5']);
  assert.deepEqual(first('pub --message=a=b'), ['pub', '--message=a=b']);
  assert.deepEqual(commandFirst(['pub', '-m', ''], commands()), ['pub', '--message=']);
});

test('everything after -- is a word, and so is a dash', () => {
  assert.deepEqual(first('pub -t A -- -x --qos 1'), ['pub', '--topic=A', '--', '-x', '--qos', '1']);
  assert.deepEqual(first('pub -t A -'), ['pub', '--topic=A', '--', '-']);
});

test('-D takes three words, four for a user property', () => {
  assert.deepEqual(first('pub -D publish content-type text/plain hello'), [
    'pub',
    '--property=["publish","content-type","text/plain"]',
    '--',
    'hello',
  ]);
  assert.deepEqual(first('-D publish user-property k -v pub hello'), [
    'pub',
    '--property=["publish","user-property","k","-v"]',
    '--',
    'hello',
  ]);
  assert.throws(() => first('pub -D publish content-type'), /-D needs COMMAND PROPERTY VALUE/);
});

test('mosquitto spells --password --pw', () => {
  assert.deepEqual(first('pub --pw secret'), ['pub', '--password=secret']);
});

test('what is not understood is left for commander to complain about', () => {
  assert.deepEqual(first('--topc A pub'), ['pub', '--topc', 'A']);
  assert.deepEqual(first('help pub'), ['help', 'pub']);
  assert.deepEqual(first('--help'), ['--help']);
  assert.deepEqual(first(''), []);
  assert.deepEqual(first('publish'), ['publish']);
  assert.throws(() => first('--topic A'), /no command given; use one of pub, sub, version, help/);
});
