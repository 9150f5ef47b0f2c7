import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { startPostgres, type EmbeddedPostgres } from '../../src/embedded/postgres-server.js';
import { armFence, disarmFence, dropFence } from '../../src/postgres/fence.js';
import { dropPublications } from '../../src/postgres/feed-objects.js';
import { shortLocks } from '../../src/postgres/migrate/short-locks.js';
import { closeSession, openSession, type Database, type Session } from '../../src/postgres/session.js';
import { installState } from '../../src/postgres/state.js';
import { ensurePublications } from '../../src/postgres/streams.js';
import { contextOn } from '../postgres/replicated-pair.js';
import { asDatabase, testDatabase, type TestDatabase } from '../support/postgres.js';

/* A vacuum of the server's own is at work on a table for longer than anybody would wait, and a new one begins each second. */

const T = { schema: 'public', name: 't' };
const ROUTE = { migration: 'm', epoch: 1, writesOn: 'blue' } as const;
const SPEC = { migration: 'm', direction: 'to_green', tables: [{ table: T }], streams: 1 } as const;

/** Sleeps for 0.4 s at each page or so. */
const SLOWLY = `autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 100,
  autovacuum_vacuum_cost_limit = 1, autovacuum_analyze_scale_factor = 100`;

/** Who acts, and for how long a writer may have waited for it, ms. */
const ROLES = [
  ['a superuser', 'postgres', 600],
  ['a role that may not set deadlock_timeout', 'migrator', 1_900],
] as const;

describe.each([[15 as const], [18 as const]])('an autovacuum on PostgreSQL %s', (version) => {
  let server: EmbeddedPostgres;
  let db: TestDatabase;
  let app: pg.Client;

  beforeAll(async () => {
    const settings = { fsync: 'off', full_page_writes: 'off', autovacuum_naptime: '1s' };
    server = await startPostgres({ version, settings, name: `autovacuum-${version}` });
  });

  afterAll(() => server.stop());

  beforeEach(async () => {
    db = await testDatabase(server, 'autovacuum');
    app = new pg.Client(db.config);
    await app.connect();
    await app.query(`
      DO $$ BEGIN CREATE ROLE migrator LOGIN PASSWORD 'x' IN ROLE pg_monitor; EXCEPTION WHEN duplicate_object THEN END $$;
      ALTER DATABASE ${db.database} OWNER TO migrator;
      ALTER SCHEMA public OWNER TO migrator;
      CREATE TABLE t (id int PRIMARY KEY, a text) WITH (autovacuum_enabled = off);
      ALTER TABLE t OWNER TO migrator;
      INSERT INTO t SELECT n, repeat('x', 500) FROM generate_series(1, 20000) n;
      DELETE FROM t WHERE id % 10 = 0`);
  });

  afterEach(async () => {
    await app.end();
    await db.drop();
  });

  /** Opened by the given role; schema verdigris is its own. */
  async function ours(user: string): Promise<{ session: Session; database: Database }> {
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

  async function letVacuum(options = SLOWLY): Promise<void> {
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

  /** How long `work` took, and how long the application waited for its longest write of t meanwhile, ms. */
  async function timed(work: () => Promise<unknown>): Promise<{ took: number; longestWrite: number }> {
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
    try {
      await work();
    } finally {
      over = true;
      await writing;
    }
    return { took: performance.now() - began, longestWrite };
  }

  it.each(ROLES)(
    'gives way to every short lock of %s',
    async (_, user, maxWriteMs) => {
      const { session, database } = await ours(user);
      try {
        const before = (await session.query('SHOW deadlock_timeout')).rows;
        await letVacuum();
        const works: readonly (readonly [string, () => Promise<unknown>])[] = [
          ['arm', () => armFence(session, [T])],
          ['disarm', () => disarmFence(session, ROUTE)],
          ['arm again', () => armFence(session, [T], { guard: ROUTE })],
          ['publish', () => ensurePublications(session, SPEC)],
          ['drop the publication', () => dropPublications(session, 'verdigris_m_to_green')],
          ['drop the fence', () => dropFence(session)],
          [
            'DDL of a step',
            () =>
              shortLocks(contextOn(database, session), session, { object: 'table t' }, () =>
                session.query('ALTER TABLE public.t ADD COLUMN b int'),
              ),
          ],
        ];
        for (const [what, work] of works) {
          await vacuumIsAtWork();
          const { took, longestWrite } = await timed(work);
          console.log(version, user, what, Math.round(took), Math.round(longestWrite));
          expect.soft(took, what).toBeLessThan(8_000);
          expect.soft(longestWrite, what).toBeLessThan(maxWriteMs);
        }
        expect((await session.query('SHOW deadlock_timeout')).rows).toEqual(before);
        expect((await session.query('SHOW lock_timeout')).rows).toEqual([{ lock_timeout: '2s' }]);
      } finally {
        await closeSession(session);
      }
    },
    300_000,
  );
});
