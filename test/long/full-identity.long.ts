import { afterEach, describe, expect, it } from 'vitest';
import { approveUpdate, retireUpdate, rollbackUpdate } from '../../workflows/messages.js';
import { yes } from '../support/asked-approvals.js';
import { Migration, rowsOf, until } from '../support/migration.js';
import { withClient, type TestDatabase } from '../support/postgres.js';

/*
 * Tables with a primary key and REPLICA IDENTITY FULL, as change data capture wants them: the plan leaves their columns alone, so
 * all of them are published in both directions.
 */

const BIG = `(SELECT string_agg(md5(g::text || i::text), '') FROM generate_series(1, 300) i)`;

const SCHEMA = `
  CREATE TABLE ordinary (id int PRIMARY KEY, body text);
  INSERT INTO ordinary SELECT g, 'o' || g FROM generate_series(1, 50) g;
  CREATE TABLE whole (id int PRIMARY KEY, n int, body text, big text);
  ALTER TABLE whole ALTER big SET STORAGE EXTERNAL, REPLICA IDENTITY FULL;
  INSERT INTO whole SELECT g, g, 'w' || g, ${BIG} FROM generate_series(1, 60) g;
  -- Rows that are the same but for their keys, NULLs among them: nobody may take one for the other.
  INSERT INTO whole SELECT g, NULL, 'twin', NULL FROM generate_series(101, 120) g;
  CREATE TABLE parts (id int, at date, body text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
  CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
  CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM ('2027-01-01') TO ('2028-01-01');
  ALTER TABLE parts REPLICA IDENTITY FULL;
  ALTER TABLE parts_1 REPLICA IDENTITY FULL;
  INSERT INTO parts SELECT g, date '2026-01-01' + g * 12, 'p' || g FROM generate_series(1, 50) g;
  CREATE MATERIALIZED VIEW summary AS SELECT count(*) AS n FROM whole;
  CREATE PUBLICATION cdc FOR ALL TABLES;
  ANALYZE`;

const CHANGES = [
  `UPDATE whole SET body = body || ' changed' WHERE id BETWEEN 1 AND 20`,
  `UPDATE whole SET id = id + 1000 WHERE id BETWEEN 21 AND 25`,
  `UPDATE whole SET n = 7 WHERE id IN (105, 106)`,
  `DELETE FROM whole WHERE id BETWEEN 30 AND 34 OR id IN (110, 111)`,
  `INSERT INTO whole VALUES (5000, 1, 'new', repeat('x', 9000))`,
  `UPDATE parts SET body = 'changed' WHERE id BETWEEN 1 AND 10`,
  `UPDATE parts SET at = at + 365 WHERE id BETWEEN 11 AND 13`,
  `UPDATE parts SET body = 'later' WHERE at >= '2027-01-01'`,
  `DELETE FROM parts WHERE id IN (14, 15, 48)`,
  `UPDATE ordinary SET body = 'changed' WHERE id < 10`,
];

const rows = (side: TestDatabase): Promise<unknown> =>
  rowsOf(
    side,
    `SELECT 'ordinary' AS t, id::text, body FROM ordinary
      UNION ALL SELECT 'whole', id::text, md5(concat_ws('|', n, body, big, n IS NULL)) FROM whole
      UNION ALL SELECT 'parts', id || ' ' || at, body FROM parts ORDER BY 1, 2, 3`,
  );

const run = (side: TestDatabase, statements: readonly string[]): Promise<void> =>
  withClient(side.config, async (client) => {
    for (const sql of statements) await client.query(sql);
  });

const WHO = { by: 'ada', reason: 'the test says so' };
const open: { close(): Promise<void> }[] = [];

afterEach(async () => {
  for (const item of open.splice(0).reverse()) await item.close();
});

const approval = (before: ('promote' | 'retire')[]) => ({
  stages: [{ percent: 100, for: '1s' }],
  gates: [{ metric: 'lag' as const, max: '2s' }],
  approval: { before },
});

describe.each(['pg15', 'pg18'] as const)('tables with REPLICA IDENTITY FULL from %s to pg18', (version) => {
  it('go to green and back: what is written on either side arrives on the other', { timeout: 240_000 }, async () => {
    const slot = `cdc_${version}_${Date.now()}`;
    const migration = await Migration.create({
      ...{ blue: version, green: 'pg18', purpose: 'full', schema: SCHEMA },
      plan: {
        migrations: [{ addColumn: { table: 'ordinary', column: 'size', type: 'int', up: 'length(body)' } }],
        traffic: approval(['promote', 'retire']),
        standby: { for: '10m' },
      },
    });
    open.push(migration);
    const { blue, green } = migration;
    await run(blue, [`SELECT pg_create_logical_replication_slot('${slot}', 'pgoutput')`]);
    const handle = await migration.start();
    const asked = await until(handle, 'asked', (s) => s.waiting?.gate === 'promote', 120_000);
    expect(asked.waiting?.evidence?.join('\n')).toMatch(/materialized views: on green public\.summary hold what/);
    await run(blue, CHANGES);
    await expect.poll(() => rows(green), { timeout: 20_000 }).toEqual(await rows(blue));
    const identity = `SELECT relname::text AS name FROM pg_class WHERE relreplident = 'f' ORDER BY 1`;
    expect(await rowsOf(green, identity)).toEqual(['parts', 'parts_1', 'whole'].map((name) => ({ name })));

    await handle.executeUpdate(approveUpdate, { args: [yes('ada', 'promote', asked.waiting?.request)] });
    await until(handle, 'in standby', (s) => s.phase === 'standby' && s.writesOn === 'green', 60_000);
    const before = await rows(green);
    await run(green, [
      `UPDATE whole SET body = 'on green' WHERE id BETWEEN 40 AND 50 OR id = 107`,
      `UPDATE whole SET id = id + 2000 WHERE id IN (51, 112)`,
      `DELETE FROM whole WHERE id IN (52, 53, 113)`,
      `UPDATE parts SET body = 'on green' WHERE id BETWEEN 20 AND 40`,
      `UPDATE parts SET at = at + 200 WHERE id = 29`,
      `DELETE FROM parts WHERE id IN (41, 42)`,
      `UPDATE ordinary SET body = 'on green' WHERE id > 40`,
    ]);
    const after = await rows(green);
    expect(after).not.toEqual(before);
    await expect.poll(() => rows(blue), { timeout: 20_000 }).toEqual(after);
    // Whoever reads blue's changes gets them, and the question before the retirement says so.
    await handle.executeUpdate(retireUpdate, { args: [WHO] });
    const question = await until(handle, 'asked', (s) => s.waiting?.gate === 'retire');
    expect(question.waiting?.evidence?.join('\n')).toContain(`the slot "${slot}" (pgoutput, not connected)`);

    await handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    expect(await handle.result()).toMatchObject({ outcome: 'rolledBack' });
    expect(await rows(blue)).toEqual(after);
    await run(blue, [`UPDATE whole SET body = 'again' WHERE id = 1`, 'DELETE FROM parts WHERE id = 1']);
    const read = `SELECT count(*)::int AS n FROM pg_logical_slot_get_binary_changes('${slot}', NULL, NULL, 'proto_version', '1', 'publication_names', 'cdc')`;
    expect((await rowsOf<{ n: number }>(blue, read))[0]?.n).toBeGreaterThan(100);
  });
});

it(
  'REPLICA IDENTITY FULL of a table that got columns unseen keeps the way back from being made, until it is mended on green',
  { timeout: 240_000 },
  async () => {
    const migration = await Migration.create({
      ...{ blue: 'pg15', green: 'pg18', purpose: 'full unseen', schema: SCHEMA },
      plan: {
        migrations: [
          {
            sql: {
              name: 'unseen',
              up: 'DO $$ BEGIN ALTER TABLE public.whole ADD COLUMN extra int; END $$',
              down: 'ALTER TABLE public.whole DROP COLUMN extra',
            },
          },
        ],
        traffic: approval([]),
        standby: { for: '10m' },
      },
    });
    open.push(migration);
    const { blue, green } = migration;
    const handle = await migration.start();
    const blocked = await until(handle, 'blocked', (s) => s.waiting?.gate === 'promote', 120_000);
    expect(blocked.waiting?.why).toMatch(
      /on green public\.whole has REPLICA IDENTITY FULL .*REPLICA IDENTITY DEFAULT on green/,
    );
    // The feed goes on meanwhile.
    await run(blue, [`UPDATE whole SET body = 'meanwhile' WHERE id = 1`]);
    await expect.poll(() => rows(green), { timeout: 20_000 }).toEqual(await rows(blue));
    await run(green, ['ALTER TABLE whole REPLICA IDENTITY DEFAULT']);
    await handle.executeUpdate(approveUpdate, { args: [yes('ada', 'promote', blocked.waiting?.request)] });
    await until(handle, 'in standby', (s) => s.phase === 'standby' && s.writesOn === 'green', 60_000);
    await run(green, [`UPDATE whole SET body = 'on green' WHERE id = 2`, 'DELETE FROM whole WHERE id = 3']);
    await expect.poll(() => rows(blue), { timeout: 20_000 }).toEqual(await rows(green));
    await handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    expect(await handle.result()).toMatchObject({ outcome: 'rolledBack' });
  },
);
