import { afterEach, expect, it } from 'vitest';
import type { PlanInput } from '../../src/plan/schema.js';
import type { MigrationReport } from '../../workflows/lib/report.js';
import { resumeUpdate } from '../../workflows/messages.js';
import { Migration, rowsOf, until } from '../support/migration.js';
import { withClient } from '../support/postgres.js';

const open: Migration[] = [];
afterEach(async () => {
  for (const item of open.splice(0)) await item.close();
});

const SCHEMA = `
  CREATE TABLE parents (id int PRIMARY KEY);
  CREATE TABLE items (id int PRIMARY KEY, amount int NOT NULL, code int NOT NULL, parent int, note text);
  INSERT INTO parents VALUES (1);
  INSERT INTO items SELECT n, 1, n, 1, 'note' FROM generate_series(1, 1000) n;
  UPDATE items SET note = NULL WHERE id = 11;
  UPDATE items SET amount = -1 WHERE id = 7;
  UPDATE items SET code = 9 WHERE id = 8;
  UPDATE items SET parent = 99 WHERE id = 10;
  UPDATE items SET note = 'too long' WHERE id = 12;`;

const MIGRATIONS: NonNullable<PlanInput['migrations']> = [
  { addColumn: { table: 'items', column: 'label', type: 'text', up: 'upper(note)', notNull: true } },
  { addConstraint: { table: 'items', name: 'items_amount', check: 'amount > 0' } },
  { createIndex: { table: 'items', name: 'items_code', columns: ['code'], unique: true } },
  {
    addConstraint: {
      table: 'items',
      name: 'items_parent',
      foreignKey: { columns: ['parent'], references: { table: 'parents', columns: ['id'] } },
    },
  },
  {
    sql: {
      name: 'view',
      up: 'CREATE VIEW public.labels AS SELECT label FROM public.items',
      down: 'DROP VIEW public.labels',
    },
  },
  { addConstraint: { table: 'items', name: 'items_note', check: 'length(note) < 5' } },
];

/** What the run holds with, in its order, and what corrects it: on both sides, or on blue until `arrived` finds it on green. */
const HELD: readonly (readonly [why: RegExp, correction: string, arrived?: string])[] = [
  [/NOT NULL of column "label".*\("id" = 11\)/, `UPDATE items SET note = 'here' WHERE id = 11`],
  [/"items_amount".*rows violate it: \("id" = 7\)/, 'UPDATE items SET amount = 1 WHERE id = 7'],
  [/"items_code".*the same value of code/, 'UPDATE items SET code = 8 WHERE id = 8'],
  [/"items_parent".*no counterpart: \("id" = 10\)/, 'UPDATE items SET parent = 1 WHERE id = 10'],
  [
    // Behind raw SQL green follows blue already, which does not have the foreign key: another row comes to lack its counterpart.
    /"items_note".*rows violate it: \("id" = 12\)/,
    `UPDATE items SET note = 'long' WHERE id = 12; UPDATE items SET parent = 98 WHERE id = 13`,
    `SELECT FROM items WHERE id = 13 AND parent = 98`,
  ],
  [
    /1 rows of public\.items violate the foreign key items_parent/,
    'UPDATE items SET parent = 1 WHERE id = 13',
    'SELECT FROM items WHERE id = 13 AND parent = 1',
  ],
];

it('rows that break what the plan makes hold a run by default: corrected, it goes on where it was, to its end', async () => {
  const migration = await Migration.create({
    blue: 'pg15',
    green: 'pg18',
    purpose: 'rows',
    schema: SCHEMA,
    plan: { migrations: MIGRATIONS, traffic: { stages: [], approval: { before: [] } } },
  });
  open.push(migration);
  const handle = await migration.start();
  for (const [why, correction, arrived] of HELD) {
    const held = await until(handle, String(why), (s) => s.waiting?.for === 'resume' && why.test(s.waiting.why));
    expect(held.waiting?.why).toMatch(/Next step: .*resume/);
    await withClient(migration.blue.config, (client) => client.query(correction));
    if (arrived === undefined) await withClient(migration.green.config, (client) => client.query(correction));
    else await expect.poll(() => rowsOf(migration.green, arrived)).toHaveLength(1);
    await handle.executeUpdate(resumeUpdate, { args: [{ by: 'ada', reason: 'the rows are corrected' }] });
  }
  expect(((await handle.result()) as MigrationReport).outcome).toBe('completed');
  expect(await rowsOf(migration.green, 'SELECT id, label FROM items WHERE id IN (7, 11) ORDER BY id')).toEqual([
    { id: 7, label: 'NOTE' },
    { id: 11, label: 'HERE' },
  ]);
});
