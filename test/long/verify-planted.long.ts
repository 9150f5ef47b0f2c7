import type pg from 'pg';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { compareRows } from '../../src/postgres/verify/compare-rows.js';
import { inBuckets } from '../../src/postgres/verify/cut-table.js';
import { describeKey } from '../../src/postgres/migrate/key-range.js';
import { SideSessions } from '../../src/postgres/verify/side-sessions.js';
import { readTablePairs } from '../../src/postgres/verify/table-pairs.js';
import type { Progress } from '../../src/postgres/migrate/step-context.js';
import type { Verification } from '../../src/postgres/verify/verify-tables.js';
import { ReplicatedPair, workOf } from '../postgres/replicated-pair.js';
import { testedVersion } from '../support/tested-version.js';

/*
 * Values that `=` or a type's own hash takes for the same, and that are not. Each is planted in one row of many, in one
 * column, and must be found there: in that row, in that column, and nowhere else.
 */

const ROWS = 2_000;

/** Column type, value on blue, value on green. */
const PLANTED: readonly (readonly [name: string, type: string, blue: string, green: string])[] = [
  ['one bit of a bigint', 'bigint', '81985529216486895', '81985529216486894'],
  ['a bigint whose halves fold to the same', 'bigint', '0', '4294967297'],
  ['zero and minus one', 'integer', '0', '-1'],
  ['NULL and zero', 'smallint', 'NULL', '0'],
  ['the scale of a numeric', 'numeric', '1.0', '1.00'],
  ['the sign of a numeric', 'numeric(12,2)', '5.25', '-5.25'],
  ['NaN and infinity', 'numeric', `'NaN'`, `'Infinity'`],
  ['minus zero', 'double precision', `'0'`, `'-0'`],
  ['minus zero, single', 'real', `'0'`, `'-0'`],
  ['the last bit of a double', 'double precision', '0.1', '0.10000000000000002'],
  ['NULL and the empty string', 'text', 'NULL', `''`],
  ['the case of a letter', 'text COLLATE ignores_case', `'Straße'`, `'straße'`],
  ['one letter in a long text', 'text', `repeat('x', 5000) || 'a'`, `repeat('x', 5000) || 'b'`],
  ['trailing spaces', 'varchar(20)', `'a'`, `'a '`],
  ['composed and decomposed letters', 'text COLLATE ignores_case', `U&'\\00e9'`, `U&'e\\0301'`],
  ['trailing spaces of bpchar', 'bpchar', `'a'`, `'a '`],
  ['the scale of a number in jsonb', 'jsonb', `'{"a": 1.0}'`, `'{"a": 1.00}'`],
  ['spaces in json', 'json', `'{"a":1}'`, `'{"a": 1}'`],
  ['a microsecond', 'timestamptz', `'2024-02-29 12:00:00.000001+00'`, `'2024-02-29 12:00:00.000002+00'`],
  ['timestamps that fold to the same', 'timestamp', `'2000-01-01'`, `'2000-01-01 01:11:34.967297'`],
  ['the zone of a time', 'timetz', `'12:00+00'`, `'13:00+01'`],
  ['a month and thirty days', 'interval', `'1 mon'`, `'30 days'`],
  ['one bit of bytea', 'bytea', `'\\x00ff'`, `'\\x00fe'`],
  ['NULL in an array', 'text[]', `ARRAY['a', NULL]`, `ARRAY['a', 'NULL']`],
  ['the bounds of an array', 'int[]', `'{1,2}'`, `'[0:1]={1,2}'`],
  ['the mask of an address', 'inet', `'10.0.0.1'`, `'10.0.0.1/24'`],
  ['a label of an enum', 'mood', `'calm'`, `'wild'`],
  ['a bit string', 'varbit', `B'0'`, `B'00'`],
  ['a domain', 'price', '1.0', '1.00'],
  ['a composite', 'spot', 'ROW(1, NULL::text)::spot', `ROW(1, '')::spot`],
  ['false and NULL', 'boolean', 'false', 'NULL'],
];

const column = (i: number): string => `c${i}`;

const DDL = `
  CREATE TYPE mood AS ENUM ('wild', 'calm');
  CREATE DOMAIN price AS numeric;
  CREATE TYPE spot AS (n int, label text);
  CREATE COLLATION ignores_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
  CREATE TABLE planted (id bigint PRIMARY KEY, same text, ${PLANTED.map(([, type], i) => `${column(i)} ${type}`).join(', ')});
  CREATE TABLE swapped (id uuid PRIMARY KEY, a numeric, b numeric);
  CREATE TABLE wide (id int PRIMARY KEY, ${Array.from({ length: 1000 }, (_, i) => `w${i} ${['int', 'text', 'numeric', 'bool'][i % 4] ?? ''}`).join(', ')});
  CREATE TABLE late (at timestamptz, amount numeric, who uuid, note text, PRIMARY KEY (amount, at, who));
  CREATE TABLE moods (n mood, t text COLLATE ignores_case, id int, PRIMARY KEY (n, t, id));
  CREATE TABLE taken_names ("rows" int, total int, parts int, hash int, note text, PRIMARY KEY ("rows", total, parts, hash));
  CREATE TABLE other_parts (id int, region text, body text, PRIMARY KEY (id, region)) PARTITION BY HASH (id);`;

const PARTS = `
  CREATE TABLE other_parts_0 PARTITION OF other_parts FOR VALUES WITH (MODULUS 2, REMAINDER 0);
  CREATE TABLE other_parts_1 PARTITION OF other_parts FOR VALUES WITH (MODULUS 2, REMAINDER 1);`;
const OTHER_PARTS = `
  CREATE TABLE other_parts_a PARTITION OF other_parts FOR VALUES WITH (MODULUS 3, REMAINDER 0);
  CREATE TABLE other_parts_b PARTITION OF other_parts FOR VALUES WITH (MODULUS 3, REMAINDER 1);
  CREATE TABLE other_parts_c PARTITION OF other_parts FOR VALUES WITH (MODULUS 3, REMAINDER 2);`;

const FILL = `
  INSERT INTO planted (id, same, ${PLANTED.map((_, i) => column(i)).join(', ')})
    SELECT n, 's' || n, ${PLANTED.map(([, , blue]) => blue).join(', ')} FROM generate_series(1, ${ROWS}) n;
  INSERT INTO swapped SELECT lpad(n::text, 32, '0')::uuid, n, n / 4.0 FROM generate_series(1, ${ROWS}) n;
  INSERT INTO wide (id, w0, w1, w998) SELECT n, n, 'w' || n, n / 7.0 FROM generate_series(1, 50) n;
  INSERT INTO late SELECT timestamptz '2024-01-01' + n * interval '1 s', n % 50 / 4.0, gen_random_uuid(), 'n' || n FROM generate_series(1, ${ROWS}) n;
  INSERT INTO moods SELECT (ARRAY['calm', 'wild'])[1 + n % 2]::mood, chr(97 + n % 26) || 'x', n FROM generate_series(1, ${ROWS}) n;
  INSERT INTO taken_names SELECT n, n % 7, n % 5, n % 3, 'n' || n FROM generate_series(1, ${ROWS}) n;
  INSERT INTO other_parts SELECT n, 'r' || n % 3, 'b' || n FROM generate_series(1, ${ROWS}) n;`;

describe('generated columns', () => {
  const GENERATED = `
    CREATE FUNCTION made(n int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 * 2';
    CREATE TABLE generated (id int PRIMARY KEY, n int, note text, twice int GENERATED ALWAYS AS (made(n)) STORED,
                            long int GENERATED ALWAYS AS (length(note)) STORED, kept int GENERATED ALWAYS AS (n + 1) STORED);`;
  const ONLY_GREEN = `
    CREATE OR REPLACE FUNCTION made(n int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT CASE $1 WHEN 7 THEN 0 ELSE $1 * 2 END';
    ALTER TABLE generated ALTER kept DROP EXPRESSION; UPDATE generated SET kept = 0;
    ALTER TABLE generated ADD COLUMN later int GENERATED ALWAYS AS (n) VIRTUAL;`;

  it('are compared where both sides generate them, and named where they may rightly differ', async () => {
    const only = { blue: '', green: ONLY_GREEN };
    const fill = 'INSERT INTO generated SELECT n, n FROM generate_series(1, 300) n';
    const pair = await ReplicatedPair.start('pg18', 'generated', GENERATED, fill, only);
    try {
      const verify = async (pass: string, migrations: readonly object[]): Promise<Verification> =>
        pair.verify({ pass, tables: ['generated'], work: await workOf(migrations) });
      const difference = { table: 'public.generated', key: '"id" = 7', kind: 'different', columns: ['twice'] };
      expect(await verify('plain', [])).toMatchObject({
        differing: [difference],
        notCompared: ['public.generated.kept'],
      });
      await pair.green.query(`SET session_replication_role = replica; UPDATE generated SET note = 'none'`);
      const filled = await verify('filled', [{ setNotNull: { table: 'generated', column: 'note', up: `'none'` } }]);
      expect(filled).toMatchObject({
        differing: [difference],
        notCompared: ['public.generated.long', 'public.generated.kept'],
      });
      await pair.green
        .query(`ALTER TABLE generated DROP COLUMN twice, ADD COLUMN twice int GENERATED ALWAYS AS (n * 3) STORED;
                              UPDATE generated SET note = NULL`);
      const bySql = await verify('sql', [{ sql: { name: 'other', up: 'SELECT 1', down: 'SELECT 1' } }]);
      expect(bySql).toMatchObject({
        differingRows: 0,
        notCompared: ['public.generated.twice', 'public.generated.kept'],
      });
      expect((await verify('no sql', [])).differing).toContainEqual({ ...difference, key: '"id" = 8' });
    } finally {
      await pair.stop();
    }
  });
});

describe('what two versions may rightly compute differently', () => {
  const DDL = `
    CREATE FUNCTION loud(note text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT upper($1)';
    CREATE TABLE docs (id int PRIMARY KEY, n int, note text,
      ts tsvector GENERATED ALWAYS AS (to_tsvector('english', note)) STORED, shout text GENERATED ALWAYS AS (loud(note)) STORED,
      next int GENERATED ALWAYS AS (n + 1) STORED, label text GENERATED ALWAYS AS (coalesce(note, 'none') || '!') STORED);
    CREATE TABLE keyed (id int, low text GENERATED ALWAYS AS (lower('K' || id::text)) STORED, note text, hint text, PRIMARY KEY (low));`;
  const FILL = `INSERT INTO docs (id, n, note) SELECT n, n, 'added ' || n FROM generate_series(1, 300) n;
                INSERT INTO keyed (id, note) SELECT n, 'added' FROM generate_series(1, 300) n`;
  const MIGRATIONS = [{ setNotNull: { table: 'keyed', column: 'hint', up: `to_tsvector('english', note)::text` } }];

  it('is named and not compared, and planted differences in what they compute alike are found', async () => {
    const pair = await ReplicatedPair.start('pg15', 'rightly', DDL, FILL);
    try {
      const verify = async (pass: string): Promise<Verification> =>
        pair.verify({ pass, tables: ['docs', 'keyed'], work: await workOf(MIGRATIONS) });
      const sql = 'SELECT count(DISTINCT ts)::int AS n, min(ts::text) AS ts FROM docs';
      expect((await pair.blue.query(sql)).rows).not.toEqual((await pair.green.query(sql)).rows);
      await pair.green.query(`SET session_replication_role = replica;
                              UPDATE keyed SET hint = to_tsvector('english', note)::text`);
      const notCompared = ['public.docs.ts', 'public.docs.shout', 'public.keyed.hint'];
      expect(await verify('as it is')).toMatchObject({
        differingRows: 0,
        rowsVerified: 600,
        notCompared: expect.arrayContaining(notCompared) as string[],
      });
      await pair.green.query(`
        ALTER TABLE docs DROP COLUMN next, DROP COLUMN label;
        ALTER TABLE docs ADD COLUMN next int GENERATED ALWAYS AS (CASE id WHEN 7 THEN 0 ELSE n + 1 END) STORED,
          ADD COLUMN label text GENERATED ALWAYS AS (CASE id WHEN 8 THEN '' ELSE coalesce(note, 'none') || '!' END) STORED;
        UPDATE keyed SET note = '' WHERE low = 'k9'`);
      const { differing } = await verify('planted');
      expect([...differing].sort((a, b) => (a.key < b.key ? -1 : 1))).toEqual([
        { table: 'public.docs', key: '"id" = 7', kind: 'different', columns: ['next'] },
        { table: 'public.docs', key: '"id" = 8', kind: 'different', columns: ['label'] },
        { table: 'public.keyed', key: '"low" = k9', kind: 'different', columns: ['note'] },
      ]);
    } finally {
      await pair.stop();
    }
  });
});

it('a table that is cut by a hash is passed over once for 4 million rows, and no more than 25 times', () => {
  const passes = [0, 4e6, 4e6 + 1, 1e8, 1e10].map((rows) => inBuckets(rows));
  expect(passes).toMatchObject([1, 1, 2, 25, 25].map((n) => ({ by: 'buckets', passes: n })));
});

describe.each([testedVersion('pg15')])('planted differences, %s to 18', (server) => {
  let pair: ReplicatedPair;
  let passes = 0;

  beforeAll(async () => {
    pair = await ReplicatedPair.start(server, 'planted', DDL, FILL, { blue: PARTS, green: OTHER_PARTS });
  });
  afterAll(() => pair.stop());

  function verify(table: string, bytes = 16 * 1024): Promise<Verification> {
    const work = { tables: [], steps: [] };
    return pair.verify({ pass: `pass ${++passes}`, tables: [table], work, partSize: { rows: 250, bytes } });
  }

  it('every kind of difference is found, in its row and column, in a table cut in parts and in one statement', async () => {
    const kept = async (sql: string): Promise<unknown> =>
      pair.green.query(`SET session_replication_role = replica; ${sql}`);
    expect((await verify('planted')).differingRows).toBe(0);
    await kept(
      PLANTED.map(([, , , green], i) => `UPDATE planted SET ${column(i)} = ${green} WHERE id = ${i * 60 + 7}`).join(
        ';',
      ),
    );
    for (const bytes of [16 * 1024, 2 ** 40]) {
      const found = new Map((await verify('planted', bytes)).differing.map(({ key, columns }) => [key, columns]));
      for (const [i, [name]] of PLANTED.entries()) expect(found.get(`"id" = ${i * 60 + 7}`), name).toEqual([column(i)]);
      expect(found.size).toBe(PLANTED.length);
    }
  });

  it('in a part of so many rows that its buckets are large those that differ are divided again, and few rows are fetched', async () => {
    await pair.green.query(`DELETE FROM planted WHERE id = 3; INSERT INTO planted (id) VALUES (-3)`);
    const { blueDatabase: source, greenDatabase: target } = pair;
    const signal = new AbortController().signal;
    const sessions = await SideSessions.open({ source, target, direction: 'to_green', signal });
    try {
      const [sized] = await readTablePairs(sessions, [{ schema: 'public', name: 'planted' }], {
        tables: [],
        steps: [],
      });
      if (sized === undefined) throw new Error('no such table');
      await sessions.prepare(sized.pair.searchPath, 'all');
      const query = vi.spyOn(sessions.source, 'query');
      const all = { where: 'true', values: [], read: 'all' } as const;
      const limits = { fetchRows: 40, bucketRows: 4, buckets: 16 };
      const found = await compareRows(sessions, sized.pair, all, ROWS, limits);
      expect(found.map(({ key, kind }) => `${kind} ${describeKey(sized.pair.key, key)}`).sort()).toEqual(
        ['missing "id" = 3', 'extra "id" = -3', ...PLANTED.map((_, i) => `different "id" = ${i * 60 + 7}`)].sort(),
      );
      const results = (await Promise.all(query.mock.results.map(({ value }) => value as unknown))) as pg.QueryResult[];
      const fetched = results.filter(({ fields }) => fields?.some(({ name }) => name === 'verdigris_k0'));
      expect(fetched.length).toBeGreaterThan(0);
      expect(Math.max(...fetched.map(({ rowCount }) => rowCount ?? 0))).toBeLessThanOrEqual(limits.fetchRows);
    } finally {
      await sessions.close();
    }
  });

  it('two rows that exchange a value are found, which a sum over columns would not see', async () => {
    const uuid = (n: number): string => `00000000-0000-0000-0000-${String(n).padStart(12, '0')}`;
    // One pair in each part: without the last step of the hash most of the sums would not change.
    const pairs = Array.from({ length: 8 }, (_, part) => 250 * part + 5);
    for (const n of pairs) {
      await pair.green.query(`UPDATE swapped SET b = CASE id WHEN '${uuid(n)}' THEN ${n + 1} / 4.0 ELSE ${n} / 4.0 END
                               WHERE id IN ('${uuid(n)}', '${uuid(n + 1)}')`);
    }
    const found = (await verify('swapped')).differing.map(({ key, columns }) => [key, columns]);
    expect(found).toEqual(pairs.flatMap((n) => [n, n + 1].map((id) => [`"id" = ${uuid(id)}`, ['b']])));
  });

  it('a table of a thousand columns', async () => {
    expect((await verify('wide')).differingRows).toBe(0);
    await pair.green.query('UPDATE wide SET w999 = false WHERE id = 17');
    expect((await verify('wide')).differing).toMatchObject([{ key: '"id" = 17', columns: ['w999'] }]);
  });

  it('keys of numeric, timestamptz, uuid, enum and text, and partitions that are others on green', async () => {
    for (const table of ['late', 'moods', 'other_parts']) {
      expect(await verify(table)).toMatchObject({ differingRows: 0, rowsVerified: ROWS });
    }
    await pair.green.query(`UPDATE late SET note = note || ' ' WHERE note = 'n1234';
                            DELETE FROM moods WHERE id = 333; INSERT INTO moods VALUES ('calm', 'ÿ', -1);
                            UPDATE moods SET t = upper(t) WHERE id = 444;
                            DELETE FROM other_parts WHERE id = 1; UPDATE other_parts SET body = '' WHERE id = ${ROWS}`);
    expect((await verify('late')).differing).toMatchObject([{ kind: 'different', columns: ['note'] }]);
    const moods = (await verify('moods')).differing.map(({ key, kind }) => `${key} ${kind}`);
    expect(moods.filter((line) => line.includes('333'))).toEqual(['"n" = wild, "t" = vx, "id" = 333 missing']);
    expect(moods.filter((line) => line.includes('-1'))).toEqual(['"n" = calm, "t" = ÿ, "id" = -1 extra']);
    expect(moods.filter((line) => line.includes('444')).length).toBeGreaterThan(0);
    expect((await verify('other_parts')).differing.map(({ kind }) => kind).sort()).toEqual(['different', 'missing']);
  });

  it('columns of the key may have any name, those that statements of ours use included', async () => {
    expect(await verify('taken_names')).toMatchObject({ differingRows: 0, rowsVerified: ROWS });
    await pair.green.query(`UPDATE taken_names SET note = '' WHERE "rows" = 1234`);
    const key = '"rows" = 1234, "total" = 2, "parts" = 4, "hash" = 1';
    expect((await verify('taken_names')).differing).toMatchObject([{ key, columns: ['note'] }]);
  });

  it('a table that an earlier version has cut into more buckets is compared in them, and the progress says how many', async () => {
    const pass = 'pass of an earlier version';
    await pair.green.query(`INSERT INTO verdigris.progress (run_id, step, object, state) VALUES ('run', $1, $2, $3)`, [
      `verify ${pass}`,
      'public.late',
      { by: 'buckets', passes: 60, rows: ROWS },
    ]);
    const notes = new Set<string | undefined>();
    const work = { tables: [], steps: [] };
    const onProgress = ({ note }: Progress): unknown => notes.add(note);
    expect(await pair.verify({ pass, tables: ['late'], work, onProgress })).toMatchObject({ rowsVerified: ROWS });
    expect([...notes].every((note) => note?.startsWith('60 passes over it: '))).toBe(true);
    expect(notes.size).toBeGreaterThan(0);
  });

  it('keys that the two servers put in another order are compared in buckets, by a hash of the key', async () => {
    // Green's labels the other way round: what was the first of blue's ranges is green's last.
    await pair.green
      .query(`CREATE TYPE mood2 AS ENUM ('calm', 'wild'); ALTER TABLE moods ALTER n TYPE mood2 USING n::text::mood2;
                            ALTER TYPE mood RENAME TO mood_old; ALTER TYPE mood2 RENAME TO mood;`);
    const { differing } = await verify('moods');
    const cut = await pair.green.query<{ state: { by: string } }>(
      `SELECT state FROM verdigris.progress WHERE object = 'public.moods'`,
    );
    expect(cut.rows[0]?.state).toMatchObject({ by: 'buckets' });
    expect(differing.map(({ key }) => key)).toEqual(expect.arrayContaining(['"n" = wild, "t" = vx, "id" = 333']));
  });
});
