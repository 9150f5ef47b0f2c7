import { setTimeout as sleep } from 'node:timers/promises';
import { MockActivityEnvironment } from '@temporalio/testing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { retireActivities } from '../../activities/retire.js';
import { rollbackActivities } from '../../activities/rollback.js';
import { publishForward } from '../../activities/run-tables.js';
import { isBinarySafe } from '../../src/postgres/binary-feed.js';
import { feedName } from '../../src/postgres/feed.js';
import { ident } from '../../src/postgres/identifier.js';
import { refuseBrokenFeed } from '../../src/postgres/lag.js';
import { measureLag } from '../../src/postgres/marker.js';
import { holdsActorLock, openActorSession } from '../../src/postgres/ownership.js';
import { createPublication } from '../../src/postgres/publication.js';
import { dropSlot, ensureSlot } from '../../src/postgres/replication-slot.js';
import { readRetainedWal } from '../../src/postgres/retained-wal.js';
import { closeSession } from '../../src/postgres/session.js';
import { lookAtStandby, type StandbyState } from '../../src/postgres/standby.js';
import { ensurePublications, readStreams } from '../../src/postgres/streams.js';
import {
  disableSubscription,
  disableSubscriptions,
  enableSubscription,
  ensureSubscription,
} from '../../src/postgres/subscription.js';
import { isProgress } from '../../src/progress.js';
import type { Progress } from '../../src/postgres/migrate/step-context.js';
import { testedPairs } from '../support/tested-version.js';
import { MIGRATION, StreamPair } from './stream-pair.js';

const FEED = feedName(MIGRATION, 'to_green');
const SECOND = `${FEED}_2`;

const TABLES = ['busy', 'customers', 'orders', 'parts', 'tags'];
const DDL = `
  CREATE TABLE customers (id int PRIMARY KEY, boss int REFERENCES customers);
  CREATE TABLE orders (id int PRIMARY KEY, customer int REFERENCES customers);
  CREATE TABLE tags (id int PRIMARY KEY);
  CREATE TABLE parts (id int, day int, tag int, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
  CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
  ALTER TABLE parts_1 ADD FOREIGN KEY (tag) REFERENCES tags;
  CREATE TABLE busy (id int PRIMARY KEY, note text);
  INSERT INTO busy SELECT g, repeat('x', 100) FROM generate_series(1, 2000) g`;

/** The first rows of busy take about half a second. */
const SLOW_ROWS = `
  CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END';
  CREATE TRIGGER slow BEFORE INSERT ON public.busy FOR EACH ROW WHEN (NEW.id % 50 = 0) EXECUTE FUNCTION public.slow();
  ALTER TABLE public.busy ENABLE ALWAYS TRIGGER slow`;

describe.each(
  testedPairs([
    { blue: 'pg15', green: 'pg18' },
    { blue: 'pg18', green: 'pg15' },
  ] as const),
)('two streams $blue -> $green', (servers) => {
  let pair: StreamPair;
  let told: readonly object[];

  beforeAll(async () => {
    pair = await StreamPair.start(servers, DDL);
    await pair.green.query('TRUNCATE public.busy');
    // A marker that is there before: each stream's first copy must bring its own row of it only.
    expect(await measureLag(pair.blue, pair.green, 'to_green', 10)).toBe(Number.POSITIVE_INFINITY);
    await pair.publish(TABLES);
    await pair.blue.query('ANALYZE public.busy');
    await pair.green.query(SLOW_ROWS);
    told = await pair.replicate();
    await pair.green.query('DROP TRIGGER slow ON public.busy');
  });

  afterAll(() => pair.stop());

  it('spreads the tables in groups closed under foreign keys, those of partitions too', async () => {
    const streams = await readStreams(pair.blue, MIGRATION, 'to_green', 2);
    expect(streams.map(({ name, tables }) => [name, tables.map((table) => table.name)])).toEqual([
      [FEED, ['busy']],
      [SECOND, ['customers', 'orders', 'parts', 'tags']],
    ]);
  });

  it('publishes nothing while a table is there whose rows could not be updated then, unless all is published already', async () => {
    await pair.blue.query('CREATE TABLE public.audit (what text)');
    const { plan } = pair.ref;
    const other = publishForward(pair.blue, { runId: 'run-1', migration: 'another-feed' }, plan);
    await expect(other).rejects.toMatchObject({
      type: 'IdentityMissing',
      message: expect.stringMatching(
        /public\.audit has no primary key[^]*drop on blue what has come[^]*ADD PRIMARY KEY[^]*; then resume/,
      ) as string,
    });
    const names = 'SELECT FROM pg_publication WHERE pubname LIKE $1';
    expect((await pair.blue.query(names, ['verdigris\\_another%'])).rows).toEqual([]);
    await publishForward(pair.blue, { runId: 'run-1', migration: MIGRATION }, plan);
    await pair.blue.query('DROP TABLE public.audit');
  });

  it('tells of each table that PostgreSQL copies: rows of how many, bytes, rate and the time that is left', () => {
    const busy = told.filter((one): one is Progress => isProgress(one) && one.object === 'public.busy');
    expect(busy.at(-1)?.done).toBe(busy.at(-1)?.total);
    const under = busy.filter(({ done, total }) => done < total);
    expect(under.length).toBeGreaterThan(0);
    // At least one more than there are, until it is over.
    for (const { step, total } of under) expect([step, Math.min(total, 2000)]).toEqual(['copy', 2000]);
    expect(
      under.some(({ rowsPerSecond, bytes, etaSeconds }) => rowsPerSecond > 0 && bytes && etaSeconds !== null),
    ).toBe(true);
  });

  it('decides once: other sizes later change nothing', async () => {
    const before = await readStreams(pair.blue, MIGRATION, 'to_green', 2);
    await pair.blue.query('INSERT INTO public.orders SELECT g FROM generate_series(1, 20000) g');
    await pair.publish(TABLES);
    expect(await readStreams(pair.blue, MIGRATION, 'to_green', 2)).toEqual(before);
  });

  it('brings the rows of every stream, and a marker by each, time after time', async () => {
    await pair.blue.query(`
      INSERT INTO public.tags VALUES (1); INSERT INTO public.parts VALUES (1, 1, 1); UPDATE public.busy SET note = 'y'`);
    for (let time = 0; time < 3; time++) {
      expect(await measureLag(pair.blue, pair.green, 'to_green', 20_000)).toBeLessThan(20_000);
    }
    const { rows } = await pair.green.query<{ stream: number; streams: number }>(
      'SELECT stream, streams FROM verdigris.marker_to_green ORDER BY stream',
    );
    expect(rows).toEqual([
      { stream: 1, streams: 2 },
      { stream: 2, streams: 2 },
    ]);
    const counts = `SELECT (SELECT count(*)::int FROM public.orders) AS orders, (SELECT count(*)::int FROM public.parts_1) AS parts,
                           (SELECT count(*)::int FROM public.busy WHERE note = 'y') AS busy`;
    expect((await pair.green.query(counts)).rows).toEqual([{ orders: 20_000, parts: 1, busy: 2_000 }]);
  });

  it('applies a TRUNCATE of tables that a foreign key binds', async () => {
    await pair.blue.query('TRUNCATE public.orders, public.customers');
    expect(await measureLag(pair.blue, pair.green, 'to_green', 20_000)).toBeLessThan(20_000);
    expect((await pair.green.query('SELECT FROM public.orders')).rowCount).toBe(0);
  });

  it('shows the last write only when every stream has it, also those that have nothing to do', async () => {
    await pair.blue.query("UPDATE public.busy SET note = 'z' WHERE id = 1");
    const { rows } = await pair.blue.query<{ lsn: string; epoch: string }>(
      'SELECT pg_current_wal_flush_lsn()::text AS lsn, epoch::text FROM verdigris.route',
    );
    const caughtUp = async (): Promise<boolean> => {
      const answer = await pair.green.query<{ yes: boolean }>(
        'SELECT verdigris.caught_up($1::bigint, $2::pg_lsn) AS yes',
        [rows[0]?.epoch, rows[0]?.lsn],
      );
      return answer.rows[0]?.yes === true;
    };
    await expect.poll(caughtUp, { timeout: 10_000, interval: 5 }).toBe(true);
    await disableSubscription(pair.green, SECOND);
    expect(await caughtUp()).toBe(false);
    await enableSubscription(pair.green, SECOND);
    await expect.poll(caughtUp, { timeout: 10_000, interval: 5 }).toBe(true);
  });

  it('is not caught up while one stream stands still, whichever it is', async () => {
    for (const name of [FEED, SECOND]) {
      await disableSubscription(pair.green, name);
      expect(await measureLag(pair.blue, pair.green, 'to_green', 300)).toBe(Number.POSITIVE_INFINITY);
      await expect(refuseBrokenFeed(pair.green, FEED, 'to_green')).rejects.toThrow(`${name} is disabled`);
      await enableSubscription(pair.green, name);
      expect(await measureLag(pair.blue, pair.green, 'to_green', 20_000)).toBeLessThan(20_000);
    }
  });

  it('holds back as much WAL as the stream that is furthest behind', async () => {
    await disableSubscription(pair.green, SECOND);
    await pair.blue.query("INSERT INTO public.busy SELECT g, repeat('x', 500) FROM generate_series(10001, 14000) g");
    const both = await readRetainedWal(pair.blue, [FEED, SECOND]);
    expect(both).toMatchObject({ walStatus: 'reserved', slots: 2 });
    expect(both.bytes).toBeGreaterThan(2_000_000);
    expect(both.transactions).toBeGreaterThan(0);
    expect(await readRetainedWal(pair.blue, [`${FEED}_9`])).toEqual({
      bytes: 0,
      transactions: 0,
      walStatus: null,
      slots: 0,
    });
    await enableSubscription(pair.green, SECOND);
  });

  it('a publication that is missing is an error that names it, never made anew with other tables', async () => {
    const third = { migration: MIGRATION, direction: 'to_green', tables: [], streams: 3 } as const;
    await expect(ensurePublications(pair.blue, third)).rejects.toThrow(`${FEED}_3`);
    await expect(readStreams(pair.blue, MIGRATION, 'to_green', 3)).rejects.toThrow(`${FEED}_3`);
  });

  it('a rollback removes every stream, also those that the run does not know of, and nothing of others', async () => {
    const third = `${FEED}_3`;
    await pair.blue.query(createPublication(third, 'to_green', [], 3));
    await ensureSlot(pair.blue, third);
    await ensureSubscription(pair.green, {
      name: third,
      conninfo: pair.databases.blue.peerConninfo,
      copyData: false,
      enabled: true,
      publisherVersion: 15,
    });
    await pair.blue.query(`CREATE PUBLICATION ${ident(`${FEED}_b`)}`);
    const { undoReplication } = rollbackActivities(pair.dependencies);
    await new MockActivityEnvironment().run(undoReplication, pair.ref, { keepGreen: false });
    expect(await pair.replicationObjects('blue')).toEqual([`publication ${FEED}_b`]);
    expect(await pair.replicationObjects('green')).toEqual([]);
  });
});

describe.each(testedPairs([{ blue: 'pg15', green: 'pg18' }] as const))('the way back with two streams', (servers) => {
  let pair: StreamPair;
  const back = feedName(MIGRATION, 'to_blue');

  beforeAll(async () => {
    pair = await StreamPair.start(servers, DDL);
    await pair.publish(TABLES);
    // Smaller now: the way back must not be spread by its own sizes.
    await pair.green.query('TRUNCATE public.busy; INSERT INTO public.orders SELECT g FROM generate_series(1, 20000) g');
    await pair.replicateBack(TABLES);
  });

  afterAll(() => pair.stop());

  const look = (maxRetainedWal = 1e12) =>
    lookAtStandby(
      pair.green,
      () => Promise.resolve(pair.blue),
      { runId: 'run', migration: MIGRATION },
      { maxLagMs: 20_000, maxRetainedWal },
      new AbortController().signal,
    );

  it('has the same tables in each stream as the way there', async () => {
    const there = await readStreams(pair.blue, MIGRATION, 'to_green', 2);
    const backAgain = await readStreams(pair.green, MIGRATION, 'to_blue', 2);
    expect(backAgain.map(({ tables }) => tables)).toEqual(there.map(({ tables }) => tables));
  });

  it('could send binary values where every column has the same type on both sides, and only there', async () => {
    const { rows } = await pair.blue.query<{ binary: boolean }>(
      `SELECT subbinary AS binary FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())`,
    );
    expect(rows.map((row) => row.binary)).toContain(true);
    await pair.green.query(
      "INSERT INTO public.busy VALUES (9007, 'seven'); INSERT INTO public.parts VALUES (7, 7, NULL)",
    );
    expect(await measureLag(pair.green, pair.blue, 'to_blue', 20_000)).toBeLessThan(20_000);
    const seven = await pair.blue.query(
      "SELECT FROM public.busy b, public.parts p WHERE b.note = 'seven' AND p.id = 7",
    );
    expect(seven.rowCount).toBe(1);

    await pair.green.query('ALTER TABLE public.tags ALTER id TYPE bigint');
    expect(isBinarySafe(await pair.tables('green'), await pair.tables('blue'))).toBe(false);
  });

  it('is healthy when both streams are, and broken when one is not', async () => {
    expect((await look()).health).toBe('healthy');
    await disableSubscription(pair.blue, `${back}_2`);
    expect(await look()).toMatchObject({ health: 'broken', rollbackSafe: false });
    await enableSubscription(pair.blue, `${back}_2`);
    expect((await look()).health).toBe('healthy');
  });

  it('a slot is made for a promotion only while its worker holds the lock of the actor', async () => {
    const actor = await openActorSession(pair.databases.green, 'test');
    const condition = await holdsActorLock(actor);
    expect((await pair.green.query(`SELECT 1 WHERE ${condition}`)).rowCount).toBe(1);
    await closeSession(actor);
    const next = await openActorSession(pair.databases.green, 'test');
    expect((await pair.green.query(`SELECT 1 WHERE ${condition}`)).rowCount).toBe(0);
    await closeSession(next);
  });

  it('one stream that holds back too much WAL ends the whole feed, also behind a try that has ended half of it; the retirement removes the rest', async () => {
    await disableSubscription(pair.blue, `${back}_2`);
    await pair.green.query('UPDATE public.orders SET customer = NULL');
    await sleep(50);
    await disableSubscription(pair.blue, back);
    await dropSlot(pair.green, back);
    expect((await look(500_000)).health).toBe('dropped');
    expect(await pair.replicationObjects('green')).toEqual([`publication ${back}`, `publication ${back}_2`]);
    await new MockActivityEnvironment().run(retireActivities(pair.dependencies).retire, pair.ref);
    expect(await pair.replicationObjects('green')).toEqual([]);
    expect(await pair.replicationObjects('blue')).toEqual([]);
  });
});

describe('a way back of two streams of which somebody has dropped a slot', () => {
  it('keeps no WAL on green beyond the limit while blue is away: what is left of the feed is dropped, too', async () => {
    const pair = await StreamPair.start({ blue: 'pg15', green: 'pg18' }, DDL);
    try {
      const back = feedName(MIGRATION, 'to_blue');
      await pair.publish(TABLES);
      await pair.replicateBack(TABLES);
      const look = (maxRetainedWal: number): Promise<StandbyState> =>
        lookAtStandby(
          pair.green,
          () => Promise.reject(new Error('blue is away')),
          { runId: 'run-1', migration: MIGRATION },
          { maxLagMs: 20_000, maxRetainedWal },
          new AbortController().signal,
        );
      await disableSubscriptions(pair.blue, [back, `${back}_2`]);
      await dropSlot(pair.green, back);
      await pair.green.query("INSERT INTO public.busy SELECT g, repeat('x', 500) FROM generate_series(10001, 14000) g");
      expect((await look(1e12)).health).toBe('broken');
      expect((await look(500_000)).health).toBe('dropped');
      expect(await pair.replicationObjects('green')).toEqual([`publication ${back}`, `publication ${back}_2`]);
    } finally {
      await pair.stop();
    }
  });
});

describe('large transactions', () => {
  it.each([
    { blue: 'pg15', green: 'pg18', streaming: 't' },
    { blue: 'pg18', green: 'pg18', streaming: 'p' },
    { blue: 'pg18', green: 'pg15', streaming: 'true' },
  ] as const)('are applied while they run, in parallel where both can: $blue -> $green', async (servers) => {
    const own = await StreamPair.start(servers, 'CREATE TABLE t (id int PRIMARY KEY)');
    try {
      await own.publish(['t']);
      await own.replicate();
      const { rows } = await own.green.query(
        `SELECT DISTINCT substream::text AS streaming FROM pg_subscription
          WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())`,
      );
      expect(rows).toEqual([{ streaming: servers.streaming }]);
    } finally {
      await own.stop();
    }
  });
});
