import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { briefLock } from '../../src/postgres/brief-lock.js';
import { dropFence, armFence } from '../../src/postgres/fence.js';
import { dropPublications } from '../../src/postgres/feed-objects.js';
import { analyzeTables } from '../../src/postgres/migrate/analyze.js';
import { createIndexes } from '../../src/postgres/migrate/create-index.js';
import { runSql } from '../../src/postgres/migrate/sql-step.js';
import { shortLocks } from '../../src/postgres/migrate/short-locks.js';
import type { Progress, StepContext } from '../../src/postgres/migrate/step-context.js';
import { dumpSchema } from '../../src/postgres/schema-copy/pg-dump.js';
import { refreshMaterializedViews } from '../../src/postgres/schema-copy/materialized-views.js';
import { closeSession, openSession, type Database, type Session } from '../../src/postgres/session.js';
import { installState } from '../../src/postgres/state.js';
import { SideSessions } from '../../src/postgres/verify/side-sessions.js';
import { asDatabase, testDatabase, type TestDatabase } from '../support/postgres.js';
import { contextOn, workOf } from '../postgres/replicated-pair.js';

const T = { schema: 'public', name: 't' };
const WHO = String.raw`pid \d+ \(nightly report, user postgres, client backend, transaction \d+\.\d s old, statement \d+\.\d s: `;

describe.each([['pg15' as const], ['pg18' as const]])('locks on %s', (server) => {
  let db: TestDatabase;
  let database: Database;
  let session: Session;
  let app: pg.Client;
  let holder: pg.Client;
  let seen: Progress[];
  let context: StepContext;

  beforeAll(async () => {
    db = await testDatabase(server, 'locks');
    database = asDatabase(db, 'green');
    session = await openSession(database, { purpose: 'test' });
    await installState(session, 'green');
    app = new pg.Client({ ...db.config, application_name: 'the shop' });
    holder = new pg.Client({ ...db.config, application_name: 'nightly report' });
    await Promise.all([app.connect(), holder.connect()]);
    // A feed, which gets nothing: indexes are built CONCURRENTLY.
    await app.query(
      `CREATE SUBSCRIPTION verdigris_test CONNECTION 'dbname=nowhere' PUBLICATION p WITH (connect = false, slot_name = NONE)`,
    );
  });
  afterAll(async () => {
    await Promise.all([closeSession(session), app.end(), holder.end()]);
    await db.drop();
  });
  beforeEach(async () => {
    seen = [];
    context = contextOn(database, session, seen);
    await app.query(
      `CREATE TABLE t (id int PRIMARY KEY, a int); INSERT INTO t SELECT n, n FROM generate_series(1, 1000) n`,
    );
  });
  afterEach(async () => {
    await holder.query('ROLLBACK');
    await app.query('DROP TABLE t CASCADE; TRUNCATE verdigris.progress');
  });

  /** How long the application waited for its longest read of t while `work` ran, in ms. */
  async function longestRead<T>(work: () => Promise<T>): Promise<number> {
    let longest = 0;
    let over = false;
    const reading = (async (): Promise<void> => {
      while (!over) {
        const started = performance.now();
        await app.query('SELECT FROM t LIMIT 1');
        longest = Math.max(longest, performance.now() - started);
        await sleep(5);
      }
    })();
    try {
      await work();
    } finally {
      over = true;
      await reading;
    }
    return longest;
  }

  /** Waits until the progress has a note that says whom ours waits for, and lets that one go. */
  async function letGoWhenNamed(note: RegExp, running: Promise<unknown>): Promise<void> {
    await named(note, running);
    await holder.query('ROLLBACK');
  }

  /** @throws what `running` fails with */
  async function named(note: RegExp, running: Promise<unknown>): Promise<void> {
    let over = false;
    const watched = running.finally(() => (over = true));
    watched.catch(() => undefined);
    while (!over && !seen.some((progress) => note.test(progress.note ?? ''))) await sleep(20);
    if (over) await watched;
    expect(seen.map((progress) => progress.note ?? '').join('\n')).toMatch(note);
  }

  it('DDL that has its lock and keeps the application waiting is cancelled, backs off and is done later', async () => {
    let tries = 0;
    const longest = await longestRead(() =>
      shortLocks(context, session, { object: 'table t', maxBlockingMs: 400 }, async () => {
        await session.query('LOCK TABLE public.t IN ACCESS EXCLUSIVE MODE');
        if (++tries === 1) await session.query('SELECT pg_sleep(30)');
        await session.query('ALTER TABLE public.t ADD COLUMN b int');
      }),
    );
    expect(tries).toBe(2);
    expect(longest).toBeGreaterThan(350);
    expect(longest).toBeLessThan(2_000);
    expect((await app.query('SELECT b FROM t LIMIT 1')).rowCount).toBe(1);
  });

  it('raw SQL that keeps the application waiting each time is given up for now, says whom it held up, and is done when it can be', async () => {
    const step = { name: 'x', up: 'ALTER TABLE t ADD COLUMN b int; SELECT pg_sleep(3)', down: 'SELECT 1' } as never;
    let over = false;
    const reads = (async (): Promise<void> => {
      while (!over) await app.query('SELECT FROM t LIMIT 1');
    })();
    const failure: unknown = await runSql(context, 0, step, 'up')
      .catch((error: unknown) => error)
      .finally(() => (over = true));
    await reads;
    expect(failure).toMatchObject({ type: 'MigrationStepFailed', retryable: true });
    expect(String(failure)).toMatch(/SQL step "x" \(up\): given up 5 times, .*SELECT FROM t\) has waited for it/);
    expect(seen.map(({ note }) => note ?? '').join('\n')).toMatch(/gave way, and is tried again: .*SELECT FROM t/);
    // As the next try of its activity.
    await runSql(context, 0, step, 'up');
    expect((await app.query('SELECT b FROM t LIMIT 1')).rowCount).toBe(1);
  });

  it('DDL that keeps the application waiting each time is given up for now, and says whom', async () => {
    const stubborn = longestRead(() =>
      shortLocks(context, session, { object: 'table t', maxBlockingMs: 200 }, () =>
        session.query('LOCK TABLE public.t IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(30)'),
      ),
    );
    await expect(stubborn).rejects.toMatchObject({
      retryable: true,
      message: expect.stringMatching(
        /table t: given up 5 times, .* it was stopped, since pid \d+ \(the shop, user postgres: SELECT FROM t\) has waited for it for \d+\.\d s/,
      ) as string,
    });
  });

  it.each([
    [
      'CREATE INDEX CONCURRENTLY by_a ON t (a)',
      `SELECT indisvalid AS done FROM pg_index WHERE indexrelid = 'by_a'::regclass`,
    ],
    ['DROP INDEX CONCURRENTLY old', `SELECT to_regclass('old') IS NULL AS done`],
    [
      'REINDEX TABLE CONCURRENTLY t',
      `SELECT to_regclass('old_ccnew') IS NULL AND to_regclass('t_pkey_ccnew') IS NULL AS done`,
    ],
  ])('raw SQL, %s: cancelled when the application waits for it, named, and done when it can be', async (sql, done) => {
    await app.query('CREATE INDEX old ON t (a)');
    await holder.query('BEGIN; UPDATE t SET a = a WHERE id = 1');
    const running = runSql(context, 0, { name: 'x', up: sql, down: 'SELECT 1' } as never, 'up');
    const waits = new RegExp(`waits for ${WHO}BEGIN; UPDATE t`);
    await named(waits, running);
    const started = performance.now();
    await app.query('ANALYZE t');
    const waited = performance.now() - started;
    expect(waited).toBeLessThan(4_000);
    await holder.query('ROLLBACK');
    await running;
    expect((await app.query(done)).rows).toEqual([{ done: true }]);
    expect((await app.query('SELECT FROM pg_index WHERE NOT indisvalid')).rowCount).toBe(0);
  });

  it('raw SQL that asks for a whole table outside a transaction queues nobody for long', async () => {
    await holder.query('BEGIN; SELECT count(*) FROM t');
    const longest = await longestRead(async () => {
      const running = runSql(context, 0, { name: 'x', up: 'VACUUM FULL t', down: 'SELECT 1' } as never, 'up');
      await sleep(1_500);
      await letGoWhenNamed(new RegExp(`waits for ${WHO}BEGIN; SELECT count`), running);
      await running;
    });
    expect(longest).toBeLessThan(1_200);
  });

  it('an index build that gives way too often names whom it held up and for whom it waited, is tried again later, and ends no other', async () => {
    await app.query('CREATE TABLE u (id int PRIMARY KEY)');
    await holder.query('BEGIN; UPDATE t SET a = a WHERE id = 1');
    const { steps } = await workOf([
      { createIndex: { table: 't', name: 'by_a', columns: ['a'] } },
      { createIndex: { table: 'u', name: 'by_id', columns: ['id'] } },
    ]);
    const indexes = steps.flatMap((step) => (step.kind === 'indexes' ? step.indexes : []));
    let over = false;
    const watcher = await openSession(database, { purpose: 'test' });
    const others = (async (): Promise<void> => {
      for (; !over; await sleep(20)) {
        const { rows } = await watcher.query<{ building: boolean; dropping: boolean }>(
          `SELECT EXISTS (SELECT FROM pg_stat_progress_create_index WHERE relid = 'public.t'::regclass) AS building,
                  EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'DROP INDEX CONC%' AND wait_event_type = 'Lock'
                             AND datname = current_database()) AS dropping`,
        );
        if (rows[0]?.building === true) await app.query('ANALYZE t');
        // What the build has left is dropped when the report is over; there is always another one.
        if (rows[0]?.dropping === true) await holder.query('ROLLBACK; BEGIN; UPDATE t SET a = a WHERE id = 1');
      }
    })();
    const building = createIndexes(context, indexes, { parallel: 1, maxBlockingMs: 200 }).finally(() => (over = true));
    const failure = await building.then(
      () => undefined,
      (error: unknown) => error,
    );
    await others;
    await closeSession(watcher);
    expect(failure).toMatchObject({ type: 'MigrationStepFailed', retryable: true });
    expect(String(failure)).toMatch(
      new RegExp(
        String.raw`held up other sessions: it was stopped, since pid \d+ \(the shop, user postgres: ANALYZE t\) has waited for it for .*; it waited for ${WHO}`,
      ),
    );
    expect(seen.map(({ note }) => note ?? '').join('\n')).toMatch(/gave way, and is tried again: .*ANALYZE t/);
    const valid = `SELECT c.relname FROM pg_index JOIN pg_class c ON c.oid = indexrelid WHERE indisvalid AND c.relname IN ('by_a', 'by_id')`;
    expect((await app.query(valid)).rows).toEqual([{ relname: 'by_id' }]);
    await holder.query('ROLLBACK');
    await createIndexes(context, indexes, { parallel: 1, maxBlockingMs: 200 });
    expect((await app.query(valid)).rowCount).toBe(2);
    await app.query('DROP TABLE u');
  });

  it('ANALYZE waits briefly, says for whom, and goes on', async () => {
    await holder.query('BEGIN; LOCK TABLE t IN SHARE UPDATE EXCLUSIVE MODE');
    const analyzing = analyzeTables(context, [T]);
    await letGoWhenNamed(new RegExp(`waits for ${WHO}BEGIN; LOCK TABLE`), analyzing);
    await analyzing;
  });

  it('a materialized view that is being read is refreshed between two reads, and nobody queues for long', async () => {
    await app.query('CREATE MATERIALIZED VIEW m AS SELECT count(*) FROM t');
    await holder.query('BEGIN; SELECT * FROM m');
    let longest = 0;
    const refreshing = refreshMaterializedViews(context);
    for (let i = 0; i < 40; i++) {
      const started = performance.now();
      await app.query('SELECT * FROM m');
      longest = Math.max(longest, performance.now() - started);
      await sleep(30);
    }
    expect(longest).toBeLessThan(1_000);
    await letGoWhenNamed(new RegExp(`waits for ${WHO}BEGIN; SELECT`), refreshing);
    await refreshing;
  });

  it('short DDL of ours names who is in its way when its time is over, and queues nobody for long', async () => {
    await holder.query('BEGIN; SELECT count(*) FROM t');
    const longest = await longestRead(() =>
      expect(
        briefLock(session, 'ALTER TABLE t', () => session.query('ALTER TABLE public.t ADD COLUMN b int'), {
          forMs: 900,
        }),
      ).rejects.toThrow(new RegExp(`ALTER TABLE t: the lock .* it waited for ${WHO}BEGIN; SELECT`)),
    );
    expect(longest).toBeLessThan(900);
    expect((await session.query('SHOW lock_timeout')).rows).toEqual([{ lock_timeout: '2s' }]);
  });

  it('the fence and publications are dropped as soon as whoever is in the way has gone', async () => {
    await armFence(session, [T]);
    await app.query('CREATE PUBLICATION verdigris_m_to_green FOR TABLE t');
    await holder.query(
      'BEGIN; ALTER PUBLICATION verdigris_m_to_green SET (publish = $$insert$$); SELECT count(*) FROM t'.replaceAll(
        '$$',
        "'",
      ),
    );
    const longest = await longestRead(async () => {
      const dropping = (async (): Promise<void> => {
        await dropPublications(session, 'verdigris_m_to_green');
        await dropFence(session);
      })();
      await sleep(1_500);
      await holder.query('ROLLBACK');
      await dropping;
    });
    expect(longest).toBeLessThan(900);
    expect((await app.query(`SELECT FROM pg_trigger WHERE tgname LIKE '\\_verdigris%'`)).rowCount).toBe(0);
    expect((await app.query(`SELECT FROM pg_publication`)).rowCount).toBe(0);
  });

  it('a verification that reads for long lets those through who change the table', async () => {
    const blue = { ...database, side: 'blue' as const };
    const sides = { source: blue, target: database, direction: 'to_green' as const, signal: context.signal };
    const sessions = await SideSessions.open(sides);
    try {
      const reading = sessions.on('source', (own) => own.query('SELECT count(*), pg_sleep(30) FROM public.t'));
      const read = expect(reading).rejects.toThrow(
        /verification on blue: .* since pid \d+ \(the shop, user postgres: ALTER TABLE t\) has waited for it for 2\.\d s/,
      );
      await sleep(100);
      const started = performance.now();
      await app.query('ALTER TABLE t ADD COLUMN c int');
      expect(performance.now() - started).toBeLessThan(3_500);
      await read;
    } finally {
      await sessions.close();
    }
  });

  it('reading the schema waits two seconds for a table, not with the locks of all others in its hands', async () => {
    await app.query('CREATE TABLE a_first (id int)');
    await holder.query('BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE');
    const dumping = dumpSchema(database, 'pre-data', { exclude: [], ownersAndGrants: false });
    await expect(dumping).rejects.toThrow(
      new RegExp(String.raw`green: reading the schema \(pre-data\): .* it waited for ${WHO}BEGIN; LOCK TABLE`),
    );
    await holder.query('ROLLBACK');
    await app.query('DROP TABLE a_first');
  });
});
