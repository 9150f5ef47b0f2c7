import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { findPgBouncer, type EmbeddedPgBouncer } from '../../src/embedded/pgbouncer.js';
import { poolsBefore } from '../../src/pgbouncer/from-plan.js';
import { releaseAll, type Pools } from '../../src/postgres/pools.js';
import { findPgbench } from '../support/pgbench.js';
import { PooledPair } from '../support/pooled-pair.js';
import { StatementProxy, type Point } from '../support/statement-proxy.js';

const missing = findPgBouncer() === undefined ? 'pgbouncer' : findPgbench() === undefined ? 'pgbench' : undefined;
if (missing !== undefined) process.stdout.write(`SKIPPED a PgBouncer that is frozen: ${missing} is not installed\n`);

const PAUSE_TIMEOUT_MS = 1_000;
/** What they may wait: the time of a pause, and some for a busy machine. An answer of the console may take 5 s. */
const WAIT_MS = 2_500;

describe.skipIf(missing !== undefined)('clients of one PgBouncer, while another one is frozen', () => {
  let pair: PooledPair;
  const closing: (() => Promise<unknown>)[] = [];

  beforeAll(async () => {
    pair = await PooledPair.create('pooled frozen', { pauseTimeoutMs: PAUSE_TIMEOUT_MS });
  });

  afterEach(async () => {
    for (const close of closing.splice(0).reverse()) await close();
    // What any activity does first.
    const pools = poolsBefore(pair.setup, pair.databases);
    await releaseAll(pools).finally(() => pools.close());
    await pair.expectSettled('blue');
  });

  afterAll(async () => pair.close());

  function frozen(): EmbeddedPgBouncer {
    const [pooler] = pair.poolers;
    if (pooler === undefined) throw new Error('there is no PgBouncer');
    return pooler;
  }

  function freeze(): void {
    closing.push(() => Promise.resolve(frozen().kill('SIGCONT')));
    frozen().kill('SIGSTOP');
  }

  /** A worker whose way to the first PgBouncer leads through a proxy. */
  async function worker(): Promise<{ proxy: StatementProxy; pools: Pools }> {
    const proxy = await StatementProxy.start(frozen().port);
    const instances = pair.setup.instances.map((one, i) =>
      i === 0 ? { ...one, config: { ...one.config, port: proxy.port } } : one,
    );
    const pools = poolsBefore({ ...pair.setup, instances }, pair.databases);
    closing.push(async () => {
      await pools.close();
      await proxy.close();
    });
    return { proxy, pools };
  }

  /** Asks through the other PgBouncer all the time; stop() returns the longest time that an answer took. */
  async function askOther(): Promise<{ stop(): Promise<number> }> {
    const client = new pg.Client(pair.clientOf(1));
    client.on('error', () => undefined);
    await client.connect();
    closing.push(() => client.end());
    let longest = 0;
    let isOver = false;
    const asking = (async () => {
      while (!isOver) {
        const begun = performance.now();
        await client.query('SELECT 1');
        longest = Math.max(longest, performance.now() - begun);
        await sleep(2);
      }
    })();
    return {
      stop: async () => {
        isOver = true;
        await asking;
        return longest;
      },
    };
  }

  /** The worker's look after its PAUSE. */
  function looksAfterPause(): (point: Point) => boolean {
    let hasPaused = false;
    return ({ text }) => {
      hasPaused ||= text.startsWith('PAUSE');
      return hasPaused && text === 'SHOW DATABASES';
    };
  }

  it.each([
    ['before it is asked who logs in', ({ text }: Point): boolean => text === 'SHOW POOLS'],
    ['before its PAUSE', ({ text }: Point): boolean => text.startsWith('PAUSE')],
    ['once its PAUSE was answered', looksAfterPause()],
  ])('%s, wait no longer than a pause may take', { timeout: 60_000 }, async (_, comes) => {
    const { proxy, pools } = await worker();
    const met = proxy.stopWhere(comes, 'before');
    const other = await askOther();
    const { epoch } = await pair.whereWritesAre();
    const pausing = pools.pause('blue', epoch).then(
      () => 'paused',
      (error: unknown) => String(error),
    );
    const there = await met;
    freeze();
    there.release();
    await sleep(WAIT_MS);
    expect(await other.stop()).toBeLessThan(WAIT_MS);
    frozen().kill('SIGCONT');
    expect(await pausing).toMatch(/"pgbouncer_1"/);
  });

  it('before it is led to where writes are, wait for its answer no longer', { timeout: 60_000 }, async () => {
    const { pools } = await worker();
    const { epoch } = await pair.whereWritesAre();
    await pools.pause('blue', epoch);
    const other = await askOther();
    freeze();
    const releasing = pools.point('blue', epoch).then(() => pools.release());
    await sleep(WAIT_MS);
    expect(await other.stop()).toBeLessThan(WAIT_MS);
    frozen().kill('SIGCONT');
    await releasing;
  });
});
