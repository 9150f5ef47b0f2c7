import { readdirSync, readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import pg from 'pg';
import { formatTableName, parseTableName } from '../../src/plan/table-name.js';
import { readTable } from '../../src/postgres/migrate/changed-table.js';
import { expressionTree } from '../../src/postgres/migrate/expression-reads.js';
import { workOfTable } from '../../src/postgres/migrate/plan-work.js';
import { answersBy, isSameEverywhere } from '../../src/postgres/same-answers.js';
import { inTransaction, openSession, type Session } from '../../src/postgres/session.js';
import { installState } from '../../src/postgres/state.js';
import { asDatabase, testDatabase, type TestDatabase } from '../support/postgres.js';
import { workOf } from './replicated-pair.js';
import { testedVersion } from '../support/tested-version.js';

const DDL = `
  SET client_min_messages = warning;
  CREATE TYPE mood AS ENUM ('calm', 'wild');
  CREATE DOMAIN email AS text CHECK (VALUE LIKE '%@%');
  CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
  CREATE EXTENSION citext;
  CREATE FUNCTION loud(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT upper($1)';
  CREATE FUNCTION substr(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1';
  CREATE TABLE t (id int PRIMARY KEY, n numeric(12,2), f float8, a text, b varchar(20), c char(3), e email, m mood, ci citext,
                  lo text COLLATE loose, j json, jb jsonb, d date, ts timestamp, tz timestamptz, i interval, u uuid, bin bytea,
                  texts text[], nums int[], odd text, ":funcid 870 {SUBLINK" text, cash money);
  CREATE TABLE products (id int, price numeric(12,2));
  CREATE TABLE order_items (id int, quantity int);
  CREATE TABLE transactions (id bigint, user_id bigint, amount numeric(12,2), payload varchar(500), status varchar(20), created_at timestamptz);
  CREATE TABLE users (id int, email text);
  CREATE SCHEMA "Back Office";
  CREATE TABLE "Back Office"."Order Items" ("Order No" int, "Net price" numeric, "order" text);`;

const SAME = [
  ...[
    'a',
    'n * 119 / 100',
    '(n * 100)::bigint',
    'id + 1',
    '-n',
    'f / 3',
    'id % 7 = 0',
    'n > 10',
    "d < date '2020-01-01'",
  ],
  ...['a || b', "id || ': ' || n", "coalesce(a, b, 'none')", "nullif(a, '')", "a = 'x' AND b IS NULL OR NOT id <> 3"],
  ...["CASE WHEN id > 3 THEN 'many' ELSE 'few' END", "CASE m WHEN 'calm' THEN 0 ELSE 1 END", "a IN ('x', 'y')"],
  ...[
    'a::jsonb',
    'verdigris.try_jsonb(a)',
    'verdigris.try_jsonb(b)',
    'verdigris.try_jsonb(lo)',
    'id::text',
    'a::int',
    'c::text',
  ],
  ...[
    'f::numeric',
    'round(f::numeric, 2)',
    'm::text',
    'a::mood',
    'u::text',
    'e',
    "e || '!'",
    'a::varchar(10)',
    'md5(id::text)::uuid',
  ],
  ...[
    'substr(a, 2)',
    'substring(a, 1, 2)',
    'left(a, 3)',
    'length(a)',
    'length(c)',
    'concat(a, id, tz)',
    "split_part(a, '@', 2)",
  ],
  ...["replace(a, 'x', 'y')", "lpad(a, 5, '0')", 'btrim(a)', "a LIKE 'x%'", 'starts_with(a, b)', "encode(bin, 'hex')"],
  ...[
    "jsonb_build_object('legacy', true)",
    "jsonb_build_object('a', a, 'at', tz)",
    "jb ->> 'a'",
    "(jb ->> 'n')::int",
    "jb['a']",
  ],
  ...[
    'to_jsonb(a)',
    'j -> 0',
    "jb || '{}'",
    'ARRAY[a, b]',
    'texts || a',
    'nums[1]',
    'array_length(nums, 1)',
    'nums::bigint[]',
  ],
  ...[
    'tz',
    'coalesce(tz, tz)',
    'tz::date',
    'tz > tz',
    "date_trunc('day', ts)",
    'extract(year FROM d)',
    'd + 1',
    'ts::date',
  ],
  ...[
    'greatest(id, n)',
    'id IS DISTINCT FROM 3',
    '(a = b) IS TRUE',
    'a COLLATE "C" = b',
    '":funcid 870 {SUBLINK"',
    'lo',
    "lo || 'x'",
  ],
];

const NOT_KNOWN = [
  ...[
    "to_tsvector('english', a)",
    "to_tsvector('simple', a)",
    'lower(a)',
    "upper(a) || 'x'",
    'initcap(a)',
    'length(lower(a))',
  ],
  ...[
    "ts AT TIME ZONE 'America/Mexico_City'",
    "tz AT TIME ZONE 'Europe/Berlin'",
    "date_trunc('day', tz, 'Asia/Tokyo')",
  ],
  ...["coalesce(tz, '2020-01-01 12:00 America/Mexico_City')", 'a::timestamptz', 'a::date', 'ARRAY[a]::timestamp[]'],
  ...[
    "a < 'x'",
    'greatest(a, b)',
    "a ~ '^[[:alpha:]]'",
    "a ILIKE 'x%'",
    "regexp_replace(a, '\\w', '')",
    "substring(a, 'x(.)')",
  ],
  ...["lo = 'x'", "replace(lo, 'x', 'y')", "lo IN ('x', 'y')", 'ci = a::citext', 'ci::text', 'm < m'],
  ...[
    'loud(a)',
    'public.substr(id)',
    '(SELECT max(x.n) FROM t x)',
    'to_jsonb(t)',
    't::text',
    'i * 2',
    "ts + interval '1 day'",
  ],
  ...[
    'cash::numeric',
    "to_char(tz, 'Day')",
    'exp(n)',
    'n ^ 0.5',
    'sqrt(f)',
    'jb < jb',
    'texts < texts',
    "jsonb_path_query_first(jb, '$.a')",
  ],
];

describe.each([testedVersion('pg15')])('expressions whose value is the same everywhere, %s', (server) => {
  let database: TestDatabase;
  let session: Session;

  beforeAll(async () => {
    database = await testDatabase(server, 'same_answers');
    session = await openSession(asDatabase(database, 'green'), { purpose: 'test' });
    await installState(session, 'green');
    const application = new pg.Client(database.config);
    await application.connect();
    await application.query(DDL);
    await application.end();
  });

  afterAll(async () => {
    await session.end();
    await database.drop();
  });

  /** Those of the expressions that are the same everywhere. */
  async function sameOf(table: string, expressions: readonly string[]): Promise<string[]> {
    const { info, searchPath } = await readTable(session, parseTableName(table));
    return inTransaction(session, async () => {
      await session.query(`SELECT set_config('search_path', $1, true)`, [searchPath]);
      const same: string[] = [];
      for (const expression of expressions) {
        const tree = await expressionTree(session, info, expression);
        if (await isSameEverywhere(session, tree)) same.push(expression);
      }
      return same;
    });
  }

  it('are told by their parts, as PostgreSQL resolves them', async () => {
    expect(await sameOf('t', [...SAME, ...NOT_KNOWN])).toEqual(SAME);
  });

  it("are those of all the examples' plans", async () => {
    const examples = new URL('../../examples/', import.meta.url);
    let count = 0;
    for (const file of readdirSync(examples).filter((name) => name.endsWith('.json'))) {
      const plan = JSON.parse(readFileSync(new URL(file, examples), 'utf8')) as { migrations?: object[] };
      const work = await workOf(plan.migrations ?? []);
      for (const { table } of work.tables) {
        const ups = workOfTable(work, table)?.derived.flatMap(({ up }) => up ?? []) ?? [];
        count += ups.length;
        expect(await sameOf(formatTableName(table), ups), file).toEqual(ups);
      }
    }
    expect(count).toBeGreaterThan(7);
  });
});

describe('servers that give the same answers', () => {
  it('are of one major version, with the same encoding and locale', async () => {
    const kinds: string[] = [];
    for (const [server, options] of [
      ['pg15', ''],
      ['pg15', ''],
      ['pg15', `LOCALE 'C' ENCODING 'LATIN1'`],
      ['pg15', `LOCALE_PROVIDER icu ICU_LOCALE 'tr'`],
      ['pg15', `LOCALE_PROVIDER icu ICU_LOCALE 'de'`],
      ['pg18', `LOCALE_PROVIDER icu ICU_LOCALE 'tr'`],
      ['pg18', `LOCALE_PROVIDER icu ICU_LOCALE 'de'`],
    ] as const) {
      const database = await testDatabase(server, 'answers_by', options);
      const session = await openSession(asDatabase(database, 'blue'), { purpose: 'test' });
      kinds.push(await answersBy(session));
      await session.end();
      await database.drop();
    }
    expect(kinds[0]).toBe(kinds[1]);
    expect(new Set(kinds).size).toBe(kinds.length - 1);
  });

  it('those that sort columns by another version of a library are no twins', async () => {
    const database = await testDatabase('pg18', 'answers_columns');
    const session = await openSession(asDatabase(database, 'blue'), { purpose: 'test' });
    try {
      const kinds: string[] = [];
      for (const sql of [
        'CREATE TABLE public.plain (t text, c text COLLATE "C")',
        'CREATE TABLE public.sorted (t text COLLATE "de-x-icu")',
        'CREATE TABLE public.more (t text COLLATE "de-x-icu")',
        `CREATE FUNCTION public.pg_collation_actual_version(oid) RETURNS text LANGUAGE sql AS $$ SELECT '1' $$;
         SET search_path = public, pg_catalog`,
      ]) {
        await session.query(sql);
        kinds.push(await answersBy(session));
      }
      expect(kinds[2]).toBe(kinds[1]);
      expect(kinds[3]).not.toBe(kinds[2]);
    } finally {
      await session.end();
      await database.drop();
    }
  });
});
