import { readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findPgBouncer } from '../../src/embedded/pgbouncer.js';
import { Instance } from '../../src/pgbouncer/instance.js';
import { settingsOfPause } from '../../src/pgbouncer/pause-settings.js';
import { markName, markValue } from '../../src/pgbouncer/mark.js';
import type { PgBouncers } from '../../src/pgbouncer/pgbouncer.js';
import { Console } from '../../src/pgbouncer/console.js';
import type { Mark } from '../../src/pgbouncer/mark.js';
import { pgBouncerPools } from '../../src/pgbouncer/pgbouncer-pools.js';
import { NO_POOLS, PoolerTaken, type Pools } from '../../src/postgres/pools.js';
import { preparePromotion, withdrawOpening } from '../../src/postgres/prepare-promotion.js';
import { promote } from '../../src/postgres/promote.js';
import { withSession } from '../../src/postgres/session.js';
import { pause } from '../../src/timing.js';
import { PooledPair } from '../support/pooled-pair.js';
import { StatementProxy } from '../support/statement-proxy.js';

const isThere = findPgBouncer() !== undefined;
if (!isThere) process.stdout.write('SKIPPED two migrations behind one PgBouncer: pgbouncer is not installed\n');

describe.skipIf(!isThere)('two migrations whose applications share one PgBouncer', () => {
  let pair: PooledPair;
  /** Of orders, whose other PgBouncer nobody shares. */
  let both: PgBouncers;
  let shared: PgBouncers;
  /** Of another database, with entries in the same file. */
  let billing: PgBouncers;
  let epoch: number;
  const toClose: (() => Promise<void>)[] = [];

  beforeAll(async () => {
    pair = await PooledPair.create('two migrations', { poolers: 2 });
    both = pair.setup;
    shared = { ...both, instances: both.instances.slice(0, 1) };
    ({ epoch } = await pair.whereWritesAre());
    billing = {
      ...{ ...shared, migration: 'billing', databases: ['billing'] },
      aliases: { blue: 'billing_blue', green: 'billing_green' },
    };
    const { file } = pair.poolers[0] ?? { file: '' };
    const text = readFileSync(file, 'utf8');
    writeFileSync(file, `${text}${text.replaceAll(/^orders/gm, 'billing')}`);
    await pair.poolers[0]?.restart();
  });

  afterAll(async () => {
    for (const close of toClose.splice(0)) await close();
    await pair.close();
  });

  function poolsOf(setup: PgBouncers): Pools {
    const pools = pgBouncerPools(setup);
    toClose.push(() => pools.close());
    return pools;
  }

  /** The mark of a migration on a PgBouncer, as it is loaded. */
  async function markOn(setup: PgBouncers, [pooler] = setup.instances): Promise<Mark | undefined> {
    if (pooler === undefined) throw new Error('there is no PgBouncer');
    const instance = new Instance(pooler, setup);
    return (await instance.look().finally(() => instance.close())).mark;
  }

  async function isPause(): Promise<boolean> {
    const [pooler] = shared.instances;
    if (pooler === undefined) throw new Error('there is no PgBouncer');
    const instance = new Instance(pooler, shared);
    const settings = await (await instance.control()).settings().finally(() => instance.close());
    return settingsOfPause(settings) !== undefined;
  }

  /** Once the other one has released; where that took longer than is waited for (3 s), it comes again as a run would. */
  async function goesOn(waits: Promise<void>, begun: number, again: () => Promise<void>): Promise<void> {
    const isLate = performance.now() - begun > 2_500;
    await (isLate ? waits.catch(again) : waits);
  }

  it("take turns: none takes the settings of the other one's pause away, and each leads to its side", async () => {
    const [orders, others] = [poolsOf(shared), poolsOf(billing)];
    await orders.prepare('blue', epoch);
    await orders.pause('blue', epoch);
    const refused = 'is in the promotion of another migration, "two-migrations"';
    await expect(others.pause('blue', epoch)).rejects.toThrow(refused);
    expect(await isPause()).toBe(true);
    // It waits a while before its own pause, and then goes on.
    const begun = performance.now();
    const waits = others.prepare('blue', epoch);
    waits.catch(() => undefined);
    expect(await Promise.race([waits, sleep(300, 'waits')])).toBe('waits');
    expect(await isPause()).toBe(true);
    await orders.point('green', epoch + 1);
    expect(await orders.release()).toEqual([]);
    await orders.close();
    await goesOn(waits, begun, () => others.prepare('blue', epoch));
    await others.pause('blue', epoch);
    await others.point('green', epoch + 1);
    expect(await others.release()).toEqual([]);
    for (const setup of [shared, billing]) {
      const [pooler] = setup.instances;
      if (pooler === undefined) throw new Error('there is no PgBouncer');
      const instance = new Instance(pooler, setup);
      const loaded = await instance.look().finally(() => instance.close());
      expect(loaded).toMatchObject({ leadsTo: 'green', paused: [], mark: { state: 'settled' } });
    }
    await others.close();
  });

  it('on the way back wait for the pause of the other one only, and not for long', async () => {
    const [orders, others] = [poolsOf(shared), poolsOf(billing)];
    await orders.pause('green', epoch + 1);
    const back = others.prepare('green', epoch + 1);
    expect(await Promise.race([back, sleep(300, 'waits')])).toBe('waits');
    expect(await isPause()).toBe(true);
    await orders.point('blue', epoch + 2);
    // The one with the pause waits for nobody.
    const began = performance.now();
    expect(await orders.release()).toEqual([]);
    expect(performance.now() - began).toBeLessThan(10_000);
    await back;
    await others.pause('green', epoch + 1);
    await others.point('blue', epoch + 2);
    expect(await others.release()).toEqual([]);
    await Promise.all([orders.close(), others.close()]);
  });

  it('are not kept by the mark that a run has left which is gone', async () => {
    const { file } = pair.poolers[0] ?? { file: '' };
    const left = `${markName('gone')} = ${markValue({ epoch: 1, side: 'blue', state: 'moving', token: '0123abcd' })}\n`;
    writeFileSync(file, `${readFileSync(file, 'utf8')}${left}`);
    await pair.poolers[0]?.restart();
    const orders = poolsOf(shared);
    await orders.prepare('blue', epoch + 2);
    await orders.pause('blue', epoch + 2);
    expect(await orders.release()).toEqual([]);
    await orders.close();
  });

  it('of two that announce at once, the one that is told to wait stands in the way of none', async () => {
    const proxy = await StatementProxy.start(pair.poolers[0]?.port ?? 0);
    toClose.push(() => proxy.close());
    const instances = shared.instances.map((one) => ({ ...one, config: { ...one.config, port: proxy.port } }));
    const [orders, others] = [poolsOf({ ...shared, instances }), poolsOf(billing)];
    const announced = proxy.stopWhere(({ text }) => text === 'RELOAD', 'before');
    const proves = orders.prepare('blue', epoch + 2);
    const held = await announced;
    await expect(others.prepare('blue', epoch + 2)).rejects.toBeInstanceOf(PoolerTaken);
    expect(await markOn(billing)).toMatchObject({ state: 'settled' });
    held.release();
    await proves;
    await orders.pause('blue', epoch + 2);
    expect(await orders.release()).toEqual([]);
    await orders.close();
    await others.prepare('blue', epoch + 2);
    expect(await others.release()).toEqual([]);
    await others.close();
  });

  it('begun at once come to their pauses in turn, never both at a time', async () => {
    let atPause = 0;
    const most: number[] = [];
    const inTurn = async (setup: PgBouncers): Promise<void> => {
      for (;;) {
        const pools = poolsOf(setup);
        try {
          await pools.prepare('blue', epoch + 2);
          await pools.pause('blue', epoch + 2);
          most.push(++atPause);
          await sleep(100);
          atPause -= 1;
          return;
        } catch (error) {
          if (!(error instanceof PoolerTaken)) throw error;
        } finally {
          expect(await pools.release()).toEqual([]);
          await pools.close();
        }
        await pause(200, 1_000);
      }
    };
    await Promise.all([shared, billing].map(inTurn));
    expect(most).toEqual([1, 1]);
  });

  it('announce nothing anywhere while they wait: two that hold one each would wait for each other', async () => {
    const [, second] = both.instances;
    if (second === undefined) throw new Error('there is one PgBouncer');
    const text = readFileSync(second.file, 'utf8');
    const other = `${markName('other')} = ${markValue({ epoch: 1, side: 'blue', state: 'moving', token: '0123abcd' })}\n`;
    writeFileSync(second.file, `${text}${other}`);
    await pair.poolers[1]?.restart();
    const session = await Console.open(second, { migration: 'other' });
    const orders = poolsOf(both);
    const begun = performance.now();
    const waits = orders.prepare('blue', epoch + 2);
    waits.catch(() => undefined);
    expect(await Promise.race([waits, sleep(500, 'waits')])).toBe('waits');
    expect(await markOn(shared)).toMatchObject({ state: 'settled' });
    session.close();
    await goesOn(waits, begun, () => orders.prepare('blue', epoch + 2));
    expect(await markOn(shared)).toMatchObject({ state: 'moving' });
    expect(await orders.release()).toEqual([]);
    await orders.close();
  });

  it('use up no tries while the other one is at it', async () => {
    const others = poolsOf(billing);
    await others.prepare('blue', epoch + 2);
    const { databases, migration, tables: fenced } = pair.move('blue');
    const wayBack = fenced.map((table) => ({ table }));
    const knownTables = await preparePromotion({ databases, migration, from: 'blue', fenced, wayBack });
    const { epoch: now } = await pair.whereWritesAre();
    const orders = poolsOf(shared);
    const pools: Pools = { ...NO_POOLS, pause: () => orders.pause('blue', epoch + 2) };
    const tries: number[] = [];
    const notAfter = { at: performance.now() + 60_000, told: 'in a minute' };
    await expect(
      promote(
        {
          ...{ databases, migration, from: 'blue', fenced, knownTables, pools, notAfter },
          ...{ maxHoldMs: 2_000, sequenceGap: 1_000, feedBack: true },
        },
        { attempts: 5, onBlocked: (attempt) => tries.push(attempt) },
      ),
    ).rejects.toBeInstanceOf(PoolerTaken);
    expect(tries).toEqual([1]);
    await withSession(databases.blue, { purpose: 'test' }, (session) =>
      withdrawOpening(session, migration, 'blue', now),
    );
    expect(await others.release()).toEqual([]);
    await Promise.all([orders.close(), others.close()]);
  });
});
