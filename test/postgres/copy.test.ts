import { describe, expect, it } from 'vitest';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseTableName } from '../../src/plan/table-name.js';
import { sendAsText } from '../../src/postgres/binary-feed.js';
import { readTables } from '../../src/postgres/catalog.js';
import { awaitsRows } from '../../src/postgres/bootstrap/copy/awaited-rows.js';
import { parcelsOfNewLeaves } from '../../src/postgres/bootstrap/copy/new-leaves.js';
import { changeCopyState, readCopyState, storeCopy } from '../../src/postgres/bootstrap/copy/copy-state.js';
import { copyFormat } from '../../src/postgres/bootstrap/copy/copy-format.js';
import { NOTHING_COMPUTED } from '../../src/postgres/bootstrap/copy/copy-query.js';
import { verifyTables } from '../../src/postgres/verify/verify-tables.js';
import { closeSession, openSession } from '../../src/postgres/session.js';
import { installState } from '../../src/postgres/state.js';
import { asDatabase, testDatabase, type TestServer } from '../support/postgres.js';
import { refusedRow } from '../../src/postgres/bootstrap/refused-row.js';
import { CopyPair } from './copy-pair.js';
import { workOf } from './replicated-pair.js';
import { testedPairs } from '../support/tested-version.js';

const WIDE = Array.from({ length: 1_000 }, (_, i) => `c${i} int`).join(', ');

const DDL = `
  SET client_min_messages = warning;
  CREATE SCHEMA "Odd.Schema";
  CREATE TYPE "Odd.Schema"."Mood" AS ENUM ('good', 'it''s bad');
  CREATE DOMAIN positive AS int CHECK (VALUE > 0);
  CREATE TABLE orders (id int, user_id int NOT NULL, amount numeric(12,2), payload text, at timestamptz NOT NULL, n int NOT NULL DEFAULT 0);
  CREATE TABLE "Odd.Schema"."My ""Table""" (id int, "Mixed Case" text, mood "Odd.Schema"."Mood", moods "Odd.Schema"."Mood"[], p positive, ref regclass);
  CREATE TABLE nothing ();
  CREATE TABLE empty (id int, t text);
  CREATE TABLE generated (id int GENERATED ALWAYS AS IDENTITY, a int, b int GENERATED ALWAYS AS (a * 2) STORED, c int DEFAULT 7);
  CREATE TABLE wide (id int, ${WIDE});
  CREATE TABLE part (id int, region text, body text) PARTITION BY LIST (region);
  CREATE TABLE part_eu PARTITION OF part FOR VALUES IN ('eu');
  CREATE TABLE part_more PARTITION OF part FOR VALUES IN ('us', 'asia') PARTITION BY RANGE (id);
  CREATE TABLE part_more_1 (body text, id int, region text);
  ALTER TABLE part_more ATTACH PARTITION part_more_1 FOR VALUES FROM (0) TO (500);
  CREATE TABLE part_more_2 PARTITION OF part_more DEFAULT;
  CREATE TABLE parent (id int, t text);
  CREATE TABLE child (extra text) INHERITS (parent);
  CREATE TABLE types (id int, b bytea, j json, jb jsonb, u uuid, ip inet, iv interval, bits bit(5), vb bit varying, f float8, r real,
    a int[], m money, d date, tz timetz, ts timestamp(3), c char(5), v varchar(9), x xml, pt point, rng int4range, tv tsvector, o boolean, mac macaddr, nm name, n numeric);
  CREATE TABLE stable (id int, s smallint, l bigint, r real, f float8, n numeric, n2 numeric(9,3), o boolean, t text, v varchar(9), c char(5), q "char", b bytea,
    u uuid, j json, jb jsonb, d date, ti time, tz timetz, ts timestamp(3), tt timestamptz, iv interval, ip inet, ci cidr, mac macaddr, bi bit(5), vb bit varying(7));
  CREATE TABLE dropped (id int, gone text, stays text);
  ALTER TABLE dropped DROP COLUMN gone;
  CREATE TABLE big_value (id int, t text);`;

const KEYS = `
  ALTER TABLE orders ADD PRIMARY KEY (id); ALTER TABLE "Odd.Schema"."My ""Table""" ADD PRIMARY KEY (id);
  ALTER TABLE generated ADD PRIMARY KEY (id); ALTER TABLE wide ADD PRIMARY KEY (id); ALTER TABLE part ADD PRIMARY KEY (id, region);
  ALTER TABLE parent ADD PRIMARY KEY (id); ALTER TABLE child ADD PRIMARY KEY (id); ALTER TABLE types ADD PRIMARY KEY (id); ALTER TABLE stable ADD PRIMARY KEY (id);
  ALTER TABLE dropped ADD PRIMARY KEY (id); ALTER TABLE big_value ADD PRIMARY KEY (id);`;

const ROWS = `
  INSERT INTO orders SELECT n, n % 100, n / 7.0, '{"order": ' || n || '}', timestamptz '2026-01-01' + n * interval '1 s' FROM generate_series(1, 30000) n;
  INSERT INTO "Odd.Schema"."My ""Table""" SELECT n, E'tab\\t back\\\\slash \\N ' || n, CASE n % 3 WHEN 0 THEN NULL ELSE 'it''s bad'::"Odd.Schema"."Mood" END, '{good}', n, 'orders' FROM generate_series(1, 500) n;
  INSERT INTO nothing DEFAULT VALUES; INSERT INTO nothing DEFAULT VALUES;
  INSERT INTO generated (a) SELECT n FROM generate_series(1, 500) n;
  INSERT INTO wide (id, c0, c999) SELECT n, n, -n FROM generate_series(1, 50) n;
  INSERT INTO part SELECT n, (array['eu','us','asia'])[1 + n % 3], 'b' || n FROM generate_series(1, 1500) n;
  INSERT INTO parent SELECT n, 'p' FROM generate_series(1, 100) n; INSERT INTO child SELECT n, 'c', 'x' FROM generate_series(1001, 1100) n;
  INSERT INTO types SELECT n, decode(md5(n::text), 'hex'), '{"a":  1}', '{"b": [1, null]}', md5(n::text)::uuid, '10.0.0.1/24', interval '1 mon 2 days 3.5 s', B'10101', B'1', 'NaN', 1.5,
    '{1,NULL,3}', 12.5, '2026-02-03', '12:00+02', '2026-01-01 12:00:00.123', 'ab', 'var', '<a/>', '(1,2)', '[1,5)', 'a b', n % 2 = 0, '08:00:2b:01:02:03', 'name', 1e50 FROM generate_series(1, 300) n;
  INSERT INTO types (id, f, n, d) VALUES (0, '-Infinity', 'NaN', 'infinity');
  INSERT INTO stable SELECT n, -n, n * 1e12::bigint, 1.5, n / 3.0, n / 7.0, n / 7.0, n % 2 = 0, E'tab\\t ' || n, 'ä€', 'ab', 'x', decode(md5(n::text), 'hex'), md5(n::text)::uuid,
    '{"a":  1}', '{"b": [1, null]}', date '2026-01-01' + n, '12:34:56.789', '12:00+02', '2026-01-01 12:00:00.123', '2026-01-01 12:00:00.123456+02', interval '1 mon -2 days 3.5 s',
    '2001:db8::1/64', '10.1.0.0/16', '08:00:2b:01:02:03', B'10101', B'101' FROM generate_series(1, 300) n;
  INSERT INTO stable (id, f, r, n, d, ts) VALUES (0, '-Infinity', 'NaN', 'Infinity', '-infinity', 'infinity');
  INSERT INTO dropped SELECT n, 's' FROM generate_series(1, 100) n;
  INSERT INTO big_value SELECT n, repeat(md5(n::text), 100000) FROM generate_series(1, 2) n;`;

const MIGRATIONS = [
  { addColumn: { table: 'orders', column: 'metadata', type: 'jsonb', up: `jsonb_build_object('legacy', true)` } },
  { addColumn: { table: 'orders', column: 'version', type: 'integer', default: '1' } },
  {
    changeType: {
      table: 'orders',
      column: 'payload',
      newColumn: 'payload_json',
      type: 'jsonb',
      up: 'verdigris.try_jsonb(payload)',
      down: 'payload_json::text',
    },
  },
  { addColumn: { table: 'orders', column: 'gross', type: 'bigint', up: 'amount * 119 / 100' } },
  {
    addColumn: {
      table: 'orders',
      column: 'label',
      type: 'varchar(30)',
      up: `orders.id || ': ' || gross || ' v' || version`,
    },
  },
  { setNotNull: { table: 'part', column: 'body', up: `'none'` } },
  { addColumn: { table: 'types', column: 'whole', type: 'text', up: "to_jsonb(types) ->> 'id'" } },
];

/** Writes on blue all the while: inserts, updates, deletes in one transaction. */
class Writer {
  private stopped = false;
  private readonly done: Promise<void>;
  writes = 0;

  constructor(pair: CopyPair) {
    this.done = (async () => {
      for (let i = 40_000; !this.stopped; i++) {
        await pair.blue.query(`
          BEGIN;
          INSERT INTO orders VALUES (${i}, 1, 5, '{"new": ${i}}', now());
          UPDATE orders SET n = n + 1, payload = '{"changed": ' || n || '}' WHERE id = ${(i * 7) % 30000};
          DELETE FROM orders WHERE id = ${(i * 11) % 30000};
          INSERT INTO part VALUES (${i}, 'asia', 'late');
          UPDATE part SET body = body || '+' WHERE id = ${i % 1500};
          INSERT INTO generated (a) VALUES (${i});
          UPDATE types SET f = ${i} WHERE id = ${i % 300};
          UPDATE "Odd.Schema"."My ""Table""" SET mood = 'good' WHERE id = ${i % 500};
          COMMIT`);
        this.writes++;
        await sleep(2);
      }
    })();
  }

  async stop(): Promise<number> {
    this.stopped = true;
    await this.done;
    return this.writes;
  }
}

/** Rows whose computed columns are not what the plan says. */
async function wrong(pair: CopyPair): Promise<number> {
  const { rows } = await pair.green.query<{ n: number }>(
    `SELECT count(*)::int AS n FROM orders
      WHERE metadata IS DISTINCT FROM '{"legacy": true}' OR payload_json IS DISTINCT FROM payload::jsonb OR version <> 1
         OR gross IS DISTINCT FROM (amount * 119 / 100)::bigint OR label IS DISTINCT FROM id || ': ' || gross || ' v1'`,
  );
  const { rows: types } = await pair.green.query<{ n: number }>(
    'SELECT count(*)::int AS n FROM types WHERE whole IS DISTINCT FROM id::text',
  );
  return (rows[0]?.n ?? -1) + (types[0]?.n ?? -1);
}

const PAIRS = testedPairs<readonly [TestServer, TestServer]>([
  ['pg15', 'pg18'],
  ['pg15', 'pg15'],
  ['pg18', 'pg18'],
]);

describe('the format of a copy', () => {
  it('is binary where every type has the same binary form on all versions, else text', async () => {
    const pair = await CopyPair.start(['pg15', 'pg18'], 'copy_format', DDL, ROWS + KEYS);
    try {
      const tables = await readTables(pair.ourBlue, pair.plan.tables);
      const binary = tables.flatMap((table) => {
        const columns = table.columns.map(({ name }) => name);
        return copyFormat(table, table, columns, NOTHING_COMPUTED) === 'binary' ? [table.name.name] : [];
      });
      expect(binary).toContain('stable');
      expect(binary).toContain('orders');
      expect(binary).not.toContain('types');
      expect(binary).not.toContain('My "Table"');
      expect(binary).not.toContain('nothing');
    } finally {
      await pair.stop();
    }
  });
});

describe.each(PAIRS)('copy from %s to %s', (from, to) => {
  it('brings every row of odd tables over, with its new columns, while blue is written', async () => {
    const pair = await CopyPair.start([from, to], 'copy', DDL, ROWS + KEYS, MIGRATIONS, { replicate: { streams: 2 } });
    const writer = new Writer(pair);
    try {
      const parcels = await pair.planCopy();
      expect(await pair.planCopy()).toEqual(parcels);
      const holder = pair.hold();
      await pair.phase('ready');
      const results = await pair.copyAll(parcels);
      expect(results.every(({ outcome }) => outcome === 'copied')).toBe(true);
      expect(await pair.finish()).toMatchObject({ left: [] });
      expect(await pair.finish()).toMatchObject({ left: [] });
      holder.stop();
      await holder.ended;
      await pair.addKeys(KEYS);
      await pair.follow();
      await pair.follow();
      expect(await writer.stop()).toBeGreaterThan(10);
      await pair.caughtUp();
      expect(await pair.differences()).toEqual([]);
      expect(await wrong(pair)).toBe(0);
    } finally {
      await writer.stop().catch(() => 0);
      await pair.stop();
    }
  });
});

it('a parcel may have several pieces of one table: each stays when a later one fails, and none is copied twice', async () => {
  const ddl = `CREATE TABLE plain (id int, t text);`;
  const pair = await CopyPair.start(
    ['pg15', 'pg18'],
    'copy_pieces',
    ddl,
    `INSERT INTO plain SELECT n, 't' || n FROM generate_series(1, 20000) n`,
  );
  const onGreen = async (): Promise<number> =>
    (await pair.green.query<{ n: number }>('SELECT count(*)::int AS n FROM plain')).rows[0]?.n ?? -1;
  try {
    const [parcel] = await pair.planCopy();
    const [whole] = parcel?.pieces ?? [];
    if (parcel === undefined || whole === undefined) throw new Error('nothing is copied');
    const pieces = [0, 30, 60].map((fromBlock, i) => ({
      ...whole,
      ...{ key: `${parcel.id}.${i}`, fromBlock, toBlock: i === 2 ? null : fromBlock + 30 },
    }));
    await pair.green.query(
      `UPDATE verdigris.progress SET state = jsonb_set(state, '{pieces}', $1) WHERE step = 'copy parcel' AND run_id = $2`,
      [JSON.stringify(pieces), pair.run.runId],
    );
    // In the second one.
    await pair.green.query('ALTER TABLE plain ADD CONSTRAINT none CHECK (id <> 7000)');
    pair.hold();
    await pair.phase('ready');
    await expect(pair.copyParcel(parcel.id)).rejects.toMatchObject({ type: 'BackfillFailed' });
    const first = await onGreen();
    expect(first).toBeGreaterThan(1_000);
    expect(first).toBeLessThan(7_000);
    await pair.green.query('ALTER TABLE plain DROP CONSTRAINT none');
    expect(await pair.copyParcel(parcel.id)).toMatchObject({ outcome: 'copied', rows: 20_000 });
    expect(await pair.copyParcel(parcel.id)).toMatchObject({ outcome: 'copied', rows: 20_000 });
    expect(await onGreen()).toBe(20_000);
  } finally {
    await pair.stop();
  }
});

it('a row that a CHECK refuses by a function may be right: it is copied again when the tables that this reads are there', async () => {
  const ddl = `
    CREATE TABLE currencies (code text PRIMARY KEY);
    CREATE FUNCTION is_currency(text) RETURNS boolean LANGUAGE sql AS 'SELECT EXISTS (SELECT FROM public.currencies WHERE code = $1)';
    CREATE DOMAIN currency AS text CHECK (is_currency(VALUE));
    CREATE TABLE orders (id int PRIMARY KEY, currency text CHECK (is_currency(currency)));
    CREATE TABLE prices (id int PRIMARY KEY, currency currency);
    CREATE TABLE positive (id int PRIMARY KEY);`;
  const pair = await CopyPair.start(
    ['pg15', 'pg18'],
    'copy_lookup',
    ddl,
    `INSERT INTO currencies VALUES ('EUR'); INSERT INTO prices VALUES (1, 'EUR'); INSERT INTO positive VALUES (-1);
     INSERT INTO orders SELECT n, 'EUR' FROM generate_series(1, 5000) n`,
  );
  const databases = { blue: pair.blueDatabase, green: pair.greenDatabase };
  const refused = async (name: string): Promise<string | undefined> =>
    (await refusedRow(databases, { schema: 'public', name }, new AbortController().signal))?.message;
  const byFunction = /"id" = 1: .*23514[^]*no row is to blame, and it is enough to resume/;
  try {
    const [parcel] = await pair.planCopy();
    expect(await refused('orders')).toMatch(byFunction);
    expect(await refused('prices')).toMatch(byFunction);
    await pair.green.query('ALTER TABLE positive ADD CONSTRAINT none CHECK (id > 0)');
    expect(await refused('positive')).toMatch(/"id" = -1: .*23514[^]*Next step: correct the row/);
    await pair.green.query('ALTER TABLE positive DROP CONSTRAINT none');
    pair.hold();
    await pair.phase('ready');
    // The largest table comes first; the others of the parcel are copied all the same.
    await expect(pair.copyParcel(parcel?.id ?? 0)).rejects.toThrow(byFunction);
    expect(await refused('orders')).toBeUndefined();
    expect(await pair.copyParcel(parcel?.id ?? 0)).toMatchObject({ outcome: 'copied', rows: 5_003 });
  } finally {
    await pair.stop();
  }
});

describe('a copy is followed', () => {
  const TABLE = `CREATE TABLE plain (id int, t text, at timestamptz, b boolean);`;
  const FILL = `INSERT INTO plain SELECT n, 't' || n, now(), true FROM generate_series(1, 100) n; ALTER TABLE plain ADD PRIMARY KEY (id);`;
  const ODD = `CREATE TYPE mood AS ENUM ('good'); CREATE TABLE plain (id int, m mood);`;
  const FILL_ODD = `INSERT INTO plain SELECT n, 'good' FROM generate_series(1, 100) n; ALTER TABLE plain ADD PRIMARY KEY (id);`;
  const RAW = [{ sql: { name: 'raw', up: 'ALTER TABLE plain ALTER id TYPE bigint', down: 'SELECT 1' } }];
  it.each([
    ['in binary form where all types allow it', TABLE, FILL, [], true, false],
    ['as text where a type has another number in each database', ODD, FILL_ODD, [], false, false],
    ['as text where raw SQL of the plan may change a type', TABLE, FILL, RAW, false, false],
    ["as text where somebody's DDL was noticed before", TABLE, FILL, [], false, true],
  ] as const)('%s', async (_name, ddl, rows, migrations, binary, noticed) => {
    const pair = await CopyPair.start(['pg15', 'pg18'], 'copy_binary', ddl, rows, [...migrations]);
    try {
      const parcels = await pair.planCopy();
      const holder = pair.hold();
      await pair.phase('ready');
      await pair.copyAll(parcels);
      await pair.finish();
      holder.stop();
      await holder.ended;
      await pair.addKeys('ALTER TABLE plain ADD PRIMARY KEY (id)');
      if (noticed) await sendAsText({ blue: pair.ourBlue, green: pair.ourGreen }, pair.run, 1);
      await pair.follow();
      await pair.blue.query('UPDATE plain SET id = id + 1000 WHERE id <= 10; DELETE FROM plain WHERE id = 11');
      await pair.caughtUp();
      expect(await pair.differences()).toEqual([]);
      const { rows: found } = await pair.green.query<{ subbinary: boolean }>(
        'SELECT subbinary FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())',
      );
      expect(found).toEqual([{ subbinary: binary }]);
    } finally {
      await pair.stop();
    }
  });
});

describe('a plan that green refuses', () => {
  it('is refused before the copy is planned, with all of its mistakes; green is as it was', async () => {
    const pair = await CopyPair.start(
      ['pg15', 'pg18'],
      'copy_refused',
      'CREATE TABLE docs (id int, body text); CREATE TABLE users (id int, code int); CREATE TABLE more (id int)',
      'ALTER TABLE docs ADD PRIMARY KEY (id); ALTER TABLE users ADD PRIMARY KEY (id); ALTER TABLE more ADD PRIMARY KEY (id)',
      [
        { addColumn: { table: 'more', column: 'size', type: 'integr' } },
        { addColumn: { table: 'users', column: 'name', type: 'text', up: 'nosuchfunc(id)' } },
        { createIndex: { table: 'docs', name: 'docs_body', columns: ['body'], method: 'gin' } },
        {
          addConstraint: {
            table: 'docs',
            name: 'docs_user',
            foreignKey: { columns: ['id'], references: { table: 'users', columns: ['code'] } },
          },
        },
        // The key is blue's, and comes to green behind the rows.
        {
          addConstraint: {
            table: 'docs',
            name: 'docs_right',
            foreignKey: { columns: ['id'], references: { table: 'users', columns: ['id'] } },
          },
        },
      ],
    );
    try {
      const error: unknown = await pair.planCopy().catch((e: unknown) => e);
      expect(error).toMatchObject({ type: 'MigrationStepFailed', retryable: false });
      expect(String(error)).toMatch(
        /columns of table public\.more: .*42704.*column "name".*42883.*index "docs_body".*42704.*"docs_user".*42830/,
      );
      expect(String(error)).not.toContain('docs_right');
      expect(await readCopyState(pair.ourGreen, pair.run.runId)).toBeUndefined();
    } finally {
      await pair.stop();
    }
  });
});

describe('a foreign key of the plan', () => {
  it('waits for the rows of whatever table the copy has left, at any level of it; no other step does', async () => {
    const db = await testDatabase('pg18', 'copy_awaited');
    const session = await openSession(asDatabase(db, 'green'), { purpose: 'test' });
    try {
      await installState(session, 'green');
      await session.query(
        `CREATE TABLE public.users (id int); CREATE TABLE public.orders (id int);
         CREATE TABLE public.part (id int) PARTITION BY RANGE (id);
         CREATE TABLE public.half PARTITION OF public.part DEFAULT PARTITION BY RANGE (id);
         CREATE TABLE public.leaf PARTITION OF public.half DEFAULT`,
      );
      const step = async (table: string, to?: string): Promise<boolean> => {
        const references = { table: to ?? 'users', columns: ['id'] };
        const what = to === undefined ? { check: 'id > 0' } : { foreignKey: { columns: ['id'], references } };
        const { steps } = await workOf([{ addConstraint: { table, name: 'c', ...what } }]);
        if (steps[0] === undefined) throw new Error('no step');
        return awaitsRows(session, 'run', steps[0]);
      };
      expect(await step('users', 'part')).toBe(false);
      await storeCopy(session, 'run', [], {});
      expect(await step('users', 'part')).toBe(false);
      const left = [parseTableName('part')];
      await changeCopyState(session, 'run', (now) => Promise.resolve({ ...now, phase: 'closed', left }), {
        signal: new AbortController().signal,
        report: () => undefined,
      });
      expect(await step('users', 'part')).toBe(true);
      expect(await step('users', 'leaf')).toBe(true);
      expect(await step('half', 'users')).toBe(true);
      expect(await step('users', 'orders')).toBe(false);
      expect(await step('part')).toBe(false);
    } finally {
      await closeSession(session);
      await db.drop();
    }
  });
});

describe('a blue whose answers are not those of green', () => {
  const ROWS = `INSERT INTO docs SELECT n, CASE n % 3 WHEN 0 THEN 'added' WHEN 1 THEN 'STRASSE, ÄÖÜ' ELSE '{"n": 1}' END FROM generate_series(1, 300) n;
                INSERT INTO plain SELECT id, body FROM docs;
                ALTER TABLE docs ADD PRIMARY KEY (id); ALTER TABLE plain ADD PRIMARY KEY (id);`;
  const json = { table: 'plain', column: 'parsed', type: 'jsonb', up: 'verdigris.try_jsonb(body)' };
  it.each([
    ['text search of another version', 'pg15', '', { type: 'tsvector', up: `to_tsvector('english', body)` }, 'added'],
    ['letters by another locale', 'pg18', `LOCALE 'C'`, { type: 'text', up: 'lower(body)' }, 'ÄÖÜ'],
  ] as const)('leaves them to green: %s', async (_name, server, locale, column, body) => {
    const migrations = [{ addColumn: { table: 'docs', column: 'made', ...column } }, { addColumn: json }];
    const pair = await CopyPair.start(
      [server, 'pg18'],
      'copy_answers',
      'CREATE TABLE docs (id int, body text); CREATE TABLE plain (id int, body text);',
      ROWS,
      migrations,
      {},
      { blue: locale, green: locale === '' ? '' : `LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'` },
    );
    try {
      const answer = `SELECT (${column.up})::text AS value FROM (SELECT body FROM docs WHERE body LIKE '%${body}%' LIMIT 1) d`;
      const parcels = await pair.planCopy();
      // What is the same everywhere is computed by blue all the same.
      const state = await readCopyState(pair.ourGreen, pair.run.runId);
      expect(Object.keys(state?.computed ?? {})).toEqual(['public.plain']);
      const holder = pair.hold();
      await pair.phase('ready');
      await pair.copyAll(parcels);
      await pair.finish();
      holder.stop();
      await holder.ended;
      await pair.addKeys('ALTER TABLE docs ADD PRIMARY KEY (id); ALTER TABLE plain ADD PRIMARY KEY (id)');
      await pair.follow();
      await pair.caughtUp();
      const [onBlue, onGreen] = [await pair.blue.query(answer), await pair.green.query(answer)];
      expect(onBlue.rows).not.toEqual(onGreen.rows);
      const verification = await verifyTables({
        source: pair.blueDatabase,
        target: pair.greenDatabase,
        direction: 'to_green',
        signal: new AbortController().signal,
        runId: pair.run.runId,
        pass: 'one',
        tables: ['docs', 'plain'].map(parseTableName),
        work: await workOf(migrations),
        rest: 0,
        onProgress: () => undefined,
      });
      expect(verification).toMatchObject({ differingRows: 0, rowsVerified: 600, notCompared: [] });
    } finally {
      await pair.stop();
    }
  });
});

describe('new columns of domains', () => {
  const DOMAINS = `
    CREATE DOMAIN word AS varchar(4) CHECK (VALUE <> 'bad');
    CREATE DOMAIN code AS word;
    CREATE DOMAIN price AS numeric(5,1);
    CREATE DOMAIN level AS int DEFAULT 5;
    CREATE TABLE coded (id int, body text);
    CREATE TABLE many (id int, body text);
    CREATE TABLE leveled (id int, body text);`;
  const add = (table: string, column: string, type: string, up?: string): object => ({
    addColumn: { table, column, type, ...(up === undefined ? {} : { up }) },
  });
  const migrations = [
    add('coded', 'code', 'code', 'body'),
    add('coded', 'price', 'price', 'length(body) / 3.0'),
    add('many', 'codes', 'code[]', 'ARRAY[body]'),
    add('leveled', 'level', 'level'),
    add('leveled', 'next', 'int', 'level + 1'),
  ] as never;

  it.each(['coded', 'many'])('are not cut to their length by the copy: %s', async (table) => {
    const rows = `INSERT INTO ${table} VALUES (1, 'abc'), (2, NULL), (3, 'abcde'); ALTER TABLE ${table} ADD PRIMARY KEY (id)`;
    const pair = await CopyPair.start(['pg18', 'pg18'], 'copy_domains', DOMAINS, rows, migrations);
    try {
      const parcels = await pair.planCopy();
      pair.hold();
      await pair.phase('ready');
      await expect(pair.copyAll(parcels)).rejects.toMatchObject({
        type: 'BackfillFailed',
        message: expect.stringContaining(
          `the copy of table public.${table} failed on the row with "id" = 3: value too long for type character varying(4)`,
        ) as string,
      });
    } finally {
      await pair.stop();
    }
  });

  it("have the values that green gives them; where a cast would cut within a value, or a default is a domain's, green computes", async () => {
    const rows = `INSERT INTO coded VALUES (1, 'abc'), (2, NULL), (3, 'abc   '); INSERT INTO many VALUES (1, 'abc'); INSERT INTO leveled VALUES (1, 'x')`;
    const pair = await CopyPair.start(['pg18', 'pg18'], 'copy_domains', DOMAINS, rows, migrations);
    try {
      const parcels = await pair.planCopy();
      const state = await readCopyState(pair.ourGreen, pair.run.runId);
      expect(Object.keys(state?.computed ?? {})).toEqual(['public.coded']);
      expect(state?.computed['public.coded']?.columns.computed).toMatchObject([
        { column: 'code', type: 'character varying', domain: expect.stringMatching(/^(public\.)?code$/) as string },
        { column: 'price', type: expect.stringMatching(/^(public\.)?price$/) as string },
      ]);
      pair.hold();
      await pair.phase('ready');
      await pair.copyAll(parcels);
      const read = async (sql: string): Promise<unknown> => (await pair.green.query(sql)).rows;
      expect(await read('SELECT code, price::text FROM coded ORDER BY id')).toEqual([
        { code: 'abc', price: '1.0' },
        { code: null, price: null },
        { code: 'abc ', price: '2.0' },
      ]);
      expect(await read('SELECT codes::text FROM many')).toEqual([{ codes: '{abc}' }]);
      expect(await read('SELECT level, next FROM leveled')).toEqual([{ level: 5, next: 6 }]);
    } finally {
      await pair.stop();
    }
  });
});

describe('partitions whose rows green may have in other ones', () => {
  it('are copied through their parent: by hash over an enum, and by text where the servers are no twins', async () => {
    // By the OIDs of labels most rows are elsewhere on green.
    const ddl = `
      DO $$ BEGIN IF current_setting('server_version_num')::int >= 180000 THEN
        CREATE TYPE other AS ENUM ('a', 'b', 'c'); END IF; END $$;
      CREATE TYPE mood AS ENUM ('m0', 'm1', 'm2', 'm3', 'm4', 'm5', 'm6', 'm7', 'm8', 'm9');
      CREATE TABLE by_mood (id int, mood mood) PARTITION BY HASH (mood);
      CREATE TABLE by_mood_0 PARTITION OF by_mood FOR VALUES WITH (MODULUS 2, REMAINDER 0);
      CREATE TABLE by_mood_1 PARTITION OF by_mood FOR VALUES WITH (MODULUS 2, REMAINDER 1) PARTITION BY RANGE (id);
      CREATE TABLE by_mood_1_all PARTITION OF by_mood_1 DEFAULT;
      CREATE TABLE by_text (id int, t text) PARTITION BY RANGE (t);
      CREATE TABLE by_text_all PARTITION OF by_text DEFAULT;
      CREATE TABLE by_bytes (id int, t text) PARTITION BY RANGE (t COLLATE "C");
      CREATE TABLE by_bytes_all PARTITION OF by_bytes DEFAULT;
      CREATE TABLE by_number (id int) PARTITION BY HASH (id);
      CREATE TABLE by_number_all PARTITION OF by_number FOR VALUES WITH (MODULUS 1, REMAINDER 0)`;
    const rows = `
      INSERT INTO by_mood SELECT n, ('m' || n % 10)::mood FROM generate_series(1, 1000) n;
      INSERT INTO by_text VALUES (1, 'x'); INSERT INTO by_bytes VALUES (1, 'x'); INSERT INTO by_number VALUES (1)`;
    const pair = await CopyPair.start(['pg15', 'pg18'], 'elsewhere', ddl, rows);
    try {
      const parcels = await pair.planCopy();
      const targets = parcels.flatMap(({ pieces }) =>
        pieces.map(({ source, target }) => `${source.name} ${target.name}`),
      );
      expect([...new Set(targets)].sort()).toEqual([
        'by_bytes_all by_bytes_all',
        'by_mood_0 by_mood',
        'by_mood_1_all by_mood',
        'by_number_all by_number_all',
        'by_text_all by_text',
      ]);
      pair.hold();
      await pair.phase('ready');
      await pair.copyAll(parcels);
      expect(await pair.finish()).toMatchObject({ left: [] });
      const { rows: sums } = await pair.green.query('SELECT count(*)::int AS n FROM by_mood');
      expect(sums).toEqual([{ n: 1000 }]);
    } finally {
      await pair.stop();
    }
  });
});

describe('partitions that blue gets after the parcels were cut', () => {
  it('are copied with the others where the snapshots have them, and come by the feed where they have not', async () => {
    const ddl = `
      CREATE TABLE by_day (id int, day int) PARTITION BY RANGE (day);
      CREATE TABLE by_day_1 PARTITION OF by_day FOR VALUES FROM (1) TO (2);
      CREATE TABLE unborn (id int) PARTITION BY RANGE (id);`;
    const keys = 'ALTER TABLE by_day ADD PRIMARY KEY (id, day); ALTER TABLE unborn ADD PRIMARY KEY (id);';
    const rows = `INSERT INTO by_day SELECT n, 1 FROM generate_series(1, 100) n; ${keys}`;
    const pair = await CopyPair.start(['pg15', 'pg18'], 'new_leaves', ddl, rows, [], { replicate: { streams: 2 } });
    const day = async (n: number): Promise<void> => {
      const sql = `CREATE TABLE by_day_${n} PARTITION OF by_day FOR VALUES FROM (${n}) TO (${n + 1})`;
      await pair.green.query(sql);
      await pair.blue.query(`${sql}; INSERT INTO by_day VALUES (1, ${n}), (2, ${n})`);
    };
    try {
      const parcels = await pair.planCopy();
      await day(2);
      const unborn = 'CREATE TABLE unborn_1 PARTITION OF unborn FOR VALUES FROM (1) TO (9)';
      await pair.green.query(unborn);
      await pair.blue.query(`${unborn}; INSERT INTO unborn VALUES (1)`);
      const first = pair.hold();
      await pair.phase('ready');
      await day(3);
      const state = await readCopyState(pair.ourGreen, pair.run.runId);
      const found = await parcelsOfNewLeaves(pair.context(), pair.ourBlue, pair.ourGreen, state?.snapshots ?? {});
      expect(found, 'what the snapshots have not').toEqual([]);
      first.stop();
      await first.ended;
      // Nothing is copied yet, so the snapshots are made anew. Meanwhile the parcels are waiting.
      const copying = pair.copyAll(parcels);
      pair.hold();
      expect(await copying).toEqual([expect.objectContaining({ outcome: 'copied', rows: 104 })]);
      await day(4);
      // In a stream of which nothing was to be copied.
      expect(await pair.finish()).toEqual({ tables: 1, left: ['public.unborn'] });
      await pair.addKeys(keys);
      await pair.follow();
      await pair.caughtUp();
      expect(await pair.differences()).toEqual([]);
    } finally {
      await pair.stop();
    }
  });
});

describe('DDL on blue while rows are copied', () => {
  it('leaves the tables that are others now to tablesync, and those that are gone nowhere; all others are copied', async () => {
    const ddl = `
      CREATE TABLE by_day (id int, day int) PARTITION BY RANGE (day);
      CREATE TABLE by_day_1 PARTITION OF by_day FOR VALUES FROM (1) TO (2);
      CREATE TABLE by_day_2 PARTITION OF by_day FOR VALUES FROM (2) TO (3);
      CREATE TABLE dropped (id int); CREATE TABLE altered (id int, a int); CREATE TABLE altered_and_dropped (id int, a int);
      CREATE TABLE fine (id int); CREATE TABLE renamed (id int);`;
    const keys = `
      ALTER TABLE by_day ADD PRIMARY KEY (id, day); ALTER TABLE altered ADD PRIMARY KEY (id); ALTER TABLE fine ADD PRIMARY KEY (id)`;
    const rows = `
      INSERT INTO by_day SELECT n, 1 + n % 2 FROM generate_series(1, 100) n;
      INSERT INTO dropped VALUES (1); INSERT INTO altered VALUES (1, 1); INSERT INTO altered_and_dropped VALUES (1, 1);
      INSERT INTO fine VALUES (1); INSERT INTO renamed VALUES (1); ALTER TABLE renamed ADD PRIMARY KEY (id);
      ALTER TABLE dropped ADD PRIMARY KEY (id); ALTER TABLE altered_and_dropped ADD PRIMARY KEY (id);
      ${keys}`;
    const pair = await CopyPair.start(['pg15', 'pg18'], 'ddl_of_others', ddl, rows);
    const onBoth = async (sql: string): Promise<void> => {
      await pair.blue.query(sql);
      await pair.green.query(sql);
    };
    try {
      const parcels = await pair.planCopy();
      pair.hold();
      await pair.phase('ready');
      await onBoth('DROP TABLE by_day_2, dropped');
      const alter = 'ALTER TABLE altered DROP COLUMN a; ALTER TABLE altered_and_dropped DROP COLUMN a';
      await pair.blue.query(alter);
      // Neither its name nor its file tells that it is there.
      await pair.blue.query('VACUUM FULL renamed');
      await pair.blue.query('ALTER TABLE renamed RENAME TO is_renamed');
      expect((await pair.copyAll(parcels)).map(({ outcome }) => outcome)).toEqual(parcels.map(() => 'copied'));
      await pair.green.query(`${alter}; ALTER TABLE renamed ADD PRIMARY KEY (id)`);
      const left = ['public.altered', 'public.altered_and_dropped', 'public.renamed'];
      expect(await pair.finish()).toEqual({ tables: 3, left });
      await pair.blue.query('ALTER TABLE is_renamed RENAME TO renamed');
      await onBoth('DROP TABLE altered_and_dropped');
      await pair.addKeys(keys);
      await pair.follow();
      await pair.caughtUp();
      expect(await pair.differences()).toEqual([]);
    } finally {
      await pair.stop();
    }
  });
});
