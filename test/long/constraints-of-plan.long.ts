import { afterEach, expect, it } from 'vitest';
import type { PlanInput } from '../../src/plan/schema.js';
import type { MigrationReport } from '../../workflows/lib/report.js';
import type { MigrationStatus } from '../../workflows/lib/status.js';
import { resumeUpdate } from '../../workflows/messages.js';
import { Migration, rowsOf, until } from '../support/migration.js';
import { withClient } from '../support/postgres.js';

const open: Migration[] = [];
afterEach(async () => {
  for (const item of open.splice(0)) await item.close();
});

async function migrationOf(schema: string, migrations: PlanInput['migrations']): Promise<Migration> {
  const migration = await Migration.create({
    blue: 'pg15',
    green: 'pg18',
    purpose: 'constraints',
    schema,
    plan: { ...(migrations === undefined ? {} : { migrations }), traffic: { stages: [], approval: { before: [] } } },
  });
  open.push(migration);
  return migration;
}

const foreignKey = (table: string, to: string): NonNullable<PlanInput['migrations']>[number] => ({
  addConstraint: {
    table,
    name: `${table}_${to}`,
    foreignKey: { columns: ['parent'], references: { table: to, columns: ['id'] } },
  },
});

const validated = (migration: Migration, ...names: string[]): Promise<unknown[]> =>
  rowsOf(
    migration.green,
    `SELECT conname FROM pg_constraint WHERE convalidated AND conname IN (${names.map((name) => `'${name}'`).join(', ')})`,
  );

it('foreign keys from and to a table that is left to PostgreSQL are made behind its rows: one correction, one resume', async () => {
  const migration = await migrationOf(
    `CREATE TABLE roots (id int PRIMARY KEY);
     CREATE TABLE parents (id int PRIMARY KEY, parent int, size text);
     CREATE TABLE items (id int PRIMARY KEY, parent int);
     INSERT INTO roots VALUES (1);
     INSERT INTO parents SELECT n, 1, n FROM generate_series(1, 100) n;
     INSERT INTO items SELECT n, 1 + n % 100 FROM generate_series(1, 1000) n;
     UPDATE parents SET size = 'seven' WHERE id = 7;`,
    [
      { addColumn: { table: 'parents', column: 'length', type: 'int', up: 'size::int' } },
      foreignKey('items', 'parents'),
      foreignKey('parents', 'roots'),
    ],
  );
  const handle = await migration.start();
  const held = await until(handle, 'held', (s) => s.waiting?.for === 'resume');
  expect(held.waiting?.why).toMatch(/parents.*"id" = 7/);
  await withClient(migration.blue.config, (client) => client.query(`UPDATE parents SET size = '7' WHERE id = 7`));
  await handle.executeUpdate(resumeUpdate, { args: [{ by: 'ada', reason: 'the row is corrected' }] });
  const { why } = held.waiting ?? {};
  const isOver = ({ outcome, waiting }: MigrationStatus): boolean =>
    outcome !== 'running' || (waiting?.for === 'resume' && waiting.why !== why);
  expect((await until(handle, 'completed', isOver)).waiting).toBeNull();
  expect(((await handle.result()) as MigrationReport).outcome).toBe('completed');
  expect(await rowsOf(migration.green, 'SELECT sum(length)::int FROM parents')).toEqual([{ sum: 5050 }]);
  expect(await validated(migration, 'items_parents', 'parents_roots')).toHaveLength(2);
});

it('constraints that blue has by the same names, not validated, are those of the plan on green', async () => {
  const migration = await migrationOf(
    `CREATE TABLE parents (id int PRIMARY KEY);
     CREATE TABLE items (id int PRIMARY KEY, parent int);
     INSERT INTO parents VALUES (1);
     INSERT INTO items SELECT n, 1 FROM generate_series(1, 100) n;
     ALTER TABLE items ADD CONSTRAINT items_parents FOREIGN KEY (parent) REFERENCES parents NOT VALID;
     ALTER TABLE items ADD CONSTRAINT items_positive CHECK (id > 0) NOT VALID;`,
    [foreignKey('items', 'parents'), { addConstraint: { table: 'items', name: 'items_positive', check: 'id > 0' } }],
  );
  const handle = await migration.start();
  expect(((await handle.result()) as MigrationReport).outcome).toBe('completed');
  expect(await validated(migration, 'items_parents', 'items_positive')).toHaveLength(2);
});
