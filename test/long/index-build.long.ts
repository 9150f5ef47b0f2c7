import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { VerdigrisError } from '../../src/errors.js';
import { buildsAhead, createIndexes, indexKey } from '../../src/postgres/migrate/create-index.js';
import { readProgress } from '../../src/postgres/migrate/progress-row.js';
import { buildTogether } from '../../src/postgres/schema-copy/build-together.js';
import { indexSettings } from '../../src/postgres/migrate/index-settings.js';
import { leafIndexName } from '../../src/postgres/migrate/index-definition.js';
import type { IndexWork } from '../../src/postgres/migrate/plan-work.js';
import type { Progress, StepContext } from '../../src/postgres/migrate/step-context.js';
import { revertMigrations } from '../../src/postgres/migrate/revert.js';
import { closeSession, openSession, type Session } from '../../src/postgres/session.js';
import { isConnectionLost } from '../../src/postgres/sqlstate.js';
import { installState } from '../../src/postgres/state.js';
import { isOffline } from '../../src/postgres/offline.js';
import { asDatabase, testDatabase, type TestDatabase } from '../support/postgres.js';
import { contextOn, workOf } from '../postgres/replicated-pair.js';
import { untilRow } from '../support/wait-for-row.js';
import { testedVersion } from '../support/tested-version.js';

const LONG = 'i'.repeat(63);

async function indexesOf(...indexes: object[]): Promise<IndexWork[]> {
  const { steps } = await workOf(indexes.map((createIndex) => ({ createIndex })));
  return steps.flatMap((step) => (step.kind === 'indexes' ? step.indexes : []));
}

/** About half a second for all rows of t. */
const SLOW = `CREATE FUNCTION slow(n int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
  'BEGIN IF n % 100 = 0 THEN PERFORM pg_sleep(0.01); END IF; RETURN n; END'`;

/** From now on green has a feed, which gets nothing: indexes are built CONCURRENTLY. */
const GO_ONLINE = `CREATE SUBSCRIPTION verdigris_test CONNECTION 'dbname=nowhere' PUBLICATION p WITH (connect = false, slot_name = NONE)`;

describe.each([testedVersion('pg18')])('indexes on %s', (server) => {
  let db: TestDatabase;
  let session: Session;
  let app: pg.Client;
  let context: (seen?: Progress[], signal?: AbortSignal, runId?: string) => StepContext;

  beforeAll(async () => {
    db = await testDatabase(server, 'index');
    const database = asDatabase(db, 'green');
    session = await openSession(database, { purpose: 'test' });
    await installState(session, 'green');
    context = (seen, signal, runId) => contextOn(database, session, seen, signal, runId);
    app = new pg.Client(db.config);
    await app.connect();
    await app.query(GO_ONLINE);
  });
  afterAll(async () => {
    await closeSession(session);
    await app.end();
    await db.drop();
  });
  beforeEach(async () => {
    await app.query(`
      CREATE SCHEMA "Odd Shop";
      CREATE TABLE t (id int PRIMARY KEY, a int, b text, doc jsonb, "a DESC" int);
      INSERT INTO t SELECT n, n % 10, 'b' || n, '{}', n FROM generate_series(1, 5000) n;
      CREATE TABLE "Odd Shop"."Größe" ("Order" int PRIMARY KEY, "x""y" text);
      CREATE TABLE p (id int, region text, n int, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
      CREATE TABLE p_eu PARTITION OF p FOR VALUES IN ('eu') PARTITION BY RANGE (id);
      CREATE TABLE p_eu_1 PARTITION OF p_eu FOR VALUES FROM (0) TO (100);
      CREATE TABLE p_eu_2 PARTITION OF p_eu FOR VALUES FROM (100) TO (1000);
      CREATE TABLE p_us PARTITION OF p FOR VALUES IN ('us');
      INSERT INTO p SELECT n, CASE n % 2 WHEN 0 THEN 'eu' ELSE 'us' END, n FROM generate_series(1, 300) n;`);
  });
  afterEach(() => app.query('DROP TABLE t, p; DROP SCHEMA "Odd Shop" CASCADE; TRUNCATE verdigris.progress'));

  async function definition(name: string): Promise<{ definition: string; valid: boolean } | undefined> {
    const { rows } = await app.query<{ definition: string; valid: boolean }>(
      `SELECT pg_get_indexdef(indexrelid) AS definition, indisvalid AS valid
         FROM pg_index JOIN pg_class c ON c.oid = indexrelid WHERE c.relname = $1`,
      [name],
    );
    return rows[0];
  }

  it('every part of the plan is in the index, and a column is named exactly', async () => {
    const indexes = await indexesOf(
      { table: 't', name: 'by_doc', method: 'gin', columns: ['doc jsonb_path_ops'] },
      {
        table: 't',
        name: 'by_many',
        columns: ['b DESC NULLS LAST', '(lower(b))', 'a DESC'],
        include: ['id'],
        where: 'a > 3 -- few',
        unique: true,
      },
      { table: '"Odd Shop"."Größe"', name: LONG, columns: ['x"y', 'Order'] },
    );
    const seen: Progress[] = [];
    await createIndexes(context(seen), indexes);
    expect(await definition('by_doc')).toEqual({
      valid: true,
      definition: 'CREATE INDEX by_doc ON public.t USING gin (doc jsonb_path_ops)',
    });
    expect(await definition('by_many')).toEqual({
      valid: true,
      definition:
        'CREATE UNIQUE INDEX by_many ON public.t USING btree (b DESC NULLS LAST, lower(b), "a DESC") INCLUDE (id) WHERE (a > 3)',
    });
    expect(await definition(LONG)).toEqual({
      valid: true,
      definition: `CREATE INDEX ${LONG} ON "Odd Shop"."Größe" USING btree ("x""y", "Order")`,
    });
    expect(seen.filter(({ done }) => done === 1).map(({ object }) => object)).toEqual(['by_doc', 'by_many', LONG]);
  });

  it('what is there already is left as it is; another index of that name is refused', async () => {
    const indexes = await indexesOf({ table: 't', name: 'by_a', columns: ['a', 'lower(b)'], where: 'a IN (1, 2)' });
    await createIndexes(context(), indexes);
    const oid = async (): Promise<unknown> => (await app.query(`SELECT 'by_a'::regclass::oid AS oid`)).rows;
    const before = await oid();
    await createIndexes(context(), indexes);
    await createIndexes(context([], undefined, 'another run'), indexes);
    expect(await oid()).toEqual(before);
    await expect(
      createIndexes(context(), await indexesOf({ table: 't', name: 'by_a', columns: ['a'] })),
    ).rejects.toThrow(/there is an index "by_a" already, and it is not what the plan says of table public\.t/);
  });

  it('an INVALID leftover is dropped and built again', async () => {
    await app.query(`INSERT INTO t VALUES (6001, 1, 'b1')`);
    await expect(app.query('CREATE UNIQUE INDEX CONCURRENTLY by_b ON t (b)')).rejects.toThrow(
      /could not create unique/,
    );
    expect((await definition('by_b'))?.valid).toBe(false);
    await app.query('DELETE FROM t WHERE id = 6001');
    await createIndexes(context(), await indexesOf({ table: 't', name: 'by_b', columns: ['b'], unique: true }));
    expect((await definition('by_b'))?.valid).toBe(true);
  });

  it('duplicates are a clear error, and no invalid unique index stays to refuse rows', async () => {
    const indexes = await indexesOf({ table: 't', name: 'by_a', columns: ['a'], unique: true });
    const building = createIndexes(context(), indexes);
    await expect(building).rejects.toThrow(
      /unique index "by_a" on table public\.t can't be built: several rows have the same value of a\n.*SELECT "a", count\(\*\) FROM "public"\."t" WHERE "a" IS NOT NULL GROUP BY 1 HAVING/s,
    );
    expect(await definition('by_a')).toBeUndefined();
  });

  it('an expression that the server refuses is refused before anything is built', async () => {
    const indexes = await indexesOf(
      { table: 't', name: 'one', columns: ['a'] },
      { table: 't', name: 'two', columns: ['nothing'] },
    );
    await expect(createIndexes(context(), indexes)).rejects.toThrow(
      /index "two" on table public\.t is refused.*"nothing"/s,
    );
    expect(await definition('one')).toBeUndefined();
  });

  it('a partition that comes while the others are built gets it, too, and the whole is valid', async () => {
    const index = await indexesOf({ table: 'p', name: 'p_by_n', columns: ['n'], unique: false });
    const writer = new pg.Client(db.config);
    await writer.connect();
    await writer.query("BEGIN; INSERT INTO p_us VALUES (301, 'us', 1)");
    const building = createIndexes(context(), index);
    await untilRow(app, `SELECT FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting for writers%'`);
    await app.query(`
      CREATE TABLE p_eu_3 (LIKE p); ALTER TABLE p_eu ATTACH PARTITION p_eu_3 FOR VALUES FROM (1000) TO (2000);
      CREATE TABLE p_asia (LIKE p) PARTITION BY RANGE (id);
      CREATE TABLE p_asia_1 PARTITION OF p_asia FOR VALUES FROM (0) TO (1000);
      ALTER TABLE p ATTACH PARTITION p_asia FOR VALUES IN ('asia')`);
    await writer.query('COMMIT');
    await writer.end();
    await building;
    const { rows } = await app.query<{ table: string; valid: boolean }>(
      `SELECT i.indrelid::regclass::text AS table, i.indisvalid AS valid
         FROM pg_partition_tree('p_by_n') t JOIN pg_index i ON i.indexrelid = t.relid ORDER BY 1`,
    );
    const tables = ['p', 'p_asia', 'p_asia_1', 'p_eu', 'p_eu_1', 'p_eu_2', 'p_eu_3', 'p_us'];
    expect(rows).toEqual(tables.map((table) => ({ table, valid: true })));
    // One that comes later gets it from the table; a run that looks again finds nothing to be done.
    await app.query('CREATE TABLE p_asia_2 PARTITION OF p_asia FOR VALUES FROM (1000) TO (2000)');
    await createIndexes(context(), index);
    expect((await app.query(`SELECT FROM pg_index WHERE indrelid = 'p_asia_2'::regclass`)).rowCount).toBe(2);
  });

  it('a partitioned table gets it on every leaf, and the whole is valid', async () => {
    const indexes = await indexesOf({ table: 'p', name: 'p_by_n', columns: ['n'] });
    await createIndexes(context(), indexes);
    await createIndexes(context(), indexes);
    expect((await definition('p_by_n'))?.valid).toBe(true);
    const { rows } = await app.query(
      `SELECT count(*)::int AS n, bool_and(indisvalid) AS valid
         FROM pg_partition_tree('p_by_n') t JOIN pg_index i ON i.indexrelid = t.relid`,
    );
    expect(rows).toEqual([{ n: 5, valid: true }]);
    expect(leafIndexName(LONG, { schema: 'public', name: LONG })).toHaveLength(63);
    await revertMigrations(context(), { tables: [], steps: [{ kind: 'indexes', indexes }] });
    expect(await definition('p_by_n')).toBeUndefined();
  });

  it('says whom the build waits for, and ends at once when it is aborted; the next try finishes it', async () => {
    const holder = new pg.Client({ ...db.config, application_name: 'the report' });
    await holder.connect();
    await holder.query('BEGIN; UPDATE t SET a = a WHERE id = 1');
    const seen: Progress[] = [];
    const stop = new AbortController();
    const indexes = await indexesOf({ table: 't', name: 'by_a', columns: ['a'] });
    const building = createIndexes(context(seen, stop.signal), indexes);
    while (!seen.some(({ note }) => /waits for the transaction of pid \d+ \(the report, \d+ s old\)/.test(note ?? '')))
      await sleep(20);
    const aborted = performance.now();
    stop.abort(new Error('cancelled by a person'));
    await expect(building).rejects.toThrow('cancelled by a person');
    expect(performance.now() - aborted).toBeLessThan(10_000);
    await holder.query('ROLLBACK');
    await holder.end();
    await createIndexes(context(), indexes);
    expect((await definition('by_a'))?.valid).toBe(true);
  });

  it('a build that the server still runs for a dead worker is waited for, not torn down', async () => {
    const holder = new pg.Client(db.config);
    await holder.connect();
    await holder.query('BEGIN; UPDATE t SET a = a WHERE id = 1');
    const orphan = new pg.Client(db.config);
    await orphan.connect();
    const orphaned = orphan.query('CREATE INDEX CONCURRENTLY by_a ON t (a)');
    while ((await definition('by_a')) === undefined) await sleep(10);
    const { rows: before } = await app.query(`SELECT 'by_a'::regclass::oid AS oid`);
    const seen: Progress[] = [];
    const building = createIndexes(context(seen), await indexesOf({ table: 't', name: 'by_a', columns: ['a'] }));
    while (!seen.some(({ note }) => note === 'another session builds it: waits for it')) await sleep(20);
    await holder.query('ROLLBACK');
    await Promise.all([building, orphaned]);
    expect((await app.query(`SELECT 'by_a'::regclass::oid AS oid`)).rows).toEqual(before);
    await Promise.all([holder.end(), orphan.end()]);
  });

  it('gives way when it keeps the application waiting, and is built afterwards', async () => {
    const holder = new pg.Client(db.config);
    const ddl = new pg.Client(db.config);
    await Promise.all([holder.connect(), ddl.connect()]);
    await holder.query('BEGIN; UPDATE t SET a = a WHERE id = 1');
    const indexes = await indexesOf({ table: 't', name: 'by_a', columns: ['a'] });
    const building = createIndexes(context(), indexes, { parallel: 2, maxBlockingMs: 300 });
    while ((await definition('by_a')) === undefined) await sleep(10);
    // Waits for the build, and everybody who comes after waits behind it.
    const change = ddl.query('LOCK TABLE t IN SHARE ROW EXCLUSIVE MODE NOWAIT').catch((error: unknown) => error);
    expect(await change).toBeInstanceOf(Error);
    const waiting = ddl.query('BEGIN; LOCK TABLE t IN SHARE UPDATE EXCLUSIVE MODE; COMMIT');
    await waiting;
    await holder.query('ROLLBACK');
    await building;
    expect((await definition('by_a'))?.valid).toBe(true);
    await Promise.all([holder.end(), ddl.end()]);
  });

  describe('without a feed', () => {
    beforeEach(() => app.query('DROP SUBSCRIPTION verdigris_test'));
    afterEach(() => app.query(GO_ONLINE));

    it('green is offline until it has a subscription of ours, or is primary', async () => {
      expect(await isOffline(session)).toBe(true);
      await app.query(
        `CREATE SUBSCRIPTION other CONNECTION 'dbname=x' PUBLICATION p WITH (connect = false, slot_name = NONE)`,
      );
      expect(await isOffline(session)).toBe(true);
      await app.query(`DROP SUBSCRIPTION other; INSERT INTO verdigris.owner VALUES (true, 'run', 'm', 'green');
        INSERT INTO verdigris.route (migration, writes_on) VALUES ('m', 'green')`);
      expect(await isOffline(session)).toBe(false);
      await app.query('TRUNCATE verdigris.owner, verdigris.route');
      await app.query(GO_ONLINE);
      expect(await isOffline(session)).toBe(false);
      await app.query('DROP SUBSCRIPTION verdigris_test');
    });

    it('a plain build that the server still runs for a dead worker is waited for, and its index taken', async () => {
      const orphan = new pg.Client(db.config);
      await orphan.connect();
      await orphan.query('BEGIN; CREATE INDEX by_a ON t (a)');
      const seen: Progress[] = [];
      const building = createIndexes(context(seen), await indexesOf({ table: 't', name: 'by_a', columns: ['a'] }));
      while (!seen.some(({ note }) => note?.includes('waits for pid') === true)) await sleep(20);
      await orphan.query('COMMIT');
      await building;
      expect((await definition('by_a'))?.valid).toBe(true);
      await orphan.end();
    });

    it('a build is not stopped for an ANALYZE that waits for it', async () => {
      const [holder, other] = [new pg.Client(db.config), new pg.Client(db.config)];
      await Promise.all([holder.connect(), other.connect()]);
      await holder.query('BEGIN; UPDATE t SET a = a WHERE id = 1');
      const seen: Progress[] = [];
      const indexes = await indexesOf({ table: 't', name: 'by_a', columns: ['a'] });
      const building = createIndexes(context(seen), indexes, { parallel: 1, maxBlockingMs: 100 });
      while (!seen.some(({ note }) => note?.includes('waits for pid') === true)) await sleep(20);
      // Behind the build: it would go through as soon as that is stopped.
      let analyzed = false;
      const analyzing = other.query('ANALYZE t').then(() => (analyzed = true));
      await sleep(1_500);
      const stopped = analyzed;
      await holder.query('ROLLBACK');
      await Promise.all([building, analyzing]);
      expect(stopped).toBe(false);
      expect((await definition('by_a'))?.valid).toBe(true);
      await Promise.all([holder.end(), other.end()]);
    });

    /** How many indexes of one table are built at once, of four, with such a plan. */
    async function together(indexes: object): Promise<number> {
      await app.query(SLOW);
      const names = ['one', 'two', 'three', 'four'];
      const builds = await indexesOf(...names.map((name) => ({ table: 't', name, columns: ['(slow(id))'] })));
      const most = await mostAtOnce(createIndexes(context(), builds, indexSettings({ indexes })));
      await app.query(`DROP INDEX ${names.join(', ')}; DROP FUNCTION slow(int)`);
      return most;
    }

    async function mostAtOnce(building: Promise<void>): Promise<number> {
      let most = 0;
      const look = setInterval(() => {
        void app
          .query<{ n: number }>(
            'SELECT count(DISTINCT pid)::int AS n FROM pg_stat_progress_create_index WHERE datname = current_database()',
          )
          .then(({ rows }) => (most = Math.max(most, rows[0]?.n ?? 0)));
      }, 50);
      await building.finally(() => clearInterval(look));
      return most;
    }

    it('several indexes of one table are built side by side', async () => {
      expect(await together({})).toBeGreaterThan(2);
    });

    it('no more indexes are built at once than the plan says', async () => {
      expect(await together({ parallel: 1 })).toBe(1);
    });

    it('beside a long one, which is one process, the others have one lane and no parallel workers', async () => {
      await app.query(`CREATE SEQUENCE with_workers;
        CREATE FUNCTION slow(n int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
        BEGIN
          IF current_setting('max_parallel_maintenance_workers') <> '0' THEN PERFORM nextval('public.with_workers'); END IF;
          IF n % 100 = 0 THEN PERFORM pg_sleep(0.01); END IF;
          RETURN n;
        END $$;
        CREATE FUNCTION slow_array(n int) RETURNS int[] LANGUAGE plpgsql IMMUTABLE AS
          'BEGIN IF n % 25 = 0 THEN PERFORM pg_sleep(0.01); END IF; RETURN ARRAY[n]; END'`);
      const indexes = await indexesOf(
        ...['one', 'two'].map((name) => ({ table: 't', name, columns: ['(slow(id))'] })),
        { table: 't', name: 'long', method: 'gin', columns: ['(slow_array(id))'] },
      );
      expect(await mostAtOnce(createIndexes(context(), indexes))).toBe(2);
      expect((await app.query('SELECT is_called FROM with_workers')).rows).toEqual([{ is_called: false }]);
      await app.query(
        'DROP INDEX one, two, long; DROP FUNCTION slow(int), slow_array(int); DROP SEQUENCE with_workers',
      );
    });

    it('those of the plan are built with those of keys where they are given ahead, and are ours', async () => {
      const indexes = await indexesOf({ table: 't', name: 'ahead', columns: ['a'] });
      const nothing = { keys: { create: [], join: [] }, secondaryIndexes: { parents: [], indexes: [], attach: [] } };
      await buildTogether(context(), nothing, undefined, (own) => buildsAhead(own, indexes));
      const before = (await app.query(`SELECT 'ahead'::regclass::oid`)).rows;
      await createIndexes(context(), indexes);
      expect((await app.query(`SELECT 'ahead'::regclass::oid`)).rows).toEqual(before);
      const progress = await readProgress(session, indexKey('run', { schema: 'public', name: 't' }, 'ahead'));
      expect(progress).toMatchObject({ state: { ours: true }, done: true });
    });

    it('one of the plan that can not be built ends none of blue, and is refused at its place', async () => {
      await app.query(SLOW);
      const table = { schema: 'public', name: 't' };
      const create = 'CREATE INDEX of_blue ON public.t USING btree (public.slow(id))';
      const ofBlue = { parents: [], indexes: [{ table, name: 'of_blue', create }], attach: [] };
      const indexes = await indexesOf({ table: 't', name: 'twice', columns: ['a'], unique: true });
      const seen: Progress[] = [];
      const schema = { keys: { create: [], join: [] }, secondaryIndexes: ofBlue };
      await buildTogether(context(seen), schema, undefined, (own) => buildsAhead(own, indexes));
      expect((await definition('of_blue'))?.valid).toBe(true);
      expect(seen.map(({ note }) => note)).toContainEqual(expect.stringMatching(/^left to its step: .*twice/));
      await expect(createIndexes(context(), indexes)).rejects.toMatchObject({ type: 'BackfillFailed' });
      await app.query('DROP INDEX of_blue; DROP FUNCTION slow(int)');
    });

    it('is told how far each of several is', async () => {
      await app.query(SLOW.replace('0.01', '0.03'));
      const indexes = await indexesOf(...['one', 'two'].map((name) => ({ table: 't', name, columns: ['(slow(id))'] })));
      const seen: Progress[] = [];
      await createIndexes(context(seen), indexes);
      await app.query('DROP INDEX one, two; DROP FUNCTION slow(int)');
      const early = seen.filter(({ done, total, etaSeconds }) => done > 0 && done < total && etaSeconds !== null);
      expect(new Set(early.map(({ object }) => object))).toEqual(new Set(['one', 'two']));
      expect(early.some(({ bytes = 0, bytesPerSecond = 0 }) => bytes > 0 && bytesPerSecond > 0)).toBe(true);
      // Some hundred kilobytes in a second and a half: no rate is told before there is one.
      for (const { bytesPerSecond = 0 } of seen) expect(bytesPerSecond).toBeLessThan(100e6);
    });
  });

  const KINDS: [kind: string, index: object][] = [
    ['unique', { columns: ['b'], unique: true }],
    ['partial', { columns: ['a'], where: 'id > 100' }],
    ['expression', { columns: ['(lower(b))', '(a + id) DESC'] }],
    ['covering', { columns: ['a'], include: ['b', 'id'] }],
    ['gin', { method: 'gin', columns: ['doc'] }],
    ['gist', { method: 'gist', columns: ['(int4range(id, id + 5))'] }],
    ['brin', { method: 'brin', columns: ['id'] }],
    ['hash', { method: 'hash', columns: ['b'] }],
    ['spgist', { method: 'spgist', columns: ['b'] }],
  ];

  it.each(KINDS)('a %s index is the same, built in one pass or CONCURRENTLY', async (kind, index) => {
    const indexes = await indexesOf({ table: 't', name: `k_${kind}`, ...index });
    await createIndexes(context(), indexes);
    const concurrently = await definition(`k_${kind}`);
    await app.query(`DROP INDEX k_${kind}; TRUNCATE verdigris.progress; DROP SUBSCRIPTION verdigris_test`);
    await createIndexes(context(), indexes);
    await app.query(GO_ONLINE);
    expect(await definition(`k_${kind}`)).toEqual(concurrently);
    expect(concurrently?.valid).toBe(true);
  });

  it.each(['offline', 'online'])(
    'killed in mid-build again and again it is built once, and nothing is left (%s)',
    async (how) => {
      await app.query(SLOW);
      if (how === 'offline') await app.query('DROP SUBSCRIPTION verdigris_test');
      const indexes = await indexesOf(
        { table: 't', name: 'one', columns: ['(slow(id))'] },
        { table: 't', name: 'two', columns: ['id', '(slow(id))'], unique: true },
      );
      try {
        for (let kill = 0; kill < 4; kill++) {
          let isOver = false;
          const building = createIndexes(context(), indexes)
            .then(
              () => 'done',
              (error: unknown) => error,
            )
            .finally(() => (isOver = true));
          await sleep(150 * Math.random());
          while (!isOver) {
            const { rowCount } = await app.query(
              `SELECT pg_terminate_backend(pid) FROM pg_stat_progress_create_index WHERE datname = current_database()`,
            );
            if (rowCount !== 0) break;
            await sleep(5);
          }
          const error = await building;
          // Only one that comes in the moment of its end: a build begins where nothing was left of the one before.
          if (error === 'done' && kill > 0) break;
          expect(error instanceof VerdigrisError ? error.retryable : isConnectionLost(error)).toBe(true);
        }
        await createIndexes(context(), indexes);
        const { rows } = await app.query(
          `SELECT c.relname AS name, indisvalid AS valid FROM pg_index JOIN pg_class c ON c.oid = indexrelid
          WHERE indrelid = 't'::regclass AND NOT indisprimary ORDER BY 1`,
        );
        expect(rows).toEqual([
          { name: 'one', valid: true },
          { name: 'two', valid: true },
        ]);
      } finally {
        if (how === 'offline') await app.query(GO_ONLINE);
        await app.query('DROP FUNCTION slow(int) CASCADE');
      }
    },
  );
});
