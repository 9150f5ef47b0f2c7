import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { backfillTable } from '../../src/postgres/migrate/backfill.js';
import { expandTable } from '../../src/postgres/migrate/expand-table.js';
import type { Work } from '../../src/postgres/migrate/plan-work.js';
import type { Progress } from '../../src/postgres/migrate/step-context.js';
import type { Verification } from '../../src/postgres/verify/verify-tables.js';
import { NO_LAG, ReplicatedPair, workOf, type Comparison } from './replicated-pair.js';
import { testedVersion } from '../support/tested-version.js';

const ROWS = 30_000;
const TABLES = ['tx', 'named', 'part', 'empty', 'kinds', 'shop."Order Items"'];

const DDL = `
  CREATE TYPE mood AS ENUM ('wild', 'calm');
  CREATE TABLE tx (id bigint PRIMARY KEY, amount numeric(12, 2), payload text, note text, n int NOT NULL DEFAULT 0);
  CREATE TABLE named (name text COLLATE "en-x-icu", at date, body text, PRIMARY KEY (name, at));
  CREATE TABLE part (id int, region text, body text, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
  CREATE TABLE part_eu PARTITION OF part FOR VALUES IN ('eu');
  CREATE TABLE part_us PARTITION OF part FOR VALUES IN ('us');
  CREATE TABLE pairs (id int PRIMARY KEY, shipping text, billing text, taxed char(4), n int);
  CREATE TABLE empty (id int PRIMARY KEY);
  CREATE TABLE kinds (id uuid PRIMARY KEY, f4 real, f8 float8, j json, x xml, b bytea, at timestamptz, i interval, m mood, a text[],
                      p point, r tsrange, t time, net inet, bits bit(3), g int GENERATED ALWAYS AS (1) STORED);
  CREATE SCHEMA shop;
  CREATE TABLE shop."Order Items" ("Order" char(4) COLLATE "C", "select" int, "x""y" text, PRIMARY KEY ("Order", "select"));`;

const FILL = `
  INSERT INTO tx SELECT n, n / 7.0, '{"n": ' || n || '}', nullif('n' || n % 5, 'n0') FROM generate_series(1, ${ROWS}) n;
  INSERT INTO named SELECT chr(97 + n % 26) || 'É''",' || n, date '2026-01-01' + n % 9, 'b' FROM generate_series(1, 5000) n;
  INSERT INTO part SELECT n, CASE n % 2 WHEN 0 THEN 'eu' ELSE 'us' END, 'b' FROM generate_series(1, 3000) n;
  INSERT INTO pairs VALUES (1, NULL, NULL), (2, 'FR', NULL), (3, NULL, 'ES');
  INSERT INTO kinds SELECT gen_random_uuid(), n / 3.0, n / 3.0, '{"a": 1.0}', '<a/>', decode('00ff', 'hex'), now(), '1 day 24:00:00', 'calm',
         ARRAY['a', NULL, '"'], point(n, 1 / 3.0), tsrange(now()::timestamp, NULL), '12:00', '10.0.0.1', B'101' FROM generate_series(1, 500) n;
  INSERT INTO shop."Order Items" SELECT 'o' || n % 100, n, 'b' FROM generate_series(1, 2000) n;`;

const MIGRATIONS = [
  {
    changeType: {
      table: 'tx',
      column: 'payload',
      newColumn: 'payload_json',
      type: 'jsonb',
      up: 'verdigris.try_jsonb(payload)',
      down: 'payload_json::text',
    },
  },
  { addColumn: { table: 'tx', column: 'rounded', type: 'numeric(12,1)', up: 'amount' } },
  { setNotNull: { table: 'tx', column: 'note', up: `'none'` } },
  { addColumn: { table: 'part', column: 'label', type: 'text', up: 'part.region || part.id' } },
];

describe.each([testedVersion('pg15')])('verification, %s to 18', (server) => {
  let pair: ReplicatedPair;
  let work: Work;
  let passes = 0;

  beforeAll(async () => {
    pair = await ReplicatedPair.start(server, 'verify', DDL, FILL);
    await pair.blue.query('ANALYZE');
    work = await workOf(MIGRATIONS);
    for (const table of work.tables) await expandTable(pair.context(), table);
    for (const table of work.tables) await backfillTable(pair.context(), table, NO_LAG);
  });
  afterAll(() => pair.stop());

  function verify(
    tables: readonly string[] = TABLES,
    options: Partial<Comparison> & { seen?: Progress[] } = {},
  ): Promise<Verification> {
    return pair.verify({
      ...{ pass: `pass ${++passes}`, tables, work },
      // So small that the tables of a test have many parts and segments.
      partSize: { rows: 1_000, bytes: 64 * 1024 },
      onProgress: (progress) => options.seen?.push(progress),
      ...options,
    });
  }

  /** Changes green behind the back of everybody. */
  async function onGreen(sql: string): Promise<void> {
    await pair.green.query('BEGIN; SET LOCAL session_replication_role = replica');
    await pair.green.query(sql);
    await pair.green.query('COMMIT');
  }

  it('equal tables of every type, key and name are equal', async () => {
    const seen: Progress[] = [];
    const result = await verify(TABLES, { seen });
    expect(result).toEqual({
      scope: 'all',
      tables: TABLES.length,
      rowsVerified: ROWS + 5000 + 3000 + 500 + 2000,
      differingRows: 0,
      differing: [],
      derivedChecked: ROWS * 3 + 3000,
      notCompared: [],
    });
    expect(seen.at(-1)).toMatchObject({ step: 'verify' });
    const { rows } = await pair.blue.query<{ bytes: string }>(`SELECT pg_table_size('tx')::text AS bytes`);
    const ofTx = seen.filter(({ object }) => object === 'public.tx');
    const [early, last] = [ofTx[0], ofTx.at(-1)];
    expect(last?.bytes).toBeGreaterThan(Number(rows[0]?.bytes) * 0.9);
    expect(last?.bytes).toBeLessThanOrEqual(Number(rows[0]?.bytes));
    expect(early?.bytes).toBeLessThan((last?.bytes ?? 0) / 2);
    expect(last?.bytesPerSecond).toBeGreaterThan(last?.rowsPerSecond ?? Number.POSITIVE_INFINITY);
    expect(early?.done).toBeLessThan(early?.total ?? 0);
    expect(early?.rowsPerSecond).toBeGreaterThan(0);
    expect(early?.etaSeconds).not.toBeNull();
    expect(last).toMatchObject({ done: ROWS, total: ROWS, etaSeconds: 0 });
  });

  it('one changed, one deleted and one added row are found with their keys, at both ends of the table, too', async () => {
    await onGreen(`UPDATE tx SET amount = amount + 1, rounded = amount + 1 WHERE id = 21234;
                   DELETE FROM tx WHERE id IN (1, 777);
                   INSERT INTO tx (id, note) VALUES (-5, 'x'), (${ROWS + 1_000}, 'x');
                   UPDATE named SET body = NULL WHERE name = 'bÉ''",27';
                   DELETE FROM shop."Order Items" WHERE "select" = 44;
                   INSERT INTO part VALUES (-1, 'us', '')`);
    const { differing, differingRows } = await verify();
    expect(differing).toEqual(
      expect.arrayContaining([
        { table: 'public.tx', key: '"id" = 21234', kind: 'different', columns: ['amount'] },
        { table: 'public.tx', key: '"id" = 1', kind: 'missing' },
        { table: 'public.tx', key: '"id" = 777', kind: 'missing' },
        { table: 'public.tx', key: '"id" = -5', kind: 'extra' },
        { table: 'public.tx', key: `"id" = ${ROWS + 1_000}`, kind: 'extra' },
        { table: 'public.named', key: `"name" = bÉ'",27, "at" = 2026-01-01`, kind: 'different', columns: ['body'] },
        { table: 'shop."Order Items"', key: '"Order" = o44, "select" = 44', kind: 'missing' },
        { table: 'public.part', key: '"region" = us, "id" = -1', kind: 'extra' },
      ]),
    );
    expect(differingRows).toBe(8);
    expect(differing).toHaveLength(8);
    await onGreen(`DELETE FROM tx WHERE id IN (-5, ${ROWS + 1_000}, 21234); DELETE FROM part WHERE id = -1;
                   UPDATE named SET body = 'b' WHERE body IS NULL`);
    await repair('tx', 'id IN (1, 777, 21234)');
    await repair('shop."Order Items"', '"select" = 44');
    expect((await verify()).differingRows).toBe(0);
  });

  /** Puts rows back that green lacks. */
  async function repair(table: string, where: string): Promise<void> {
    const { rows: columns } = await pair.blue.query<{ list: string }>(
      `SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) AS list FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0`,
      [table],
    );
    const { rows } = await pair.blue.query<{ row: string }>(
      `SELECT to_jsonb(t)::text AS row FROM ${table} t WHERE ${where}`,
    );
    await onGreen(
      `INSERT INTO ${table} (${columns[0]?.list ?? ''})
         SELECT ${columns[0]?.list ?? ''} FROM jsonb_populate_recordset(NULL::${table}, ${pg.escapeLiteral(`[${rows.map(({ row }) => row).join(',')}]`)}::jsonb) ON CONFLICT DO NOTHING`,
    );
  }

  it('a derived column that is not what "up" says is found, and a NULL that should have been filled', async () => {
    await pair.green.query(`ALTER TABLE tx DISABLE TRIGGER verdigris_up_down`);
    await pair.green.query(
      `UPDATE tx SET payload_json = '{}' WHERE id = 5; UPDATE tx SET note = NULL WHERE id IN (6, 7)`,
    );
    const { differing, differingRows } = await verify(['tx']);
    expect(differingRows).toBe(5);
    expect(differing).toEqual([
      // What stands there now is neither blue's value nor what stands in for NULL.
      { table: 'public.tx', key: '"id" = 6', kind: 'different', columns: ['note'] },
      { table: 'public.tx', key: '"id" = 7', kind: 'different', columns: ['note'] },
      { table: 'public.tx', key: '"id" = 5', kind: 'derived', columns: ['payload_json'] },
      { table: 'public.tx', key: '"id" = 6', kind: 'derived', columns: ['note'] },
      { table: 'public.tx', key: '"id" = 7', kind: 'derived', columns: ['note'] },
    ]);
    await pair.green
      .query(`UPDATE tx SET payload_json = verdigris.try_jsonb(payload), note = CASE id % 5 WHEN 0 THEN 'none' ELSE 'n' || id % 5 END WHERE id < 10;
                            ALTER TABLE tx ENABLE ALWAYS TRIGGER verdigris_up_down`);
  });

  it('a filled column is compared like any other: what stands in for NULL, and what does not', async () => {
    await onGreen(`UPDATE tx SET note = 'none' WHERE id = 8; UPDATE tx SET note = 'n1' WHERE id = 20`);
    expect((await verify(['tx'])).differing).toEqual([
      { table: 'public.tx', key: '"id" = 8', kind: 'different', columns: ['note'] },
      { table: 'public.tx', key: '"id" = 20', kind: 'different', columns: ['note'] },
    ]);
    await onGreen(`UPDATE tx SET note = 'n3' WHERE id = 8; UPDATE tx SET note = 'none' WHERE id = 20`);
    // Where blue can't compute what stands in, that is said.
    const { notCompared, differingRows } = await verify(['part'], {
      work: await workOf([{ setNotNull: { table: 'part', column: 'body', up: 'label' } }]),
    });
    expect({ notCompared, differingRows }).toEqual({ notCompared: ['public.part.body'], differingRows: 0 });
  });

  it('a column that is filled from one that is filled itself is equal, and a wrong value of it is found', async () => {
    const migrations = [
      { setNotNull: { table: 'pairs', column: 'shipping', up: `'DE'` } },
      { setNotNull: { table: 'pairs', column: 'billing', up: 'pairs.shipping' } },
      { setNotNull: { table: 'pairs', column: 'taxed', up: 'left(billing, 2)' } },
      { setNotNull: { table: 'pairs', column: 'n', up: '7' } },
    ];
    const chained = await workOf(migrations);
    const [ofTable] = chained.tables;
    if (ofTable !== undefined) {
      await expandTable(pair.context(), ofTable);
      await backfillTable(pair.context(), ofTable, NO_LAG);
    }
    await pair.blue.query(`INSERT INTO pairs VALUES (4, NULL, NULL), (5, 'FR', NULL), (6, NULL, 'ES')`);
    await pair.caughtUp();
    expect(await verify(['pairs'], { work: chained })).toMatchObject({ differing: [], differingRows: 0 });
    await onGreen(`UPDATE pairs SET billing = 'FR' WHERE id = 4`);
    expect((await verify(['pairs'], { work: chained })).differing).toEqual([
      { table: 'public.pairs', key: '"id" = 4', kind: 'different', columns: ['billing'] },
    ]);
    await onGreen(`UPDATE pairs SET billing = 'DE' WHERE id = 4`);
  });

  it('while blue is written 200 times a second and more, one row all the time, there is no false difference and a real one is found', async () => {
    let over = false;
    let written = 0;
    const writer = async (
      write: (client: pg.Client, n: number) => Promise<unknown>,
      pauseMs: number,
    ): Promise<void> => {
      const client = new pg.Client(pair.blueDatabase.config);
      client.on('error', () => undefined);
      await client.connect();
      for (let n = 1; !over; n++) {
        await write(client, n);
        written++;
        if (pauseMs > 0) await sleep(pauseMs);
      }
      await client.end();
    };
    const writers = [
      // Hot beyond what looking at it can settle: changed and changed back without a pause.
      writer(
        (client, n) =>
          client.query(`UPDATE tx SET n = $1 % 2, payload = '{"n": ' || $1 % 2 || '}' WHERE id = 4242`, [n]),
        0,
      ),
      writer((client, n) => client.query(`UPDATE tx SET n = n + 1 WHERE id = $1`, [1 + ((n * 7919) % ROWS)]), 2),
      writer((client, n) => client.query(`INSERT INTO named VALUES ('new' || $1, '2026-01-01', 'b')`, [n]), 4),
      writer((client, n) => client.query(`DELETE FROM part WHERE region = 'eu' AND id = $1`, [n * 2]), 8),
    ];
    const started = performance.now();
    try {
      let looks = 0;
      for (; looks < 2 || performance.now() - started < 1_500; looks++) {
        const result = await verify();
        expect(result.differing).toEqual([]);
        expect(result.differingRows).toBe(0);
      }
      await onGreen(`UPDATE tx SET amount = -1 WHERE id = 999; UPDATE named SET body = 'x' WHERE name = 'bÉ''",1'`);
      const { differing } = await verify();
      expect(differing).toEqual([
        { table: 'public.tx', key: '"id" = 999', kind: 'different', columns: ['amount'] },
        { table: 'public.named', key: `"name" = bÉ'",1, "at" = 2026-01-02`, kind: 'different', columns: ['body'] },
      ]);
    } finally {
      over = true;
      await Promise.all(writers);
    }
    expect(written).toBeGreaterThan(300);
    await pair.caughtUp();
    await onGreen(
      `UPDATE tx SET amount = round(999 / 7.0, 2) WHERE id = 999; UPDATE named SET body = 'b' WHERE body = 'x'`,
    );
  });

  it('goes on where it was stopped, and a new pass starts over', async () => {
    const seen: Progress[] = [];
    const stop = new AbortController();
    const running = verify(['tx'], { pass: 'one', seen, signal: stop.signal });
    // The segment that has row 1 is behind its first part.
    const begun = `SELECT FROM verdigris.progress WHERE step = 'verify one' AND object = 'public.tx #1' AND (state->>'rows')::int > 0`;
    while (seen.length === 0 || (await pair.green.query(begun)).rowCount === 0) await sleep(1);
    stop.abort(new Error('cancelled by a person'));
    await expect(running).rejects.toThrow('cancelled by a person');
    const { rows } = await pair.green.query<{ parts: string; segments: string }>(
      `SELECT sum((state->>'rows')::int) AS parts, count(*) FILTER (WHERE NOT done) AS segments
         FROM verdigris.progress WHERE step = 'verify one' AND object LIKE 'public.tx #%'`,
    );
    expect(Number(rows[0]?.parts)).toBeLessThan(ROWS);
    expect(Number(rows[0]?.segments)).toBeGreaterThan(0);
    // What is behind the cursor is not read again in the same pass.
    await onGreen('UPDATE tx SET amount = -1 WHERE id = 1');
    const resumed = await verify(['tx'], { pass: 'one' });
    expect(resumed).toMatchObject({ rowsVerified: ROWS, differingRows: 0 });
    expect(await verify(['tx'], { pass: 'one' })).toEqual(resumed);
    // Unless a side was failed over meanwhile: it may lack what was compared.
    await pair.green.query(
      `UPDATE verdigris.progress SET state = jsonb_set(state, '{began,green,timeline}', '"000000FF"')
        WHERE step = 'verify one' AND object = 'pass'`,
    );
    expect((await verify(['tx'], { pass: 'one' })).differingRows).toBe(1);
    await onGreen('UPDATE tx SET amount = round(1 / 7.0, 2) WHERE id = 1');
    expect((await verify(['tx'], { pass: 'two' })).differingRows).toBe(0);
    await onGreen('UPDATE tx SET amount = -1 WHERE id = 1');
    expect((await verify(['tx'], { pass: 'two' })).differingRows).toBe(0);
    // Or blue was put back to before the pass began, and has written as much as it had then.
    await pair.blue.query(`DELETE FROM verdigris.progress WHERE step = 'verified' AND object = 'pass begun'`);
    expect((await verify(['tx'], { pass: 'two' })).differingRows).toBe(1);
    expect((await verify(['tx'], { pass: 'three' })).differingRows).toBe(1);
    await onGreen('UPDATE tx SET amount = round(1 / 7.0, 2) WHERE id = 1');
  });

  it('a row that is there twice on one side is found, as one too many or one too few', async () => {
    const key = await pair.green.query<{ name: string; def: string }>(
      `SELECT conname AS name, pg_get_constraintdef(oid) AS def FROM pg_constraint WHERE conrelid = 'tx'::regclass AND contype = 'p'`,
    );
    const { name = '', def = '' } = key.rows[0] ?? {};
    await pair.green.query(`ALTER TABLE tx DROP CONSTRAINT ${name}`);
    await onGreen('INSERT INTO tx SELECT * FROM tx WHERE id IN (7, 5000)');
    const doubled = [
      { table: 'public.tx', key: '"id" = 7', kind: 'extra' },
      { table: 'public.tx', key: '"id" = 5000', kind: 'extra' },
    ];
    const byKey = (one: { key: string }, other: { key: string }): number => one.key.localeCompare(other.key);
    expect((await verify(['tx'])).differing.toSorted(byKey)).toEqual(doubled.toSorted(byKey));
    await onGreen('DELETE FROM tx WHERE ctid IN (SELECT max(ctid) FROM tx WHERE id IN (7, 5000) GROUP BY id)');
    await pair.green.query(`ALTER TABLE tx ADD CONSTRAINT ${name} ${def}`);
    expect((await verify(['tx'])).differing).toEqual([]);
  });

  it('a table that was never replicated ends early, and a missing one is said to be missing', async () => {
    await pair.green.query('CREATE TABLE copy AS TABLE part; TRUNCATE part');
    const result = await verify(['part']);
    expect(result.differingRows).toBeGreaterThanOrEqual(1_000);
    expect(result.differing).toHaveLength(100);
    await onGreen('INSERT INTO part TABLE copy; DROP TABLE copy');
    await pair.blue.query('CREATE TABLE lonely (id int PRIMARY KEY)');
    await expect(verify(['lonely'])).rejects.toThrow(/table public\.lonely is not there on green/);
  });

  it('works the other way round, when blue follows green', async () => {
    await pair.promoteGreen();
    await pair.green.query(
      `UPDATE tx SET payload_json = '[1]' WHERE id = 10; INSERT INTO tx (id, amount) VALUES (-1, 3.14)`,
    );
    expect(await verify(TABLES, { direction: 'to_blue' })).toMatchObject({ differingRows: 0, derivedChecked: 0 });
    await pair.blue.query(`UPDATE tx SET n = -7 WHERE id = 12; UPDATE tx SET note = 'n1' WHERE id = 15`);
    expect((await verify(['tx'], { direction: 'to_blue' })).differing).toEqual([
      { table: 'public.tx', key: '"id" = 12', kind: 'different', columns: ['n'] },
      { table: 'public.tx', key: '"id" = 15', kind: 'different', columns: ['note'] },
    ]);
  });
});
