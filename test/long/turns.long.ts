import { readFile, writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { findPgBouncer } from '../../src/embedded/pgbouncer.js';
import { releaseAll } from '../../src/postgres/pools.js';
import { PauseTurns } from '../support/pause-turns.js';
import { findPgbench } from '../support/pgbench.js';
import { PooledPair } from '../support/pooled-pair.js';
import { carryOut } from '../support/promotion-steps.js';

const missing = findPgBouncer() === undefined ? 'pgbouncer' : findPgbench() === undefined ? 'pgbench' : undefined;
if (missing !== undefined) process.stdout.write(`SKIPPED turns at PgBouncer: ${missing} is not installed\n`);

describe.skipIf(missing !== undefined)('two workers that pause one PgBouncer in one epoch', () => {
  let turns: PauseTurns;
  let pair: PooledPair;

  beforeAll(async () => {
    pair = await PooledPair.create('pooled turns', { poolers: 1, pauseTimeoutMs: 5_000 });
    turns = new PauseTurns(pair);
  });

  afterAll(async () => pair.close());

  afterEach(() => turns.settle());

  it('one that was frozen while its PAUSE waited does not take the pause of the other one for its own', async () => {
    const busy = await turns.client();
    await busy.query('BEGIN; SELECT 1');
    const late = turns.worker();
    const pausing = turns.pause(late);
    while (!(await turns.isPaused())) await sleep(5);
    const other = turns.worker();
    await releaseAll(other);
    await busy.query('COMMIT');
    expect(await turns.pause(other)).toBeUndefined();
    // PgBouncer answers both with the one pause.
    expect(String(await pausing)).toMatch(/"pgbouncer_1" is in the hands of another worker/);
    expect(await late.release()).toEqual([]);
    expect(await turns.isPaused()).toBe(true);
    expect(await other.release()).toEqual([]);
  });

  it('one that was frozen before its PAUSE leaves the pause of the other one alone', async () => {
    for (const [command, when] of [
      ['RELOAD', 'before'],
      ['SET max_db_connections', 'before'],
      ['SHOW POOLS', 'before'],
      ['PAUSE', 'before'],
      ['PAUSE', 'after'],
    ] as const) {
      const { proxy, pools: late } = await turns.heldWorker();
      const held = proxy.stopWhere(({ text }) => text.startsWith(command), when);
      const pausing = turns.pause(late);
      const there = await held;
      const other = await turns.takeOver();
      there.release();
      expect(String(await pausing), command).toMatch(/the promotion could not go through: .*"pgbouncer_1"/);
      expect(await late.release()).toEqual([]);
      expect(await turns.isPaused(), command).toBe(true);
      expect(await other.release()).toEqual([]);
      await pair.expectSettled('blue');
    }
  });

  it('one that was frozen while it released looks again before its RESUME, and leaves it alone', async () => {
    const { proxy, pools: late } = await turns.heldWorker();
    expect(await turns.pause(late)).toBeUndefined();
    const held = proxy.stopWhere(({ text }) => text.startsWith('SET server_login_retry'), 'before');
    const releasing = late.release();
    const there = await held;
    const other = await turns.takeOver();
    there.release();
    expect(await releasing).toEqual([]);
    expect(await turns.isPaused()).toBe(true);
    expect(await other.release()).toEqual([]);
  });

  it('the late one neither pauses again nor points elsewhere while the other one holds', async () => {
    const late = turns.worker();
    expect(await turns.pause(late)).toBeUndefined();
    const other = await turns.takeOver();
    expect(String(await turns.pause(late))).toMatch(/"pgbouncer_1" is in the hands of another worker/);
    const { epoch } = await pair.whereWritesAre();
    await late.point('blue', epoch);
    expect(await late.release()).toEqual([]);
    expect(await turns.isPaused()).toBe(true);
    expect(await other.release()).toEqual([]);
    await pair.expectSettled('blue');
    // Nobody is at work any more: now it may.
    expect(await turns.pause(late)).toBeUndefined();
    expect(await late.release()).toEqual([]);
  });

  it('one that was frozen when it had decided leaves the pause of the way back alone', async () => {
    const late = turns.worker();
    expect(await turns.pause(late)).toBeUndefined();
    for (const step of ['promote', 'finish'] as const) await carryOut(step, pair.move('blue'));
    const back = await turns.takeOver();
    const { epoch } = await pair.whereWritesAre();
    await late.point('green', epoch);
    expect(await late.release()).toEqual([]);
    expect(await turns.isPaused()).toBe(true);
    expect(await back.release()).toEqual([]);
    await pair.expectSettled('green');
    for (const step of ['promote', 'finish'] as const) await carryOut(step, pair.move('green'));
  });

  it('a pause that the late one has left alone is ended by the next step when the other one has died', async () => {
    const late = turns.worker();
    expect(await turns.pause(late)).toBeUndefined();
    const other = await turns.takeOver();
    await other.close();
    expect(await late.release()).toEqual([]);
    expect(await turns.isPaused()).toBe(true);
    await turns.nextStep();
    await pair.expectSettled('blue');
    await (await turns.client()).query('UPDATE accounts SET balance = balance WHERE id = 1');
  });

  it('a PAUSE that arrives while the other one settles is ended by whoever looks last', async () => {
    const { proxy: lateProxy, pools: late } = await turns.heldWorker();
    const { proxy, pools: other } = await turns.heldWorker();
    const pausing = lateProxy.stopWhere(({ text }) => text.startsWith('PAUSE'), 'before');
    const outcome = turns.pause(late);
    const beforePause = await pausing;
    await turns.takeOver(other);
    // The second RELOAD of a release comes after RESUME, and settles it.
    let reloads = 0;
    const settling = proxy.stopWhere(({ text }) => text === 'RELOAD' && ++reloads === 2, 'before');
    const releasing = other.release();
    const beforeSettled = await settling;
    beforePause.release();
    expect(String(await outcome)).toMatch(/"pgbouncer_1" is in the hands of another worker/);
    expect(await turns.isPaused()).toBe(true);
    beforeSettled.release();
    expect(await releasing).toEqual([]);
    await pair.expectSettled('blue');
  });

  it('an announcement that was written and never loaded keeps nobody from the next pause', async () => {
    const { proxy, pools: dead } = await turns.heldWorker();
    const held = proxy.stopWhere(({ text }) => text === 'RELOAD', 'before');
    const pausing = turns.pause(dead);
    await held;
    const other = await turns.takeOver();
    expect(await other.release()).toEqual([]);
    await proxy.close();
    await pausing;
  });

  it('a pause under a mark without a token, as earlier versions wrote it, is ended by the next step', async () => {
    const { epoch } = await pair.whereWritesAre();
    const file = pair.poolers[0]?.file ?? '';
    const text = await readFile(file, 'utf8');
    await writeFile(file, text.replace(/dbname=epoch_\S+/, `dbname=epoch_${epoch}_blue_moving`));
    const admin = new pg.Client({ ...pair.clientOf(0), database: 'pgbouncer' });
    await admin.connect();
    turns.closeLater(() => admin.end());
    await admin.query('RELOAD');
    await admin.query('PAUSE orders');
    await turns.nextStep();
    await pair.expectSettled('blue');
  });
});
