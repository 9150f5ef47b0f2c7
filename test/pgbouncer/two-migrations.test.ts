import { readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findPgBouncer } from '../../src/embedded/pgbouncer.js';
import { Instance, settingsOfPause } from '../../src/pgbouncer/instance.js';
import { markName, markValue } from '../../src/pgbouncer/mark.js';
import type { PgBouncers } from '../../src/pgbouncer/pgbouncer.js';
import { pgBouncerPools } from '../../src/pgbouncer/pgbouncer-pools.js';
import type { Pools } from '../../src/postgres/pools.js';
import { PooledPair } from '../support/pooled-pair.js';

const isThere = findPgBouncer() !== undefined;
if (!isThere) process.stdout.write('SKIPPED two migrations behind one PgBouncer: pgbouncer is not installed\n');

describe.skipIf(!isThere)('two migrations whose applications share one PgBouncer', () => {
  let pair: PooledPair;
  /** Of another database, with entries in the same file. */
  let billing: PgBouncers;
  let epoch: number;
  const toClose: (() => Promise<void>)[] = [];

  beforeAll(async () => {
    pair = await PooledPair.create('two migrations', { poolers: 1 });
    ({ epoch } = await pair.whereWritesAre());
    billing = {
      ...{ ...pair.setup, migration: 'billing', databases: ['billing'] },
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

  async function isPause(): Promise<boolean> {
    const [pooler] = pair.setup.instances;
    if (pooler === undefined) throw new Error('there is no PgBouncer');
    const instance = new Instance(pooler, pair.setup);
    const settings = await (await instance.control()).settings().finally(() => instance.close());
    return settingsOfPause(settings) !== undefined;
  }

  it("take turns: none takes the settings of the other one's pause away, and each leads to its side", async () => {
    const [orders, others] = [poolsOf(pair.setup), poolsOf(billing)];
    await orders.prepare('blue', epoch);
    await orders.pause('blue', epoch);
    const refused = 'is in the promotion of another migration, "two-migrations"';
    await expect(others.pause('blue', epoch)).rejects.toThrow(refused);
    expect(await isPause()).toBe(true);
    // It waits a while before its own pause, and then goes on.
    const waits = others.prepare('blue', epoch);
    expect(await Promise.race([waits, sleep(300, 'waits')])).toBe('waits');
    expect(await isPause()).toBe(true);
    await orders.point('green', epoch + 1);
    expect(await orders.release()).toEqual([]);
    await orders.close();
    await waits;
    await others.pause('blue', epoch);
    await others.point('green', epoch + 1);
    expect(await others.release()).toEqual([]);
    for (const setup of [pair.setup, billing]) {
      const [pooler] = setup.instances;
      if (pooler === undefined) throw new Error('there is no PgBouncer');
      const instance = new Instance(pooler, setup);
      const loaded = await instance.look().finally(() => instance.close());
      expect(loaded).toMatchObject({ leadsTo: 'green', paused: [], mark: { state: 'settled' } });
    }
    await others.close();
  });

  it('on the way back wait for the pause of the other one only, and not for long', async () => {
    const [orders, others] = [poolsOf(pair.setup), poolsOf(billing)];
    await orders.pause('green', epoch + 1);
    const back = others.prepare('green', epoch + 1);
    expect(await Promise.race([back, sleep(300, 'waits')])).toBe('waits');
    expect(await isPause()).toBe(true);
    await orders.point('blue', epoch + 2);
    // The one with the pause waits for nobody.
    const began = performance.now();
    expect(await orders.release()).toEqual([]);
    expect(performance.now() - began).toBeLessThan(2_000);
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
    const orders = poolsOf(pair.setup);
    await orders.prepare('blue', epoch + 2);
    await orders.pause('blue', epoch + 2);
    expect(await orders.release()).toEqual([]);
    await orders.close();
  });
});
