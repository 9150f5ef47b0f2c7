import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { directionTo, feedName } from '../../src/postgres/feed.js';
import { isFenceOpen, TAKE_FENCE_LOCK } from '../../src/postgres/fence.js';
import { withdrawOpening } from '../../src/postgres/prepare-promotion.js';
import { tryPromotion } from '../../src/postgres/promote.js';
import { readDecision } from '../../src/postgres/promotion-decision.js';
import { ensureSlot } from '../../src/postgres/replication-slot.js';
import { withSession } from '../../src/postgres/session.js';
import { FENCE_CLOSED, readRoute } from '../../src/postgres/state.js';
import { readPartitions, type PartitionFile } from '../../src/postgres/partition-files.js';
import { NO_POOLS } from '../../src/postgres/pools.js';
import { momentOf } from '../../src/postgres/verify/last-pass.js';
import { otherSide, type Side } from '../../src/side.js';
import { carryOut } from '../support/promotion-steps.js';
import { transactionsPastTheFence } from '../support/past-the-fence.js';
import { PromotionRig } from '../support/promotion-rig.js';
import { LOCKS_WRITERS_OUT, WatchedTry } from '../support/watched-try.js';
import { isWaitingForLock, untilRow } from '../support/wait-for-row.js';

/*
 * Mistakes that promotions have been bitten by, in the hold and in the decision: see docs/mistakes.md. Each test fails
 * when its rule is taken out of the code (npm run test:mutations). Rarer ones: test/long/mistakes-promotion.long.ts.
 */

const MIGRATION = 'mistakes-promotion';

describe('the hold and the decision', () => {
  let rig: PromotionRig;
  /** Rows that the audit does not count: accounts with nothing in them. */
  let account = 10_000;

  beforeAll(async () => {
    rig = await PromotionRig.create('mistakes promotion');
    await rig.writers.pause();
  });

  afterAll(() => rig.close());

  const write = (client: pg.Client): Promise<unknown> =>
    client.query('INSERT INTO public.accounts VALUES ($1, 0)', [++account]);
  const routeOn = (side: Side) => rig.ours(side, (s) => readRoute(s, MIGRATION));
  const isOpen = (side: Side) => rig.ours(side, isFenceOpen);
  const blocked = expect.objectContaining({ type: 'PromotionBlocked' });

  /** Keeps what replication brings to a table from being applied, without a transaction id of its own. */
  async function whileApplyStands<T>(side: Side, work: (release: () => Promise<unknown>) => Promise<T>): Promise<T> {
    return rig.on(side, async (client) => {
      await client.query('BEGIN; LOCK TABLE public.accounts IN SHARE MODE');
      return work(() => client.query('ROLLBACK'));
    });
  }

  it('the stop position is taken after the last writer has ended: what it commits in between is waited for', async () => {
    const attempt = await WatchedTry.prepare(rig);
    const { from } = attempt;
    const locking = attempt.stopAt(LOCKS_WRITERS_OUT, 'before');
    const outcome = attempt.run({ maxHoldMs: 2_000, lockTimeoutMs: 2_000 });
    const held = await locking;
    await rig.on(from, async (writer) => {
      await writer.query('BEGIN');
      await write(writer);
      await whileApplyStands(otherSide(from), async (release) => {
        held.release();
        await rig.on(from, (client) => untilRow(client, isWaitingForLock('verdigris promotion')));
        // Long enough for a marker that is written too early to come through.
        await sleep(100);
        await writer.query('COMMIT');
        // Positions move on, the row does not arrive: nothing may be decided.
        expect(await outcome).toEqual(blocked);
        await release();
      });
      expect(await routeOn(from)).toMatchObject({ writesOn: from });
      await write(writer);
    });
    await attempt.close();
    await rig.audit();
    await rig.writers.pause();
  });

  it('a writer that does not end costs the others no more than the time for which the lock is asked', async () => {
    const attempt = await WatchedTry.prepare(rig);
    const locking = attempt.stopAt(LOCKS_WRITERS_OUT, 'before');
    const outcome = attempt.run({ maxHoldMs: 20_000, lockTimeoutMs: 40 });
    const held = await locking;
    await rig.on(attempt.from, async (writer) => {
      await writer.query('BEGIN');
      await write(writer);
      const asked = performance.now();
      held.release();
      expect(await outcome).toEqual(blocked);
      expect(performance.now() - asked).toBeLessThan(10_000);
      await rig.on(attempt.from, write);
      await writer.query('ROLLBACK');
    });
    await attempt.close();
  });

  it('a writer that does not end before the hold is named, and makes the others wait no longer either', async () => {
    const attempt = await WatchedTry.prepare(rig);
    await rig.on(attempt.from, async (writer) => {
      await writer.query('BEGIN');
      await write(writer);
      const asked = performance.now();
      const outcome = attempt.run();
      await rig.on(attempt.from, write);
      const { rows } = await writer.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
      const message = expect.stringContaining(`pid ${rows[0]?.pid ?? 0}`) as string;
      expect(await outcome).toMatchObject({ type: 'PromotionBlocked', message });
      expect(performance.now() - asked).toBeLessThan(10_000);
      await writer.query('ROLLBACK');
    });
    await attempt.close();
  });

  it('a worker that freezes in the hold keeps writers no longer than maxHold: the server ends its transaction', async () => {
    const from = rig.primary;
    const actor = await rig.actor();
    const stopped = actor.stopWhere(from, ({ text }) => /SELECT verdigris\.decide/.test(text), 'before');
    const outcome = actor.run('promote', { ...rig.move(from), maxHoldMs: 700 });
    expect(await Promise.race([stopped, outcome])).not.toBeTypeOf('string');
    actor.freeze();
    await rig.on(from, async (writer) => {
      await writer.query("SET statement_timeout = '8s'");
      await write(writer);
    });
    await actor.kill();
    expect(await routeOn(from)).toMatchObject({ writesOn: from });
  });

  it('a fence that was switched off, or a table that is new, stops the promotion before anything is decided', async () => {
    const attempt = await WatchedTry.prepare(rig);
    for (const [tamper, undo] of [
      [
        'ALTER TABLE public.notes DISABLE TRIGGER _verdigris_fence',
        'ALTER TABLE public.notes ENABLE ALWAYS TRIGGER _verdigris_fence',
      ],
      [
        'ALTER TABLE public.notes ENABLE TRIGGER _verdigris_fence',
        'ALTER TABLE public.notes ENABLE ALWAYS TRIGGER _verdigris_fence',
      ],
      [
        'ALTER TABLE public.notes DISABLE TRIGGER _verdigris_fence_truncate',
        'ALTER TABLE public.notes ENABLE ALWAYS TRIGGER _verdigris_fence_truncate',
      ],
      ['CREATE TABLE public.new_one (id int)', 'DROP TABLE public.new_one'],
    ] as const) {
      await rig.on(attempt.from, (client) => client.query(tamper));
      expect(await attempt.run(), tamper).toMatchObject({ type: 'FenceTampered' });
      await rig.on(attempt.from, (client) => client.query(undo));
      expect(await routeOn(attempt.from)).toMatchObject({ writesOn: attempt.from });
    }
    await attempt.close();
  });

  it('a table of the plan that was made after the tables to fence were read is new, though it was there before the fence', async () => {
    const { from } = await rig.on(rig.primary, async (client) => {
      await client.query('CREATE TABLE public.new_one (id int)');
      return { from: rig.primary };
    });
    const attempt = await WatchedTry.prepare(rig, { include: ['public.*'], exclude: [] });
    expect(await attempt.run()).toMatchObject({ type: 'FenceTampered' });
    await rig.on(from, (client) => client.query('DROP TABLE public.new_one'));
    await attempt.close();
  });

  transactionsPastTheFence(() => rig, 'one way');

  it('a backlog that comes while a try is prepared ends it, and nobody waits for it', async () => {
    const attempt = await WatchedTry.prepare(rig);
    const to = otherSide(attempt.from);
    let paused = 0;
    const pools = { ...NO_POOLS, pause: () => Promise.resolve(void paused++) };
    await rig.on(to, async (holder) => {
      const lastLook = async (): Promise<void> => {
        await holder.query('BEGIN; LOCK TABLE public.accounts');
        await rig.on(attempt.from, (writer) => writer.query(`INSERT INTO public.accounts VALUES (${++account}, 0)`));
      };
      expect(await attempt.run({ lastLook, pools })).toMatchObject({
        type: 'PromotionBlocked',
        message: expect.stringContaining(`${to} is too far behind`) as string,
      });
    });
    expect(paused).toBe(0);
    await attempt.close();
  });

  it('a partition that was emptied since rows were compared stops it, also right before the lock; what was emptied before does not', async () => {
    const parted = `CREATE TABLE public.parted (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE public.part PARTITION OF public.parted DEFAULT`;
    for (const side of ['blue', 'green'] as const) await rig.on(side, (client) => client.query(parted));
    const from = rig.primary;
    const read = (): Promise<readonly PartitionFile[]> =>
      rig.ours(from, (session) => readPartitions(session, () => true));
    await rig.on(from, (client) => client.query('TRUNCATE public.part'));
    const comparedPartitions = await read();
    expect(comparedPartitions).toMatchObject([{ name: 'part', root_name: 'parted' }]);
    const attempt = await WatchedTry.prepare(rig);
    const locking = attempt.stopAt(LOCKS_WRITERS_OUT, 'before');
    const outcome = attempt.run({ comparedPartitions });
    const held = await locking;
    await rig.on(from, (client) => client.query('TRUNCATE public.part'));
    held.release();
    const emptied = {
      type: 'PartitionEmptied',
      message: expect.stringMatching(/public\.part may/) as string,
    };
    expect(await outcome).toMatchObject(emptied);
    expect(rig.primary).toBe(from);
    await attempt.close();
    // What a look can tell keeps nobody waiting.
    const early = await WatchedTry.prepare(rig);
    let paused = 0;
    const pools = { ...NO_POOLS, pause: () => Promise.resolve(void paused++) };
    expect(await early.run({ comparedPartitions, pools })).toMatchObject(emptied);
    expect(paused).toBe(0);
    await early.close();
    const again = await WatchedTry.prepare(rig);
    expect(await again.run({ comparedPartitions: await read() })).toMatchObject({
      epoch: expect.any(Number) as number,
    });
    await carryOut('finish', rig.move(from));
    await again.close();
    for (const side of ['blue', 'green'] as const)
      await rig.on(side, (client) => client.query('DROP TABLE public.parted'));
  });

  describe('servers that rows were compared on', () => {
    let attempt: WatchedTry;
    let moments: Readonly<Record<Side, Awaited<ReturnType<typeof momentOf>>>>;

    beforeAll(async () => {
      moments = { blue: await rig.ours('blue', momentOf), green: await rig.ours('green', momentOf) };
      attempt = await WatchedTry.prepare(rig);
    });

    afterAll(() => attempt.close());

    it.each(['blue', 'green'] as const)('%s was failed over since rows were compared: nothing moves', async (side) => {
      const comparedOn = { ...moments, [side]: { ...moments[side], timeline: '000000FF' } };
      expect(await attempt.run({ comparedOn })).toMatchObject({
        type: 'ServerReplaced',
        message: expect.stringContaining(`${side} was failed over or restored`) as string,
      });
      expect(await routeOn(attempt.from)).toMatchObject({ writesOn: attempt.from });
    });

    it.each(['blue', 'green'] as const)('%s was started anew since: nothing moves', async (side) => {
      const comparedOn = { ...moments, [side]: { ...moments[side], started: '1700000000.5' } };
      expect(await attempt.run({ comparedOn })).toMatchObject({
        ...{ type: 'ServerReplaced', details: { isRestarted: true } },
        message: expect.stringContaining(`${side} was started anew since rows were compared`) as string,
      });
      expect(await routeOn(attempt.from)).toMatchObject({ writesOn: attempt.from });
    });

    it('are the same ones: writes move', async () => {
      expect(await attempt.run({ comparedOn: moments })).toMatchObject({ epoch: expect.any(Number) as number });
      await carryOut('finish', rig.move(attempt.from));
    });
  });

  it.each([
    ['a try is recorded as running', false],
    ['no try is recorded as running, but the flag is set', true],
  ])('a COMMIT on its way is waited for, not read past: %s', async (_, isWithdrawn) => {
    const attempt = await WatchedTry.prepare(rig);
    const { from } = attempt;
    const move = rig.move(from);
    const to = otherSide(from);
    await withSession(rig.databases[from], { purpose: 'test' }, async (asks) => {
      const before = await readRoute(asks, MIGRATION);
      // A worker of an earlier promotion that wakes up late withdraws nothing of this one.
      await withdrawOpening(asks, MIGRATION, from, (before?.epoch ?? 0) - 2);
      expect(await readRoute(asks, MIGRATION)).toEqual(before);
      expect(before?.opening).toBe(to);
      if (isWithdrawn) await withdrawOpening(asks, MIGRATION, from, before?.epoch ?? 0);
      const route = await readRoute(asks, MIGRATION);
      // What the hold does before it decides; nobody writes here, so there is nothing to wait for.
      await withSession(rig.databases[to], { purpose: 'test' }, (s) =>
        ensureSlot(s, feedName(MIGRATION, directionTo(from))),
      );
      await rig.on(from, async (decides) => {
        await decides.query(`BEGIN; ${TAKE_FENCE_LOCK}`);
        await decides.query('SELECT verdigris.decide($1, $2, $3)', [MIGRATION, route?.epoch, to]);
        await decides.query(`SELECT setval('verdigris.fence', ${FENCE_CLOSED})`);
        let answer: unknown;
        const asked = readDecision(asks, MIGRATION, from).then((decision) => (answer = decision));
        await sleep(300);
        expect(answer).toBeUndefined();
        await decides.query('COMMIT');
        expect(await asked).toEqual({ decided: true, epoch: (route?.epoch ?? 0) + 1 });
      });
      expect(await isFenceOpen(asks)).toBe(false);
    });
    // Half switched: both sides are closed, and whoever comes next goes on from the route.
    expect(await isOpen(to)).toBe(false);
    expect(await attempt.run()).toMatchObject({ holdMs: null });
    expect(await isOpen(to)).toBe(true);
    await attempt.close();
    await carryOut('finish', move);
  });

  it.each([
    ['before', 'has not happened', blocked],
    ['after', 'has been decided, and is finished', expect.objectContaining({ holdMs: expect.any(Number) as number })],
  ] as const)('a connection that is lost %s the COMMIT: what %s', async (when, _, expected) => {
    const attempt = await WatchedTry.prepare(rig);
    const { from } = attempt;
    const stopped = attempt.stopAt(/; COMMIT$/, when);
    const outcome = attempt.run();
    await stopped;
    await rig.on(from, (client) =>
      client.query(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                     WHERE datname = current_database() AND application_name = 'verdigris promotion'`),
    );
    expect(await outcome).toEqual(expected);
    expect([await isOpen(from), await isOpen(otherSide(from))]).toEqual([when === 'before', when === 'after']);
    await attempt.close();
    if (when === 'after') await carryOut('finish', rig.move(from));
  });

  it('a worker is killed just before it has been decided: another one ends the move, and every write is there once', async () => {
    if (rig.primary === 'green') await rig.moveOn();
    rig.writers.resume();
    const actor = await rig.actor();
    const stopped = actor.stopWhere('blue', ({ text }) => /SELECT verdigris\.decide/.test(text), 'before');
    const outcome = actor.run('promote', rig.move('blue'));
    expect(await Promise.race([stopped, outcome])).not.toBeTypeOf('string');
    await actor.kill();
    await rig.moveOn();
    await rig.audit();
    await rig.writers.pause();
  });

  it('a promotion that was asked for in an epoch that is over moves nothing', async () => {
    const from = rig.primary;
    const { migration, databases, tables } = rig.move(from);
    const route = await routeOn(from);
    const late = tryPromotion({
      ...{ databases, migration, from, fenced: tables, knownTables: [], maxHoldMs: 5_000, lockTimeoutMs: 80 },
      ...{ sequenceGap: 1_000, feedBack: true, epoch: (route?.epoch ?? 0) - 2 },
    });
    await expect(late).rejects.toMatchObject({ type: 'StaleEpoch' });
    expect(await routeOn(from)).toMatchObject({ epoch: route?.epoch, writesOn: from });
  });

  it('nothing was lost in all this', async () => {
    await rig.audit();
  });
});
