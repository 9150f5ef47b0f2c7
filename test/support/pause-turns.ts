import { expect } from 'vitest';
import pg from 'pg';
import { poolsBefore } from '../../src/pgbouncer/from-plan.js';
import { Instance } from '../../src/pgbouncer/instance.js';
import type { PgBouncers } from '../../src/pgbouncer/pgbouncer.js';
import { releaseAll, type Pools } from '../../src/postgres/pools.js';
import type { PooledPair } from './pooled-pair.js';
import { StatementProxy } from './statement-proxy.js';

/** Workers that take turns at pausing the one PgBouncer of a pair. */
export class PauseTurns {
  readonly #toClose: (() => Promise<unknown>)[] = [];

  constructor(private readonly pair: PooledPair) {}

  closeLater(close: () => Promise<unknown>): void {
    this.#toClose.push(close);
  }

  /** After a test: closes what it has opened, and what it has left paused goes on. */
  async settle(): Promise<void> {
    for (const close of this.#toClose.splice(0)) await close().catch(() => undefined);
    await this.nextStep();
    await this.pair.expectSettled('blue');
  }

  worker(setup: PgBouncers = this.pair.setup): Pools {
    const pools = poolsBefore(setup, this.pair.databases);
    this.closeLater(() => pools.close());
    return pools;
  }

  /** A worker whose way to the admin console leads through a proxy, where it can be held. */
  async heldWorker(): Promise<{ proxy: StatementProxy; pools: Pools }> {
    const proxy = await StatementProxy.start(this.pair.poolers[0]?.port ?? 0);
    const instances = this.pair.setup.instances.map((one) => ({ ...one, config: { ...one.config, port: proxy.port } }));
    const pools = this.worker({ ...this.pair.setup, instances });
    this.closeLater(() => proxy.close());
    return { proxy, pools };
  }

  /** What any activity does first that may have been begun by a worker that is gone. */
  async nextStep(): Promise<void> {
    const pools = poolsBefore(this.pair.setup, this.pair.databases);
    await releaseAll(pools).finally(() => pools.close());
  }

  async pause(pools: Pools): Promise<unknown> {
    const { side, epoch } = await this.pair.whereWritesAre();
    return pools.pause(side, epoch).catch((error: unknown) => error);
  }

  /** As another worker takes over: it releases what it finds, then pauses anew. */
  async takeOver(pools: Pools = this.worker()): Promise<Pools> {
    await releaseAll(pools);
    expect(await this.pause(pools)).toBeUndefined();
    return pools;
  }

  async isPaused(): Promise<boolean> {
    const [first] = this.pair.setup.instances;
    if (first === undefined) throw new Error('there is one');
    const instance = new Instance(first, this.pair.setup);
    const { paused } = await instance.look().finally(() => instance.close());
    return paused.length > 0;
  }

  async client(): Promise<pg.Client> {
    const one = new pg.Client(this.pair.clientOf(0));
    one.on('error', () => undefined);
    await one.connect();
    this.closeLater(() => one.end());
    return one;
  }
}
