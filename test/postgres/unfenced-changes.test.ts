import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { armFence, TAKE_FENCE_LOCK } from '../../src/postgres/fence.js';
import { whoChanges } from '../../src/postgres/locks.js';
import { closeSession, openSession, type Session } from '../../src/postgres/session.js';
import { installState } from '../../src/postgres/state.js';
import { byClients, readUnfencedChanges, serverWorkers } from '../../src/postgres/unfenced-changes.js';
import { asDatabase, testDatabase, withClient, type TestDatabase } from '../support/postgres.js';
import { testedVersion } from '../support/tested-version.js';

const TABLES = `
  CREATE TABLE events (id int, at int) PARTITION BY RANGE (at);
  CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (0) TO (10);
  CREATE TABLE t (id int PRIMARY KEY, v text);
  INSERT INTO t SELECT g FROM generate_series(1, 1000) g;
  CREATE MATERIALIZED VIEW totals AS SELECT count(*) AS n FROM t;
  CREATE SCHEMA staging;
  CREATE TABLE staging.load (id int);
  CREATE TABLE staging.events_5 (id int, at int);
  CREATE TABLE staging.child (id int PRIMARY KEY, v text)`;

const NEW = 'a table that is new';
const ANY_FENCED: unknown = expect.stringMatching(/^"public"\."(t|events|events_1)"$/);
const ALTERS = 'ALTER TABLE public.t DISABLE TRIGGER ALL, ADD COLUMN z int; SAVEPOINT s';
const WRITES_ALTERED =
  'ALTER TABLE public.t DISABLE TRIGGER ALL, ADD COLUMN z int; INSERT INTO public.t VALUES (-1); SAVEPOINT s';

/** A transaction, and the table whose rows it could bring past the fence. */
const WRITES: readonly [string, string][] = [
  ['CREATE TABLE public.x (LIKE public.events INCLUDING ALL); INSERT INTO public.x VALUES (1, 1)', NEW],
  [
    `CREATE TABLE public.x (LIKE public.events INCLUDING ALL); INSERT INTO public.x VALUES (1, 25);
     ALTER TABLE public.events ATTACH PARTITION public.x FOR VALUES FROM (20) TO (30)`,
    NEW,
  ],
  ['CREATE TABLE staging.x PARTITION OF public.events FOR VALUES FROM (40) TO (50)', '"public"."events"'],
  ['ALTER TABLE public.events ATTACH PARTITION staging.events_5 FOR VALUES FROM (50) TO (60)', '"staging"."events_5"'],
  ['ALTER TABLE staging.child INHERIT public.t', '"staging"."child"'],
  ['ALTER TABLE staging.load SET SCHEMA public', '"staging"."load"'],
  ['CREATE SCHEMA other; CREATE TABLE other.x (id int)', NEW],
  ['CREATE TABLE public.x AS SELECT 1 AS id', NEW],
  ['SELECT 1 AS id INTO public.x', NEW],
  ['ALTER TABLE public.t DISABLE TRIGGER ALL; INSERT INTO public.t VALUES (-1)', '"public"."t"'],
  ['ALTER TABLE public.t RENAME TO t_old', '"public"."t"'],
  // A mutex of this mode has a transaction id as well: nothing tells it from an ALTER TABLE.
  ['LOCK TABLE public.t', '"public"."t"'],
];

/** Transactions that bring no row past the fence. */
const HARMLESS = [
  'CREATE TEMP TABLE x (id serial PRIMARY KEY, v text)',
  'CREATE TEMP TABLE x (id int) ON COMMIT DROP',
  'CREATE TEMP TABLE x AS SELECT 1 AS id',
  'SELECT 1 AS id INTO TEMP x',
  'DROP TABLE IF EXISTS pg_temp.seen',
  'LOCK TABLE public.t IN SHARE ROW EXCLUSIVE MODE',
  'REFRESH MATERIALIZED VIEW public.totals',
  'CREATE INDEX ON public.t (v)',
  'ANALYZE public.t',
  'CREATE FUNCTION public.f() RETURNS int LANGUAGE sql AS $$ SELECT 1 $$',
  'CREATE TABLE staging.x (id int); INSERT INTO staging.x VALUES (1)',
  'CREATE TABLE staging.x AS SELECT 1 AS id',
  'TRUNCATE staging.load; INSERT INTO staging.load VALUES (1)',
  // Has passed the fence: its lock is waited for.
  'INSERT INTO public.t VALUES (-1); CREATE TABLE public.x (id int)',
  'TRUNCATE public.t',
  'SELECT count(*) FROM public.t',
];

describe.each([testedVersion('pg15')])('a transaction that could write past the fence, %s', (server) => {
  let own: TestDatabase;
  let session: Session;
  const fenced = ['events', 'events_1', 't'].map((name) => ({ schema: 'public', name }));
  const promotion = { fenced, patterns: { include: ['*.*'], exclude: ['staging.*'] } };
  const tables = async (): Promise<string[]> =>
    (await readUnfencedChanges(session, promotion)).map(({ table }) => table);

  beforeAll(async () => {
    own = await testDatabase(server, 'unfenced changes');
    session = await openSession(asDatabase(own, 'blue'), { purpose: 'test' });
    await installState(session, 'blue');
    await withClient(own.config, (client) => client.query(TABLES));
    await session.query("INSERT INTO verdigris.owner (run_id, migration, side) VALUES ('r', 'm', 'blue')");
    await armFence(session, fenced);
  });

  afterAll(async () => {
    await closeSession(session);
    await own.drop();
  });

  /** Looks while the statements' transaction is open, in a session that has had a temporary table before. */
  async function during<T>(sql: string, look: (client: pg.Client) => Promise<T>): Promise<T> {
    return withClient({ ...own.config, application_name: 'loader' }, async (client) => {
      await client.query('CREATE TEMP TABLE seen (id int)');
      await client.query(`BEGIN; ${sql}`);
      try {
        return await look(client);
      } finally {
        await client.query('ROLLBACK');
      }
    });
  }

  it.each(WRITES)('is seen: %s', async (sql, table) => {
    expect(await during(sql, tables)).toEqual([table]);
    expect(await tables()).toEqual([]);
  });

  it.each(HARMLESS)('is another one than: %s', async (sql) => {
    expect(await during(sql, tables)).toEqual([]);
  });

  it('is seen when it has been prepared, and is named with how to end it', async () => {
    await withClient(own.config, (client) =>
      client.query("BEGIN; CREATE TABLE public.x (id int); PREPARE TRANSACTION 'unfenced'"),
    );
    const changes = await readUnfencedChanges(session, promotion);
    expect(changes).toEqual([expect.objectContaining({ pid: null, table: NEW })]);
    expect(await whoChanges(session, changes)).toMatch(
      /^Changing: prepared transaction unfenced, user postgres, database .*COMMIT PREPARED or ROLLBACK PREPARED/,
    );
    await session.query("ROLLBACK PREPARED 'unfenced'");
  });

  it('waits at the fence with what it has made before; a TRUNCATE that waits there has done nothing', async () => {
    await withClient(own.config, async (holder) => {
      await holder.query(`BEGIN; ${TAKE_FENCE_LOCK}`);
      for (const [before, write, seen] of [
        ['SELECT 1', 'TRUNCATE public.t', []],
        ['LOCK TABLE public.t', 'INSERT INTO public.t VALUES (-1)', []],
        ['TRUNCATE staging.load', 'TRUNCATE public.t', []],
        ['CREATE TABLE public.x (id int)', 'INSERT INTO public.t VALUES (-1)', [NEW]],
        ['ALTER TABLE public.t DISABLE TRIGGER ALL', 'TRUNCATE public.events', ['"public"."t"']],
        // Nothing tells these from the next ones.
        ['SELECT 1', 'TRUNCATE public.t, public.events', [ANY_FENCED]],
        ['LOCK TABLE public.t', 'UPDATE public.events SET at = at', ['"public"."t"']],
        // Altered under the lock of a TRUNCATE, and written: only the write of the other table is refused.
        [WRITES_ALTERED, 'INSERT INTO public.events VALUES (1, 1)', ['"public"."t"']],
        [WRITES_ALTERED, 'TRUNCATE public.events', ['"public"."t"']],
        // To be written when the TRUNCATE is refused.
        [ALTERS, 'TRUNCATE public.events', [ANY_FENCED]],
        ['DROP TRIGGER _verdigris_fence ON public.t; SAVEPOINT s', 'TRUNCATE public.events_1', [ANY_FENCED]],
      ] as const) {
        await withClient(own.config, async (client) => {
          await client.query(`BEGIN; ${before}`);
          const { rows } = await client.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
          const waiting = client.query(write).catch(() => undefined);
          const waits = 'SELECT FROM pg_locks WHERE pid = $1 AND NOT granted';
          while ((await session.query(waits, [rows[0]?.pid])).rowCount === 0) await sleep(5);
          expect(await tables(), `${before}; ${write}`).toEqual(seen);
          await session.query('SELECT pg_cancel_backend($1)', [rows[0]?.pid]);
          await waiting;
          await client.query('ROLLBACK');
        });
      }
      await holder.query('ROLLBACK');
    });
  });

  it("is no worker of the server's own, also for a role that may not see what they are", async () => {
    const role = `plain_${process.pid}_${server}`;
    await session.query(`CREATE ROLE ${role} LOGIN PASSWORD 'x'`);
    const config = { ...own.config, user: role, password: 'x' };
    const plain = await openSession({ ...asDatabase(own, 'blue'), config }, { purpose: 'test' });
    const { rows } = await session.query<{ launcher: number; client: number }>(
      `SELECT pid AS launcher, pg_backend_pid() AS client FROM pg_stat_activity WHERE backend_type = 'autovacuum launcher'`,
    );
    const { launcher = 0, client = 0 } = rows[0] ?? {};
    const change = (pid: number) => ({ pid, transaction: '1/1', table: 't' });
    for (const asks of [session, plain]) {
      expect(await serverWorkers(asks, [launcher, client])).toEqual(new Set([launcher]));
      // A process that has ended may have committed: it counts.
      const changes = [change(launcher), change(client), change(2_000_000_000)];
      expect(await byClients(asks, changes)).toEqual(changes.slice(1));
    }
    await closeSession(plain);
    await session.query(`DROP ROLE ${role}`);
  });
});
