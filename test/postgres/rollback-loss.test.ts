import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { whatWasLost } from '../../activities/promotion-loss.js';
import { whoIsPrimary } from '../../src/postgres/doctor/who-is-primary.js';
import { feedName } from '../../src/postgres/feed.js';
import { finishPromotion } from '../../src/postgres/finish-promotion.js';
import { NumbersTaken } from '../../src/postgres/numbers-taken.js';
import { NO_POOLS } from '../../src/postgres/pools.js';
import { preparePromotion } from '../../src/postgres/prepare-promotion.js';
import { promote } from '../../src/postgres/promote.js';
import { readRetainedWal } from '../../src/postgres/retained-wal.js';
import { whyReplaced } from '../../src/postgres/server-position.js';
import { closeSession, openSession, type Session } from '../../src/postgres/session.js';
import { whyFeedIsDead } from '../../src/postgres/dead-feed.js';
import { greenAway, isAway, lookAtStandby, type StandbyState } from '../../src/postgres/standby.js';
import { describeLoss, lossBetween, readConfirmed } from '../../src/postgres/standby-loss.js';
import { FENCE_CLOSED, FENCE_OPEN } from '../../src/postgres/state.js';
import { countMissed, readSubscription } from '../../src/postgres/subscription.js';
import { verifyTables, type Verification } from '../../src/postgres/verify/verify-tables.js';
import { LinkProxy } from '../support/link-proxy.js';
import type { PromotionRig } from '../support/promotion-rig.js';
import { StandbyRig } from '../support/standby-rig.js';
import { untilRow } from '../support/wait-for-row.js';
import { NOT_COUNTED } from '../../workflows/lib/loss.js';
import { ReplicatedPair, workOf } from './replicated-pair.js';

const MIGRATION = 'rollback-loss';
const RUN = { runId: 'run', migration: MIGRATION };
const FEED = feedName(MIGRATION, 'to_blue');

async function retainedWal(green: Session): Promise<number> {
  return (await readRetainedWal(green, [FEED])).bytes;
}

describe('a feed to blue that has died', () => {
  let standby: StandbyRig;
  let rig: PromotionRig;
  let blue: Session;
  let green: Session;

  beforeAll(async () => {
    standby = await StandbyRig.create('rollback loss');
    ({ rig, blue, green } = standby);
  });

  afterAll(() => standby.close());

  const look = (maxRetainedWal = 1e12, more: { numbers?: NumbersTaken; epoch?: number } = {}): Promise<StandbyState> =>
    lookAtStandby(
      green,
      () => Promise.resolve(blue),
      RUN,
      { maxLagMs: 20_000, maxRetainedWal, ...more },
      new AbortController().signal,
    );
  const deadFeed = () => whyFeedIsDead(green, () => Promise.resolve(blue), RUN);
  const dead = async () => (await deadFeed())?.why;

  it('keeps nobody from hearing that writes have gone back, where green is lost in that moment', async () => {
    const lost = await openSession(rig.databases.green, { purpose: 'test' });
    await closeSession(lost);
    expect(await whatWasLost(lost, RUN, 3, true)).toBe(NOT_COUNTED);
    expect(await whatWasLost(lost, RUN, 3, false)).toBeNull();
  });

  it('is told with what a rollback would lose, and lives again when it is mended', async () => {
    expect(await look()).toMatchObject({ health: 'healthy', rollbackSafe: true, loses: null, missed: 0 });
    await rig.writers.pause();
    expect((await look()).health).toBe('healthy');
    expect(await dead()).toBeUndefined();

    await blue.query(`ALTER SUBSCRIPTION "${FEED}" DISABLE`);
    await green.query(`INSERT INTO public.notes SELECT md5('late' || g)::uuid FROM generate_series(1, 7) g`);
    // The counters of a session are sent at most once a second.
    await green.query('SELECT pg_sleep(1.1)');
    const state = await look();
    expect(state).toMatchObject({ health: 'broken', rollbackSafe: false });
    expect(state.why).toMatch(/subscription .* on blue is disabled.*a rollback would lose about \d+ writes/);
    const writes = Number(/about (\d+) writes/.exec(state.loses ?? '')?.[1]);
    // What idle sessions of the application had not reported yet is counted with it.
    expect(writes).toBeGreaterThanOrEqual(7);
    expect(await deadFeed()).toMatchObject({
      why: expect.stringMatching(/disabled/) as string,
      comparisonEndsIt: false,
    });

    await blue.query(`ALTER SUBSCRIPTION "${FEED}" ENABLE`);
    expect(await look()).toMatchObject({ health: 'healthy', loses: null });
    const late = `public.notes WHERE reference IN (SELECT md5('late' || g)::uuid FROM generate_series(1, 7) g)`;
    expect((await blue.query(`SELECT FROM ${late}`)).rowCount).toBe(7);
    await green.query(`DELETE FROM ${late}`);
    rig.writers.resume();
    await rig.audit();
  });

  it('that somebody takes numbers from a sequence of blue is told, with its name; a look that fails keeps none of the feed', async () => {
    const each = async (statement: string): Promise<void> => {
      for (const session of [blue, green]) await session.query(statement);
    };
    await each('CREATE SEQUENCE public.invoice_no; CREATE SEQUENCE public.others');
    try {
      const numbers = new NumbersTaken(false, { include: ['public.*'], exclude: [] }, 0);
      expect(await look(1e12, { numbers })).toMatchObject({ health: 'healthy' });
      expect(await look(1e12, { numbers })).toMatchObject({ health: 'healthy' });
      // The same on green is what green is for.
      await green.query("SELECT nextval('public.others')");
      expect(await look(1e12, { numbers })).toMatchObject({ health: 'healthy' });
      await blue.query("SELECT nextval('public.invoice_no')");
      const told = await look(1e12, { numbers });
      expect(told).toMatchObject({ health: 'numbersTaken', rollbackSafe: true, loses: null });
      expect(told.why).toMatch(/^blue follows green; somebody still takes numbers .* on blue \(public\.invoice_no\)/);
      // Whoever takes one now and then has not gone: it is not told as over at once.
      expect(await look(1e12, { numbers })).toMatchObject({ health: 'numbersTaken' });
      // A new watch, as behind a try of the way back, begins with where they are.
      const anew = new NumbersTaken(false, { include: ['public.*'], exclude: [] }, 0);
      expect(await look(1e12, { numbers: anew })).toMatchObject({ health: 'healthy' });
      // A crash of blue, which ends the session, has its sequences go on further than anybody has taken.
      const again = await openSession(rig.databases.blue, { purpose: 'test' });
      try {
        await again.query("SELECT nextval('public.invoice_no')");
        expect(await anew.look(again, green)).toBeUndefined();
        await again.query("SELECT nextval('public.invoice_no')");
        expect(await anew.look(again, green)).toContain('public.invoice_no');
      } finally {
        await closeSession(again);
      }
      const asked = blue.query.bind(blue) as (...statement: readonly unknown[]) => Promise<unknown>;
      const last = new NumbersTaken(false, { include: ['public.*'], exclude: [] }, 0);
      const refused = vi
        .spyOn(blue, 'query')
        .mockImplementation(((...statement: readonly unknown[]) =>
          String(statement[0]).includes('pg_sequence_last_value')
            ? Promise.reject(new Error('somebody changes it'))
            : asked(...statement)) as never);
      expect(await look(1e12, { numbers: last })).toMatchObject({ health: 'healthy' });
      expect(refused).toHaveBeenCalledWith(expect.stringContaining('pg_sequence_last_value'), expect.anything());
    } finally {
      vi.restoreAllMocks();
      await each('DROP SEQUENCE public.invoice_no, public.others');
    }
  });

  it('also when blue is not the server any more that had everything', async () => {
    await green.query(
      `UPDATE verdigris.progress SET state = jsonb_set(state, '{blue,timeline}', '"00000009"') WHERE step = 'standby'`,
    );
    expect((await look()).why).toMatch(/^blue was failed over or restored \(its timeline has changed\).*would lose/);
    expect(await dead()).toMatch(/timeline/);
    await green.query(`DELETE FROM verdigris.progress WHERE step = 'standby'`);
    expect(await describeLoss(green, RUN.runId, FEED)).toMatch(/how much is not known/);
    expect((await look()).health).toBe('healthy');
  });

  it('until a comparison that began on the one that is there now finds no difference', async () => {
    const { databases, tables } = rig.move('green');
    const work = await workOf([]);
    const compare = (pass: string): Promise<Verification> =>
      verifyTables({
        ...{ source: databases.green, target: databases.blue, direction: 'to_blue', runId: RUN.runId, pass, tables },
        ...{ work, rest: 0, scope: 'changed', onProgress: () => undefined, signal: new AbortController().signal },
      });
    const failOver = (timeline: string): Promise<unknown> =>
      green.query(
        `UPDATE verdigris.progress SET state = jsonb_set(state, '{blue,timeline}', $1) WHERE object = 'confirmed'`,
        [JSON.stringify(timeline)],
      );
    const onBlue = (sql: string): Promise<unknown> =>
      blue.query(`ALTER TABLE public.notes DISABLE TRIGGER _verdigris_fence; ${sql};
        ALTER TABLE public.notes ENABLE ALWAYS TRIGGER _verdigris_fence`);
    await green.query(`INSERT INTO public.notes VALUES (md5('missed')::uuid)`);
    await rig.writers.pause();
    expect((await compare('before')).differingRows).toBe(0);
    expect((await look()).health).toBe('healthy');

    await failOver('00000009');
    await onBlue(`DELETE FROM public.notes WHERE reference = md5('missed')::uuid`);
    expect(await look()).toMatchObject({
      health: 'broken',
      comparisonEndsIt: expect.stringMatching(/^\d+ [\dA-F]{8}$/) as string,
    });
    expect((await compare('lacks one')).differingRows).toBe(1);
    expect((await look()).why).toMatch(/timeline has changed.*until a comparison that begins after that finds no/);
    expect(await deadFeed()).toMatchObject({
      why: expect.stringMatching(/timeline/) as string,
      comparisonEndsIt: true,
    });

    await onBlue(`INSERT INTO public.notes VALUES (md5('missed')::uuid)`);
    expect((await compare('mended')).differingRows).toBe(0);
    expect(await look()).toMatchObject({ health: 'healthy', rollbackSafe: true, loses: null });
    await failOver('00000009');
    expect((await compare('mended again')).differingRows).toBe(0);
    expect(await dead()).toBeUndefined();
    expect((await readConfirmed(green, RUN.runId))?.blue.timeline).not.toBe('00000009');
    await green.query(`DELETE FROM public.notes WHERE reference = md5('missed')::uuid`);
    rig.writers.resume();
    await rig.audit();
  });

  it('also when blue takes writes beside green, since what was decided is lost there', async () => {
    const epoch = await standby.epoch();
    expect(await look(1e12, { epoch })).toMatchObject({ health: 'healthy' });
    await blue.query(`SELECT setval('verdigris.fence', ${FENCE_OPEN})`);
    const state = await look(1e12, { epoch });
    await blue.query(`SELECT setval('verdigris.fence', ${FENCE_CLOSED})`);
    expect(state).toMatchObject({ health: 'open', rollbackSafe: false });
    expect(state.why).toMatch(/^blue takes writes beside green: somebody has opened its fence; blue follows green$/);
    expect(await look(1e12, { epoch })).toMatchObject({ health: 'healthy' });
    // It has seen that both were open.
    rig.watcher.seen.length = 0;
  });

  it('also where a replica takes its place between the look at the feed and the hold: nothing moves, and the loss is named', async () => {
    await rig.writers.pause();
    await green.query(`DELETE FROM verdigris.progress WHERE step = 'standby'`);
    const failedOver = rig.on('green', async (locker) => {
      await locker.query('BEGIN; LOCK TABLE public.notes IN SHARE UPDATE EXCLUSIVE MODE');
      const outcome = standby.promoteBack(false).catch((error: unknown) => error);
      // The feed has been looked at: the fence is being armed, which waits for the table.
      await untilRow(green, `SELECT FROM verdigris.progress WHERE object = 'confirmed'`);
      await green.query(
        `UPDATE verdigris.progress SET state = jsonb_set(state, '{blue,timeline}', '"00000009"') WHERE object = 'confirmed'`,
      );
      await locker.query('ROLLBACK');
      return outcome;
    });
    expect(await failedOver).toMatchObject({
      type: 'RollbackUnsafe',
      message: expect.stringMatching(
        /^blue was failed over .*finds no difference; a rollback would lose about/,
      ) as string,
      details: [{ comparisonEndsIt: true }],
    });
    expect((await whoIsPrimary(rig.databases)).verdict).toMatchObject({ kind: 'certain', primary: 'green' });
    await green.query(`DELETE FROM verdigris.progress WHERE step = 'standby'`);
    expect((await look()).health).toBe('healthy');
    rig.writers.resume();
  });

  it('is told as out of reach while blue does not answer, with the WAL that green keeps for it', async () => {
    const link = await LinkProxy.start(Number(rig.databases.blue.config.port));
    const config = { ...rig.databases.blue.config, port: link.port };
    const stop = new AbortController();
    const options = { purpose: 'test', answerWithinMs: 300, cutOn: stop.signal };
    const far = await openSession({ ...rig.databases.blue, config }, options);
    try {
      link.swallow('toServer');
      // So much, and kept for blue, that what other tests write on this server meanwhile does not matter.
      await blue.query(`ALTER SUBSCRIPTION "${FEED}" DISABLE`);
      await green.query(
        `SELECT pg_logical_emit_message(false, 'test', repeat('x', 1024 * 1024)) FROM generate_series(1, 64)`,
      );
      const limits = { maxLagMs: 20_000, maxRetainedWal: (await retainedWal(green)) * 1.5 };
      const state = await lookAtStandby(green, () => Promise.resolve(far), RUN, limits, stop.signal);
      expect(state).toMatchObject({ health: 'filling', rollbackSafe: false });
      expect(state.why).toMatch(/blue did not answer within 0\.3 s.*holds back \d+ MB of WAL on green/);
      // A cancel is heard while a connection is being made, too.
      const opening = openSession({ ...rig.databases.blue, config }, options);
      setTimeout(() => stop.abort(new Error('cancelled')), 50);
      await expect(opening).rejects.toThrow('cancelled');
    } finally {
      await blue.query(`ALTER SUBSCRIPTION "${FEED}" ENABLE`);
      await closeSession(far);
      await link.close();
    }
    expect((await look()).health).toBe('healthy');
  });

  it('is not blamed on blue where it is green that does not answer in the middle of a look', async () => {
    const link = await LinkProxy.start(Number(rig.databases.green.config.port));
    const config = { ...rig.databases.green.config, port: link.port };
    const { signal } = new AbortController();
    const far = await openSession({ ...rig.databases.green, config }, { purpose: 'test', answerWithinMs: 300 });
    try {
      const openBlue = (): Promise<Session> => {
        link.swallow('toServer');
        return Promise.resolve(blue);
      };
      const looking = lookAtStandby(far, openBlue, RUN, { maxLagMs: 20_000, maxRetainedWal: 1e12 }, signal);
      const error: unknown = await looking.catch((failed: unknown) => failed);
      expect(isAway(error), String(error)).toBe(true);
      expect(greenAway(new Error('green did not answer'))).toMatchObject({
        health: 'greenAway',
        rollbackSafe: false,
        why: "the worker can't reach green, which has the writes: green did not answer",
      });
    } finally {
      await closeSession(far);
      await link.close();
    }
  });

  it('names no number where the counters of green have begun anew, or went with a table, since blue had everything', async () => {
    await rig.writers.pause();
    const counted = async (change: string): Promise<string> => {
      expect((await look()).health).toBe('healthy');
      await green.query(change);
      return describeLoss(green, RUN.runId, FEED);
    };
    try {
      await green.query(
        `CREATE TABLE public.counted (id int PRIMARY KEY); ALTER PUBLICATION "${FEED}" ADD TABLE public.counted`,
      );
      expect(await counted('SELECT')).toMatch(/^about \d+ writes? /);
      // A table that has come since takes nothing away.
      expect(await counted('CREATE TABLE public.newer (id int PRIMARY KEY)')).toMatch(/^about \d+ writes? /);
      await green.query(`ALTER PUBLICATION "${FEED}" ADD TABLE public.newer`);
      expect(await describeLoss(green, RUN.runId, FEED)).toMatch(/^about \d+ writes? /);
      expect(await counted('DROP TABLE public.counted')).toMatch(/tables were dropped or detached/);
      // Reset while they were at nothing, they can't be below what they were.
      await green.query('SELECT pg_stat_reset()');
      expect(await counted('SELECT pg_stat_reset()')).toMatch(/its statistics were reset/);
    } finally {
      await green.query('DROP TABLE IF EXISTS public.counted, public.newer');
      rig.writers.resume();
    }
  });

  it("is told as one that can't be dropped where the role may not end who holds the slot: green's disk is not protected", async () => {
    const role = `plain_${process.pid}`;
    await green.query(`CREATE ROLE ${role} LOGIN REPLICATION PASSWORD 'x'; GRANT USAGE ON SCHEMA verdigris TO ${role};
      GRANT SELECT ON ALL TABLES IN SCHEMA verdigris TO ${role}`);
    const config = { ...rig.databases.green.config, user: role, password: 'x' };
    const plain = await openSession({ ...rig.databases.green, config }, { purpose: 'test' });
    try {
      const limits = { maxLagMs: 20_000, maxRetainedWal: 1 };
      const state = await lookAtStandby(plain, () => Promise.resolve(blue), RUN, limits, new AbortController().signal);
      expect(state).toMatchObject({ health: 'undroppable', rollbackSafe: false, loses: null });
      expect(state.why).toMatch(
        /^green's disk is not protected: .*"postgres" \(pid \d+\) holds it, which "plain_\d+" may not end/,
      );
      expect((await look()).health).toBe('healthy');
    } finally {
      await closeSession(plain);
      await green.query(`DROP OWNED BY ${role}; DROP ROLE ${role}`);
    }
  });

  it('lets writes go back only with the loss: never are both sides open, sequences go on, green keeps what blue has not', async () => {
    await rig.writers.pause();
    expect((await look()).health).toBe('healthy');
    expect(await look(1)).toMatchObject({ health: 'dropped', rollbackSafe: false });
    await green.query(
      `INSERT INTO public.notes SELECT md5('lost' || g)::uuid FROM generate_series(1, 5) g;
       SELECT setval('public.entries_id_seq', 500000)`,
    );
    rig.writers.resume();
    expect(await dead()).toMatch(/the feed was dropped/);
    // A subscription that somebody switches on again must not bring anything later.
    const { databases, tables } = rig.move('green');
    const knownTables = await preparePromotion({
      ...{ databases, migration: MIGRATION, from: 'green', fenced: tables, wayBack: undefined, acceptLoss: true },
    });
    await rig.writers.pause();
    const promotion = {
      ...{ databases, migration: MIGRATION, from: 'green' as const, fenced: tables, knownTables, pools: NO_POOLS },
      ...{ maxHoldMs: 2_000, sequenceGap: 1_000, feedBack: false, acceptLoss: true },
    };
    await expect(promote(promotion, { attempts: 1 })).rejects.toMatchObject({
      message: expect.stringMatching(/has been switched on again/) as string,
    });
    await blue.query(`ALTER SUBSCRIPTION "${FEED}" DISABLE`);
    await promote(promotion, { attempts: 50 });
    await finishPromotion(databases, MIGRATION, 'green', { feedBack: false });
    rig.primary = 'blue';

    expect(rig.watcher.seen).toEqual([]);
    expect((await whoIsPrimary(databases)).verdict).toMatchObject({ kind: 'certain', primary: 'blue' });
    const lost = `SELECT FROM public.notes WHERE reference IN (SELECT md5('lost' || g)::uuid FROM generate_series(1, 5) g)`;
    expect((await blue.query(lost)).rowCount).toBe(0);
    expect((await green.query(lost)).rowCount).toBe(5);
    await expect(green.query('DELETE FROM public.notes')).rejects.toMatchObject({ code: '25006' });
    const { rows } = await blue.query<{ next: number }>(`SELECT nextval('public.entries_id_seq')::float8 AS next`);
    expect(rows[0]?.next).toBeGreaterThan(500_000);
    expect(await readSubscription(blue, FEED)).toBeUndefined();
    rig.writers.resume();
  });
});

describe('changes of green that meet no row on blue', () => {
  it('are counted from PostgreSQL 18 on, and nothing else is', async () => {
    const ddl = 'CREATE TABLE public.orders (id int PRIMARY KEY, note text)';
    const pair = await ReplicatedPair.start(
      'pg18',
      'missed',
      ddl,
      'INSERT INTO public.orders VALUES (1), (2), (3), (4)',
    );
    try {
      await pair.promoteGreen();
      const { rows } = await pair.blue.query<{ name: string }>(
        'SELECT subname AS name FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())',
      );
      const missed = (): Promise<number> =>
        countMissed(
          pair.ourBlue,
          rows.map(({ name }) => name),
        );
      await pair.green.query(
        "UPDATE public.orders SET note = 'new' WHERE id = 1; DELETE FROM public.orders WHERE id = 1",
      );
      await pair.caughtUpOnBlue();
      expect(await missed()).toBe(0);
      await pair.blue.query('SET session_replication_role = replica; DELETE FROM public.orders WHERE id IN (2, 3)');
      await pair.green.query(
        "UPDATE public.orders SET note = 'new' WHERE id = 2; DELETE FROM public.orders WHERE id = 3",
      );
      await pair.caughtUpOnBlue();
      await expect.poll(missed, { timeout: 10_000 }).toBe(2);
    } finally {
      await pair.stop();
    }
  });
});

describe('what a rollback would lose', () => {
  const at = { lsn: '1/FFFFFFF0', writes: 100, at: '2026-11-22 10:00:00' };

  it('is counted from the last moment at which blue had everything', () => {
    expect(lossBetween(at, { lsn: '2/100000', writes: 112, at: '' })).toBe(
      'about 12 writes (rows inserted, updated or deleted on green since 2026-11-22 10:00:00 UTC; 1.0 MB of WAL)',
    );
    expect(lossBetween(at, { lsn: '2/0', writes: 101, at: '' })).toMatch(/^about 1 write \(/);
    expect(lossBetween(at, { lsn: '2/0', writes: 3, at: '' })).toMatch(/statistics were reset.*1 kB of WAL/);
    expect(lossBetween(at, { lsn: '2/0', writes: null, at: '' })).toMatch(/can't be counted/);
  });

  it("can't be counted where the counters have begun anew, or tables are gone, and have grown past what they were", () => {
    const before = { ...at, counting: '1/2', tables: 3, newest: 9 };
    const now = { lsn: '2/0', writes: 112, at: '', counting: '1/2', tables: 3 };
    expect(lossBetween(before, now)).toMatch(/^about 12 writes/);
    expect(lossBetween(before, { ...now, counting: '5/2' })).toMatch(/statistics were reset, so it can't be counted/);
    expect(lossBetween(before, { ...now, tables: 2 })).toMatch(
      /tables were dropped or detached, so it can't be counted/,
    );
    // What an earlier version has written down.
    expect(lossBetween(at, now)).toMatch(/^about 12 writes/);
  });

  it('knows a blue that is another server, another timeline, or behind what it was', () => {
    const blue = { system: '7', timeline: '00000001', lsn: '0/20' };
    expect(whyReplaced('blue', blue, { ...blue, lsn: '0/30' })).toBeUndefined();
    expect(whyReplaced('blue', blue, { ...blue, system: '8' })).toMatch(/another server/);
    expect(whyReplaced('blue', blue, { ...blue, timeline: '00000002' })).toMatch(/timeline/);
    expect(whyReplaced('blue', blue, { ...blue, lsn: '0/1F' })).toMatch(/earlier state/);
  });
});
