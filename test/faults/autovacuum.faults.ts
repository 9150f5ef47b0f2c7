import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { startPostgres, type EmbeddedPostgres } from '../../src/embedded/postgres-server.js';
import { changeCopyState, storeCopy } from '../../src/postgres/bootstrap/copy/copy-state.js';
import { briefLock } from '../../src/postgres/brief-lock.js';
import { armFence, disarmFence, dropFence } from '../../src/postgres/fence.js';
import { shortLocks } from '../../src/postgres/migrate/short-locks.js';
import { closeSession, openSession, type Database, type Session } from '../../src/postgres/session.js';
import { installState } from '../../src/postgres/state.js';
import { ensurePublications } from '../../src/postgres/streams.js';
import { contextOn } from '../postgres/replicated-pair.js';
import { asDatabase, testDatabase, withClient, type TestDatabase } from '../support/postgres.js';

/* A vacuum of the server's own is at work on a table for longer than anybody would wait, and a new one begins each second. */

const T = { schema: 'public', name: 't' };
const ROUTE = { migration: 'm', epoch: 1, writesOn: 'blue' } as const;
const SPEC = { migration: 'm', direction: 'to_green', tables: [{ table: T }], streams: 1 } as const;

/** Sleeps for 0.4 s at each page or so. */
const SLOWLY = `autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 100,
  autovacuum_vacuum_cost_limit = 1, autovacuum_analyze_scale_factor = 100`;

/** Who acts, and for how long DDL of theirs may keep a writer waiting, ms. The fence does for 0.1 s a try, whoever they are. */
const ROLES = [
  ['a superuser', 'postgres', 600],
  ['a role that may not set deadlock_timeout', 'migrator', 1_900],
  ["one that does not see what others' sessions are, either", 'blind', 1_900],
] as const;
const FENCE_MS = 600;

describe.each([[15 as const], [18 as const]])('an autovacuum on PostgreSQL %s', (version) => {
  let server: EmbeddedPostgres;
  let db: TestDatabase;
  let app: pg.Client;

  beforeAll(async () => {
    const settings = { fsync: 'off', full_page_writes: 'off', autovacuum_naptime: '1s' };
    server = await startPostgres({ version, settings, name: `autovacuum-${version}` });
    await withClient({ connectionString: server.uri() }, (client) =>
      client.query(`
        CREATE ROLE migrator LOGIN PASSWORD 'x' IN ROLE pg_monitor;
        CREATE ROLE blind LOGIN PASSWORD 'x'`),
    );
  });

  afterAll(() => server.stop());

  beforeEach(async () => {
    db = await testDatabase(server, 'autovacuum');
    app = new pg.Client(db.config);
    await app.connect();
    await app.query(`
      CREATE TABLE t (id int PRIMARY KEY, a text) WITH (autovacuum_enabled = off);
      INSERT INTO t SELECT n, repeat('x', 500) FROM generate_series(1, 20000) n;
      DELETE FROM t WHERE id % 10 = 0`);
  });

  afterEach(async () => {
    await app.end();
    await db.drop();
  });

  /** Opened by the given role; schema verdigris is its own. */
  async function ours(user: string): Promise<{ session: Session; database: Database }> {
    await app.query(`
      ALTER DATABASE ${db.database} OWNER TO ${user};
      ALTER SCHEMA public OWNER TO ${user};
      ALTER TABLE t OWNER TO ${user}`);
    const database = asDatabase(
      user === 'postgres' ? db : { ...db, config: { ...db.config, user, password: 'x' } },
      'blue',
    );
    const session = await openSession(database, { purpose: 'test' });
    await installState(session, 'blue');
    await session.query(
      `INSERT INTO verdigris.route (migration, epoch, writes_on, flag) VALUES ('m', 1, 'blue', 'f') ON CONFLICT DO NOTHING`,
    );
    return { session, database };
  }

  async function letVacuum(options: string): Promise<void> {
    await app.query(`ALTER TABLE t SET (autovacuum_enabled = on, ${options})`);
    await vacuumIsAtWork();
  }

  async function vacuumIsAtWork(): Promise<void> {
    await expect
      .poll(
        async () =>
          (
            await app.query(`SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)
             WHERE a.backend_type = 'autovacuum worker' AND l.relation = 't'::regclass AND l.granted
               AND l.mode = 'ShareUpdateExclusiveLock'`)
          ).rowCount,
        { timeout: 30_000, interval: 50 },
      )
      .toBe(1);
  }

  /** With t as a table that has not been copied whole. */
  async function endCopy(session: Session): Promise<void> {
    await storeCopy(session, 'r', [], {});
    const closed = await changeCopyState(
      session,
      'r',
      async (now) => {
        await session.query('TRUNCATE public.t');
        return { ...now, phase: 'closed' };
      },
      { signal: AbortSignal.timeout(30_000), report: () => undefined },
    );
    expect(closed?.phase).toBe('closed');
  }

  /** How `work` failed, how long it took, and how long the application waited for its longest write of t meanwhile, ms. */
  async function timed(work: () => Promise<unknown>): Promise<{ failed: unknown; took: number; longestWrite: number }> {
    let longestWrite = 0;
    let over = false;
    const writing = (async (): Promise<void> => {
      while (!over) {
        const started = performance.now();
        await app.query('UPDATE t SET a = a WHERE id = 1');
        longestWrite = Math.max(longestWrite, performance.now() - started);
        await sleep(5);
      }
    })();
    const began = performance.now();
    const failed = await work().then(
      () => undefined,
      (error: unknown) => error,
    );
    const took = performance.now() - began;
    over = true;
    await writing;
    return { failed, took, longestWrite };
  }

  it.each(ROLES)('gives way to every short lock of %s', { timeout: 300_000 }, async (_, user, ddlMs) => {
    const { session, database } = await ours(user);
    try {
      const before = (await session.query('SHOW deadlock_timeout')).rows;
      const addColumn = (): Promise<unknown> =>
        shortLocks(contextOn(database, session), session, { object: 'table t' }, () =>
          session.query('ALTER TABLE public.t ADD COLUMN b int'),
        );
      const works: readonly (readonly [string, number, () => Promise<unknown>])[] = [
        ['arm', FENCE_MS, () => armFence(session, [T])],
        ['disarm', FENCE_MS, async () => expect(await disarmFence(session, ROUTE)).toBeNull()],
        ['arm again', FENCE_MS, () => armFence(session, [T], { guard: ROUTE })],
        ['publish', FENCE_MS, () => ensurePublications(session, SPEC)],
        ['drop the fence', FENCE_MS, () => dropFence(session)],
        ['DDL of a step', ddlMs, addColumn],
        // Only then are there no rows any more.
        ['end of a copy', ddlMs, () => endCopy(session)],
      ];
      await letVacuum(SLOWLY);
      for (const [what, maxWriteMs, work] of works) {
        await vacuumIsAtWork();
        const { failed, took, longestWrite } = await timed(work);
        expect.soft(failed, what).toBeUndefined();
        expect.soft(took, what).toBeLessThan(8_000);
        expect.soft(longestWrite, what).toBeLessThan(maxWriteMs);
      }
      expect((await session.query('SHOW deadlock_timeout')).rows).toEqual(before);
      expect((await session.query('SHOW lock_timeout')).rows).toEqual([{ lock_timeout: '2s' }]);
    } finally {
      await closeSession(session);
    }
  });

  it('gives way where the server has a longer deadlock_timeout than the application may be kept waiting', async () => {
    await app.query(`ALTER DATABASE ${db.database} SET deadlock_timeout = '4s'`);
    const { session, database } = await ours('migrator');
    try {
      await letVacuum(SLOWLY);
      const { failed, took, longestWrite } = await timed(() => armFence(session, [T]));
      expect(failed).toBeUndefined();
      expect(took).toBeLessThan(10_000);
      expect(longestWrite).toBeLessThan(FENCE_MS);
      await vacuumIsAtWork();
      await shortLocks(contextOn(database, session), session, { object: 'table t', tryForMs: 10_000 }, () =>
        session.query('ALTER TABLE public.t ADD COLUMN b int'),
      );
    } finally {
      await closeSession(session);
    }
  });

  it('is named as one that yields to nobody where it prevents wraparound, and keeps no writer waiting', async () => {
    const { session } = await ours('migrator');
    try {
      await app.query('DO $$ BEGIN FOR i IN 1..100100 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$');
      await letVacuum(`${SLOWLY}, autovacuum_freeze_max_age = 100000`);
      const { failed, longestWrite } = await timed(() => armFence(session, [T], { forMs: 3_000 }));
      expect(failed).toMatchObject({
        type: 'PromotionBlocked',
        message: expect.stringMatching(
          /In the way: pid \d+ \(.*a vacuum that prevents wraparound and yields to nobody/,
        ) as string,
      });
      const publishing = briefLock(
        session,
        'publication',
        () => session.query('CREATE PUBLICATION p FOR TABLE public.t'),
        {
          forMs: 1_500,
        },
      );
      await expect(publishing).rejects.toThrow(
        /it waited for pid \d+ \(.*autovacuum worker that prevents wraparound and yields to nobody/,
      );
      expect(longestWrite).toBeLessThan(FENCE_MS);
    } finally {
      await closeSession(session);
    }
  });
});
