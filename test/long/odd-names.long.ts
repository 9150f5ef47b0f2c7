import { afterEach, describe, expect, it } from 'vitest';
import { Migration, rowsOf, until } from '../support/migration.js';
import { withClient } from '../support/postgres.js';
import type { MigrationReport } from '../../workflows/lib/report.js';

const open: Migration[] = [];

afterEach(async () => {
  for (const item of open.splice(0).reverse()) await item.close();
});

const LONG = 'a_name_that_is_sixty_three_bytes_long_so_that_suffixes_are_cut_';

/** Names and shapes that break tools which build SQL carelessly. */
const SCHEMA = `
  CREATE SCHEMA "Sales Dept";
  CREATE SCHEMA empty_one;
  CREATE TYPE "Sales Dept"."Order Status" AS ENUM ('new', 'it''s paid');
  CREATE DOMAIN "Sales Dept".percent AS int CHECK (VALUE BETWEEN 0 AND 100);
  CREATE TABLE "Sales Dept"."Order Items" (
    "select" bigint NOT NULL, "Line No" smallint NOT NULL, "user" text NOT NULL,
    status "Sales Dept"."Order Status" NOT NULL DEFAULT 'new', discount "Sales Dept".percent DEFAULT 5,
    tags text[] NOT NULL DEFAULT '{}', doubled bigint GENERATED ALWAYS AS ("select" * 2) STORED,
    PRIMARY KEY ("select", "Line No"));
  CREATE TABLE "order" (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "group" text COLLATE "C", "weird""quote" text);
  CREATE TABLE ${LONG} (id int PRIMARY KEY, v text);
  CREATE TABLE keyed_by_text (code text PRIMARY KEY, v int);
  CREATE TABLE identified (a int NOT NULL, b text);
  CREATE UNIQUE INDEX identified_a ON identified (a);
  ALTER TABLE identified REPLICA IDENTITY USING INDEX identified_a;
  CREATE TABLE empty_one.nothing (id uuid PRIMARY KEY, at timestamptz);
  CREATE TABLE measured (day date NOT NULL, sensor int NOT NULL, value float8, PRIMARY KEY (day, sensor)) PARTITION BY RANGE (day);
  CREATE TABLE measured_2025 PARTITION OF measured FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
  CREATE TABLE measured_2026 PARTITION OF measured FOR VALUES FROM ('2026-01-01') TO ('2027-01-01') PARTITION BY HASH (sensor);
  CREATE TABLE measured_2026_0 PARTITION OF measured_2026 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
  CREATE TABLE measured_2026_1 PARTITION OF measured_2026 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
  INSERT INTO "Sales Dept"."Order Items" ("select", "Line No", "user", status, tags)
    SELECT g / 3, g % 3, 'user ' || g, CASE WHEN g % 2 = 0 THEN 'it''s paid' ELSE 'new' END::"Sales Dept"."Order Status", ARRAY['a,b', 'c"d']
      FROM generate_series(1, 2000) g;
  INSERT INTO "order" ("group", "weird""quote") SELECT 'g' || g, E'back\\\\slash ' || g FROM generate_series(1, 500) g;
  INSERT INTO ${LONG} SELECT g, 'v' || g FROM generate_series(1, 300) g;
  INSERT INTO keyed_by_text SELECT (ARRAY['ä', 'A', 'a', '_', 'Z z', '9'])[1 + g % 6] || g, g FROM generate_series(1, 3000) g;
  INSERT INTO identified SELECT g, 'b' FROM generate_series(1, 100) g;
  INSERT INTO measured SELECT date '2025-06-01' + g, g % 50, random() FROM generate_series(1, 500) g;`;

const MIGRATIONS = [
  {
    addColumn: {
      table: '"Sales Dept"."Order Items"',
      column: 'Full Label',
      type: 'text',
      up: `"user" || ' / ' || "Line No"`,
      notNull: true,
    },
  },
  {
    changeType: {
      table: 'order',
      column: 'weird"quote',
      newColumn: 'from',
      type: 'jsonb',
      up: 'to_jsonb("weird""quote")',
      down: `"from" #>> '{}'`,
    },
  },
  { addColumn: { table: 'measured', column: 'rounded', type: 'numeric', up: 'round(value::numeric, 2)' } },
  { addColumn: { table: LONG, column: 'w', type: 'int', up: 'length(v)' } },
  { addColumn: { table: 'identified', column: 'c', type: 'text', up: "b || '!'" } },
  {
    createIndex: {
      table: '"Sales Dept"."Order Items"',
      name: 'By "Label"',
      columns: ['"Full Label"', '"Line No" DESC'],
    },
  },
  { createIndex: { table: 'measured', name: 'measured_rounded', columns: ['rounded'] } },
  { addConstraint: { table: 'keyed_by_text', name: 'Known Code', check: "code <> ''" } },
];

describe('odd names and shapes', () => {
  it('go through the whole migration, there and, with new rows, back', async () => {
    const migration = await Migration.create({
      blue: 'pg15',
      green: 'pg18',
      purpose: 'odd',
      schema: SCHEMA,
      plan: {
        migrations: MIGRATIONS,
        traffic: {
          stages: [{ percent: 0, for: '0s' }],
          gates: [{ metric: 'lag', max: '2s' }],
          approval: { before: [] },
        },
        standby: { for: '10m' },
        green: { connection: 'app_green', afterRollback: 'drop' },
      },
    });
    open.push(migration);
    const handle = await migration.start();
    const standing = await until(
      handle,
      'in the standby window',
      (s) => s.phase === 'standby' && s.lagSeconds !== null,
    );
    expect(standing.verification).toMatchObject({ tables: 7, rowsVerified: 6400, differingRows: 0 });

    await withClient(migration.green.config, async (client) => {
      await client.query(`
        INSERT INTO "Sales Dept"."Order Items" ("select", "Line No", "user") VALUES (9999, 1, 'o''neil');
        INSERT INTO "order" ("group", "from") VALUES ('new', '"text \\\\ back"');
        UPDATE "order" SET "weird""quote" = 'changed' WHERE id = 7;
        DELETE FROM keyed_by_text WHERE v = 17;
        INSERT INTO measured VALUES ('2026-05-05', 7, 1.005);
        UPDATE measured SET day = '2025-12-31' WHERE day = '2026-01-15';
        INSERT INTO ${LONG} VALUES (1000, 'thousand');
        UPDATE identified SET b = 'x' WHERE a = 5`);
      const { rows } = await client.query(
        `SELECT (SELECT "Full Label" FROM "Sales Dept"."Order Items" WHERE "select" = 9999) AS label,
                (SELECT "from"::text FROM "order" WHERE id = 7) AS changed,
                (SELECT id > 500 FROM "order" WHERE "group" = 'new') AS ahead,
                (SELECT rounded::text FROM measured WHERE day = '2026-05-05' AND sensor = 7) AS rounded,
                (SELECT count(*)::int FROM pg_index WHERE indrelid = '"Sales Dept"."Order Items"'::regclass AND indisvalid) AS indexes`,
      );
      expect(rows).toEqual([{ label: "o'neil / 1", changed: '"changed"', ahead: true, rounded: '1.01', indexes: 2 }]);
    });

    await handle.executeUpdate<string, [object]>('rollback', { args: [{ by: 'test', reason: 'and back' }] });
    const report = (await handle.result()) as MigrationReport;
    expect(report.outcome).toBe('rolledBack');
    expect(report.rollingBack?.notUndone).toEqual([]);
    const back = await rowsOf(
      migration.blue,
      `SELECT (SELECT doubled::int FROM "Sales Dept"."Order Items" WHERE "select" = 9999) AS doubled,
              (SELECT "weird""quote" FROM "order" WHERE "group" = 'new') AS down,
              (SELECT "weird""quote" FROM "order" WHERE id = 7) AS changed,
              (SELECT count(*)::int FROM keyed_by_text) AS codes,
              (SELECT tableoid::regclass::text FROM measured WHERE day = '2026-05-05' AND sensor = 7) AS partition,
              (SELECT count(*)::int FROM measured) AS measured,
              (SELECT b FROM identified WHERE a = 5) AS b`,
    );
    expect(back).toEqual([
      {
        doubled: 19998,
        down: 'text \\ back',
        changed: 'changed',
        codes: 2999,
        partition: expect.stringMatching(/^measured_2026_[01]$/) as string,
        measured: 501,
        b: 'x',
      },
    ]);
  });
});
