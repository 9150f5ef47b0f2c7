import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { readTables } from '../../src/postgres/catalog.js';
import { analyzeTables } from '../../src/postgres/migrate/analyze.js';
import { refreshMaterializedViews } from '../../src/postgres/schema-copy/materialized-views.js';
import { backfillTable } from '../../src/postgres/migrate/backfill.js';
import { expandTable } from '../../src/postgres/migrate/expand-table.js';
import { changedTables, commonColumns, planWork, reverseColumns } from '../../src/postgres/migrate/plan-work.js';
import { indexKey } from '../../src/postgres/migrate/create-index.js';
import { leafIndexName } from '../../src/postgres/migrate/index-definition.js';
import { writeProgress } from '../../src/postgres/migrate/progress-row.js';
import { dropTriggers, revertMigrations } from '../../src/postgres/migrate/revert.js';
import { describeStep, runStep } from '../../src/postgres/migrate/run-step.js';
import { aloneWithShortLocks, shortLocks } from '../../src/postgres/migrate/short-locks.js';
import type { StepContext } from '../../src/postgres/migrate/step-context.js';
import { armFence } from '../../src/postgres/fence.js';
import { fewTables } from '../../src/plan/table-name.js';
import { closeSession, openSession, type Session } from '../../src/postgres/session.js';
import { FENCE_CLOSED, FENCE_OPEN, installState } from '../../src/postgres/state.js';
import { asDatabase, testDatabase, type TestDatabase } from '../support/postgres.js';
import { contextOn, NO_LAG, planOf, workOf } from './replicated-pair.js';
import { testedVersion } from '../support/tested-version.js';

const DDL = `
  CREATE TABLE customer (id int PRIMARY KEY);
  INSERT INTO customer SELECT generate_series(1, 100);
  CREATE TABLE orders (id int PRIMARY KEY, customer int NOT NULL, note text, payload text, kept int NOT NULL, total numeric DEFAULT 0);
  INSERT INTO orders SELECT n, 1 + n % 100, nullif('n' || n % 3, 'n0'), '{"n": ' || n || '}', 1 FROM generate_series(1, 1000) n;
  CREATE INDEX by_customer ON orders (customer);
  CREATE TABLE part (id int, region text, customer int, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
  CREATE TABLE part_eu PARTITION OF part FOR VALUES IN ('eu');
  INSERT INTO part SELECT n, 'eu', n FROM generate_series(1, 50) n;`;

const MIGRATIONS = [
  {
    addColumn: {
      table: 'orders',
      column: 'metadata',
      type: 'jsonb',
      up: `jsonb_build_object('legacy', true)`,
      notNull: true,
    },
  },
  {
    changeType: {
      table: 'orders',
      column: 'payload',
      newColumn: 'payload_json',
      type: 'jsonb',
      up: 'payload::jsonb',
      down: 'payload_json::text',
    },
  },
  { setNotNull: { table: 'orders', column: 'note', up: `'none'` } },
  { setNotNull: { table: 'orders', column: 'kept' } },
  { createIndex: { table: 'orders', name: 'by_metadata', method: 'gin', columns: ['metadata'] } },
  { createIndex: { table: 'orders', name: 'by_customer', columns: ['customer'] } },
  { createIndex: { table: 'part', name: 'part_by_customer', columns: ['customer'] } },
  { addConstraint: { table: 'orders', name: 'positive', check: 'customer > 0' } },
  {
    addConstraint: {
      table: 'orders',
      name: 'of_customer',
      foreignKey: { columns: ['customer'], references: { table: 'customer', columns: ['id'] }, onDelete: 'CASCADE' },
    },
  },
  {
    addConstraint: {
      table: 'part',
      name: 'part_of_customer',
      foreignKey: { columns: ['customer'], references: { table: 'customer', columns: ['id'] } },
    },
  },
  {
    sql: {
      name: 'a view',
      up: `CREATE VIEW legacy AS SELECT id FROM orders WHERE metadata ->> 'legacy' = 'true'; COMMENT ON VIEW legacy IS 'x'`,
      down: 'DROP VIEW legacy',
    },
  },
  {
    sql: {
      name: 'outside',
      up: 'CREATE TABLE log (n int); CREATE INDEX CONCURRENTLY log_n ON log (n); VACUUM log',
      down: 'DROP TABLE log',
    },
  },
];

const SCHEMA = `
  SELECT c.relname AS what, a.attname || ' ' || format_type(a.atttypid, a.atttypmod) || a.attnotnull AS detail
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped WHERE c.relnamespace = 'public'::regnamespace
  UNION ALL SELECT conname, pg_get_constraintdef(oid) || convalidated FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype <> 'n'
  UNION ALL SELECT tgname, tgrelid::regclass::text FROM pg_trigger WHERE NOT tgisinternal
  UNION ALL SELECT proname, '' FROM pg_proc WHERE proname LIKE 'up\\_down%'
   ORDER BY 1, 2`;

describe.each([testedVersion('pg18')])('migrations on %s', (server) => {
  let db: TestDatabase;
  let session: Session;
  let app: pg.Client;
  let context: StepContext;

  const schema = async (): Promise<string[]> =>
    (await app.query<{ what: string; detail: string }>(SCHEMA)).rows.map(({ what, detail }) => `${what}: ${detail}`);
  const steps = async (...migrations: object[]): Promise<void> => {
    for (const step of (await workOf(migrations)).steps) await runStep(context, step);
  };

  beforeAll(async () => {
    db = await testDatabase(server, 'migrate');
    const database = asDatabase(db, 'green');
    session = await openSession(database, { purpose: 'test' });
    await installState(session, 'green');
    context = contextOn(database, session);
    app = new pg.Client(db.config);
    await app.connect();
  });
  beforeEach(() => app.query(DDL));
  afterEach(async () => {
    await app.query('DROP SCHEMA public CASCADE; CREATE SCHEMA public; TRUNCATE verdigris.progress');
    // The function of a trigger outlives its table.
    await dropTriggers(context);
    expect((await app.query(`SELECT FROM pg_proc WHERE proname LIKE 'up\\_down%'`)).rowCount).toBe(0);
  });
  afterAll(async () => {
    await closeSession(session);
    await app.end();
    await db.drop();
  });

  async function migrate(): Promise<void> {
    const work = await workOf(MIGRATIONS);
    for (const table of work.tables) await expandTable(context, table);
    for (const table of work.tables) await backfillTable(context, table, NO_LAG);
    for (const step of work.steps) await runStep(context, step);
    await analyzeTables(context, changedTables(work));
  }

  it('a whole plan is done, done again without a change, and taken back without a trace', async () => {
    const before = await schema();
    await migrate();
    const after = await schema();
    expect(after).toEqual(
      expect.arrayContaining([
        'orders: metadata jsonbtrue',
        'orders: note texttrue',
        'positive: CHECK ((customer > 0))true',
      ]),
    );
    expect(after.filter((line) => line.includes('verdigris_not_null'))).toEqual([]);
    expect(after.filter((line) => line.endsWith('false') && line.includes('FOREIGN KEY'))).toEqual([]);
    await migrate();
    expect(await schema()).toEqual(after);
    const work = await workOf(MIGRATIONS);
    const undone = await revertMigrations(context, work);
    expect(undone).toContain('SQL step "a view"');
    expect(await schema()).toEqual(before);
    expect(await revertMigrations(context, work)).toEqual([]);
    expect(await schema()).toEqual(before);
    await migrate();
    expect(await schema()).toEqual(after);
  });

  it('what was there before the run is not taken back', async () => {
    await app.query('CREATE INDEX by_metadata_x ON orders (id); ALTER TABLE orders ADD COLUMN metadata jsonb');
    const before = await schema();
    await migrate();
    await revertMigrations(context, await workOf(MIGRATIONS));
    expect(await schema()).toEqual(before);
  });

  it('a constraint that rows violate holds the run with their keys, and nothing is left that would stop the replication', async () => {
    const before = await schema();
    const held = (message: RegExp): object => ({
      type: 'BackfillFailed',
      retryable: false,
      message: expect.stringMatching(message) as string,
    });
    await expect(steps({ addConstraint: { table: 'orders', name: 'c', check: 'id < 100' } })).rejects.toMatchObject(
      held(
        /constraint "c" on table public\.orders can't be added: rows violate it: \("id" = \d+\), .* and more\n.*WHERE NOT \(id < 100\).*then resume/s,
      ),
    );
    await app.query('DELETE FROM customer WHERE id = 1');
    await expect(
      steps({
        addConstraint: {
          table: 'orders',
          name: 'f',
          foreignKey: { columns: ['customer'], references: { table: 'customer', columns: ['id'] } },
        },
      }),
    ).rejects.toMatchObject(
      held(
        /constraint "f" on table public\.orders can't be added: rows have no counterpart: \("id" = \d+\).*then resume/s,
      ),
    );
    await expect(steps({ setNotNull: { table: 'orders', column: 'note' } })).rejects.toMatchObject(
      held(/there are rows in which it is NULL: \("id" = \d+\).*then resume/s),
    );
    await expect(steps({ addConstraint: { table: 'orders', name: 'c', check: 'nothing' } })).rejects.toThrow(
      /is refused by PostgreSQL.*"nothing"/,
    );
    await expect(steps({ addConstraint: { table: 'nowhere', name: 'c', check: 'true' } })).rejects.toThrow(
      /there is no table public\.nowhere/,
    );
    expect(await schema()).toEqual(before);
  });

  it('an index that is attached below and not yet to the topmost table is taken back, with what is behind it', async () => {
    await app.query(`
      CREATE TABLE event (id int, at int) PARTITION BY RANGE (id);
      CREATE TABLE event_1 PARTITION OF event FOR VALUES FROM (0) TO (100) PARTITION BY RANGE (at);
      CREATE TABLE event_1_1 PARTITION OF event_1 DEFAULT`);
    const before = await schema();
    const work = await workOf([
      { addColumn: { table: 'event', column: 'more', type: 'int', up: 'id' } },
      { createIndex: { table: 'event', name: 'by_at', columns: ['at'] } },
    ]);
    for (const table of work.tables) await expandTable(context, table);
    const [one, two] = ['event_1', 'event_1_1'].map((name) => leafIndexName('by_at', { schema: 'public', name }));
    await app.query(`
      CREATE INDEX by_at ON ONLY event (at); CREATE INDEX ${one ?? ''} ON ONLY event_1 (at); CREATE INDEX ${two ?? ''} ON event_1_1 (at);
      ALTER INDEX ${one ?? ''} ATTACH PARTITION ${two ?? ''}`);
    await writeProgress(
      session,
      indexKey(context.runId, { schema: 'public', name: 'event' }, 'by_at'),
      { ours: true },
      false,
    );
    const undone = await revertMigrations(context, work);
    expect(undone).toContain('index "by_at"');
    expect(await schema()).toEqual(before);
    expect(await revertMigrations(context, work)).toEqual([]);
  });

  it('each part that a dead worker left is gone on with', async () => {
    await app.query(`ALTER TABLE orders ADD CONSTRAINT positive CHECK (customer > 0) NOT VALID`);
    await steps(
      { addConstraint: { table: 'orders', name: 'positive', check: 'customer > 0' } },
      { setNotNull: { table: 'orders', column: 'total' } },
    );
    expect(await schema()).toEqual(
      expect.arrayContaining(['positive: CHECK ((customer > 0))true', 'orders: total numerictrue']),
    );
  });

  it("SQL in one transaction is done whole or not at all; a name is found as in the role's own sessions", async () => {
    const failing = { sql: { name: 'fails', up: 'CREATE TABLE one (n int); SELECT 1 / 0', down: 'DROP TABLE one' } };
    await expect(steps(failing)).rejects.toThrow(/SQL step "fails" \(up\) failed: division by zero/);
    expect((await app.query(`SELECT to_regclass('one') AS t`)).rows).toEqual([{ t: null }]);
    await expect(steps({ sql: { name: 'x', up: 'BEGIN; SELECT 1', down: 'SELECT 1' } })).rejects.toThrow(
      /begins or ends a transaction/,
    );
    await expect(steps({ sql: { name: 'x', up: 'CREATE', down: 'SELECT 1' } })).rejects.toThrow(/is not SQL/);
  });

  it('a "down" changes rows behind a closed fence, which is in force for all others', async () => {
    const step = {
      sql: {
        name: 'statuses',
        up: `CREATE TABLE status (id int PRIMARY KEY); INSERT INTO status VALUES (1), (2);
             CREATE TABLE status_name (id int REFERENCES status ON DELETE CASCADE); INSERT INTO status_name VALUES (1)`,
        down: 'DELETE FROM status; TRUNCATE status_name; SELECT pg_sleep(2); DROP TABLE status_name, status',
      },
    };
    const fence = async (): Promise<unknown[]> =>
      (await app.query(`SELECT pg_get_functiondef('verdigris.fence_check()'::regprocedure) AS text`)).rows;
    await steps(step);
    await armFence(
      session,
      ['orders', 'status', 'status_name'].map((name) => ({ schema: 'public', name })),
    );
    await app.query(`SELECT setval('verdigris.fence', ${FENCE_CLOSED})`);
    try {
      const before = await fence();
      let over = false;
      const reverting = workOf([step])
        .then((work) => revertMigrations(context, work))
        .finally(() => (over = true));
      const refused: unknown[] = [];
      while (!over) {
        refused.push(await app.query('DELETE FROM orders').catch((error: unknown) => error));
        await sleep(20);
      }
      expect(await reverting).toEqual(['SQL step "statuses"']);
      expect(refused.length).toBeGreaterThan(5);
      for (const one of refused) expect(one).toMatchObject({ code: '25006' });
      expect(await fence()).toEqual(before);
      await expect(app.query('DELETE FROM orders')).rejects.toMatchObject({ code: '25006' });
      expect((await app.query(`SELECT to_regclass('status') AS t`)).rows).toEqual([{ t: null }]);
    } finally {
      await app.query(`SELECT setval('verdigris.fence', ${FENCE_OPEN})`);
    }
  });

  it('SQL outside a transaction goes on behind the last statement that was done', async () => {
    const step = (last: string): object => ({
      sql: {
        name: 'x',
        up: `CREATE TABLE log (n int); CREATE INDEX CONCURRENTLY log_n ON log (n); ${last}`,
        down: 'DROP TABLE log',
      },
    });
    await expect(steps(step('VACUUM nowhere'))).rejects.toThrow(/"nowhere" does not exist/);
    // The worker died after the index and before it could say so.
    await app.query(`UPDATE verdigris.progress SET state = '{"name": "x", "next": 1, "begun": 1}'`);
    await steps(step('VACUUM log'));
    expect((await app.query(`SELECT to_regclass('log_n') IS NOT NULL AS t`)).rows).toEqual([{ t: true }]);
  });

  // Again where the machine itself stood still for so long: a wait of a second and more is there each time, or not.
  it('a lock that is not to be had names who holds it, and queues nobody for long', { retry: 2 }, async () => {
    const holder = new pg.Client({ ...db.config, application_name: 'nightly report' });
    await holder.connect();
    await holder.query('BEGIN; SELECT count(*) FROM orders');
    const waits: number[] = [];
    let over = false;
    const reader = (async (): Promise<void> => {
      while (!over) {
        const started = performance.now();
        await app.query('SELECT FROM orders LIMIT 1');
        waits.push(performance.now() - started);
        await sleep(5);
      }
    })();
    const changing = shortLocks(context, session, { object: 'table public.orders', tryForMs: 1_500 }, () =>
      session.query('ALTER TABLE public.orders ADD COLUMN x int'),
    );
    try {
      await expect(changing).rejects.toThrow(
        /table public\.orders: the lock .* pid \d+ \(nightly report, user postgres, client backend, transaction \d+\.\d s old, statement \d+\.\d s: BEGIN; SELECT/,
      );
    } finally {
      over = true;
      await holder.end();
      await reader;
    }
    expect(Math.max(...waits)).toBeLessThan(900);
  });

  it.each(['brief', 'patient'] as const)(
    'looks for a circle early only where its wait is short: %s',
    async (patience) => {
      const read = async (): Promise<unknown> => (await session.query('SHOW deadlock_timeout')).rows[0];
      const before = await read();
      const during = await aloneWithShortLocks(context, session, { object: 'x', patience }, read);
      // A wait without a limit goes on after its only look, so it must not be early.
      expect(during).toEqual(patience === 'brief' ? { deadlock_timeout: '20ms' } : before);
      expect(await read()).toEqual(before);
    },
  );

  it('materialized views that come empty are filled, in the order of what they read', async () => {
    await app.query(`CREATE MATERIALIZED VIEW b AS SELECT count(*) FROM orders WITH NO DATA;
                     CREATE MATERIALIZED VIEW a AS SELECT * FROM b WITH NO DATA`);
    expect((await refreshMaterializedViews(context)).map(({ name }) => name)).toEqual(['b', 'a']);
    expect((await app.query('SELECT * FROM a')).rows).toEqual([{ count: '1000' }]);
  });

  it("columns that go back to blue are blue's, without generated ones", async () => {
    await app.query(`CREATE SCHEMA blue; CREATE TABLE blue.t (id int PRIMARY KEY, a text, b int, g int GENERATED ALWAYS AS (b) STORED, gone int);
                     CREATE SCHEMA green; CREATE TABLE green.t (extra int, b bigint, a text, id int PRIMARY KEY, g int GENERATED ALWAYS AS (1) STORED)`);
    const [blue, green] = await readTables(session, { include: ['blue.t', 'green.t'], exclude: [] });
    if (blue === undefined || green === undefined) throw new Error('both tables are there');
    expect(reverseColumns(blue, green)).toEqual(['id', 'a', 'b']);
    // Those that both sides generate are compared, too.
    expect(commonColumns(blue, green)).toEqual(['id', 'a', 'g']);
    await app.query('DROP SCHEMA blue CASCADE; DROP SCHEMA green CASCADE');
  });
});

describe('the work of a plan', () => {
  it("tables first, then the steps in the plan's order; indexes that follow each other are one step", async () => {
    const work = await planWork(planOf(MIGRATIONS));
    expect(work.tables.map(({ table }) => table.name)).toEqual(['orders']);
    expect(work.steps.map(describeStep)).toEqual([
      'NOT NULL of public.orders.metadata',
      'NOT NULL of public.orders.note',
      'NOT NULL of public.orders.kept',
      '3 indexes on public.orders, public.part',
      'constraint positive on public.orders',
      'constraint of_customer on public.orders',
      'constraint part_of_customer on public.part',
      'SQL: a view',
      'SQL: outside',
    ]);
  });

  it('a step of hundreds of tables names the first ones: what it is called fits into a summary of Temporal, 400 bytes', async () => {
    const tables = Array.from(
      { length: 200 },
      (_, n) => `"${'Schema of a tenant '.padEnd(63, 'x')}"."${String(n).padStart(63, 'T')}"`,
    );
    const { steps } = await planWork(
      planOf(tables.map((table, n) => ({ createIndex: { table, name: `i${n}`, columns: ['id'] } }))),
    );
    const [first = '', second = ''] = tables;
    expect(steps.map(describeStep)).toEqual([`200 indexes on ${first}, ${second} and 198 more`]);
    expect(Buffer.byteLength(`backfilling ${fewTables(tables)}`)).toBeLessThan(400);
    expect(fewTables(['public.a', 'public.b'])).toBe('public.a, public.b');
  });

  it('a column that is computed and filled has one rule', async () => {
    const { tables } = await workOf([
      { addColumn: { table: 't', column: 'a', type: 'int', up: 'b' } },
      { setNotNull: { table: 't', column: 'a', up: '0' } },
    ]);
    expect(tables[0]?.derived).toEqual([{ column: 'a', kind: 'compute', up: 'coalesce((b\n), (0\n))' }]);
  });
});
