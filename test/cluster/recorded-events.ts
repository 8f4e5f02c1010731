// What a coordinator tells, kept in order, with a way to wait for it.
import assert from 'node:assert/strict';
import type { ClusterView, CoordinatorEvents } from '../../src/cluster/coordinator.js';

const WAIT_MS_MAX = 30_000;

export class RecordedEvents implements CoordinatorEvents {
  readonly views: ClusterView[] = [];
  readonly leases: number[] = [];
  readonly reachable: { isReachable: boolean; error: Error | undefined }[] = [];
  lost = 0;
  readonly #watchers = new Set<() => void>();

  onView(view: ClusterView): void {
    this.views.push(view);
    this.#wake();
  }

  onLease(sentAtMs: number): void {
    this.leases.push(sentAtMs);
    this.#wake();
  }

  onLeaseLost(): void {
    this.lost += 1;
    this.#wake();
  }

  onReachable(isReachable: boolean, error: Error | undefined): void {
    this.reachable.push({ isReachable, error });
    this.#wake();
  }

  get view(): ClusterView {
    const view = this.views.at(-1);
    assert.ok(view !== undefined, 'a view was handed out');
    return view;
  }

  get isReachable(): boolean | undefined {
    return this.reachable.at(-1)?.isReachable;
  }

  /** Waits until the last view is like that. */
  async untilView(isLike: (view: ClusterView) => boolean, what: string): Promise<ClusterView> {
    await this.until(() => this.views.length > 0 && isLike(this.view), what);
    return this.view;
  }

  async until(isThere: () => boolean, what: string): Promise<void> {
    if (isThere()) return;
    await new Promise<void>((resolve, reject) => {
      const watcher = () => {
        if (!isThere()) return;
        clearTimeout(timer);
        this.#watchers.delete(watcher);
        resolve();
      };
      const timer = setTimeout(() => {
        this.#watchers.delete(watcher);
        reject(
          new Error(`waited in vain for ${what}; the last view is ${JSON.stringify(this.views.at(-1))}`),
        );
      }, WAIT_MS_MAX);
      this.#watchers.add(watcher);
    });
  }

  #wake(): void {
    for (const watcher of [...this.#watchers]) watcher();
  }
}
