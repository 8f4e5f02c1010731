// An etcd for a test or for a file of tests; what scripts/etcd.ts starts, and is removed with whoever asked for it.
import { after, before, type TestContext } from 'node:test';
import { EtcdProcess } from '../../scripts/etcd.js';

/** One for all tests of the file, which leave it running. */
export function useEtcd(): { readonly etcd: EtcdProcess } {
  let started: EtcdProcess | undefined;
  before(async () => {
    started = await EtcdProcess.start();
  });
  after(async () => {
    await started?.remove();
  });
  return {
    get etcd() {
      if (started === undefined) throw new Error('etcd has not been started yet');
      return started;
    },
  };
}

/** One for a test that does something to it. */
export async function startEtcd(t: TestContext): Promise<EtcdProcess> {
  const etcd = await EtcdProcess.start();
  t.after(() => etcd.remove());
  return etcd;
}

/** What stands under a key of the cluster of the tests: `leader`, for one. */
export async function storedUnder(etcd: EtcdProcess, name: string): Promise<string | undefined> {
  const key = Buffer.from(`/gomq/gomq/${name}`).toString('base64');
  const answer = await etcd.ask('kv/range', { key });
  const [found] = (answer.kvs as { value: string }[] | undefined) ?? [];
  return found && Buffer.from(found.value, 'base64').toString();
}

export async function hasKey(etcd: EtcdProcess, name: string): Promise<boolean> {
  return (await storedUnder(etcd, name)) !== undefined;
}
