import { expect, onTestFinished } from 'vitest';
import type { PlanInput } from '../../src/plan/schema.js';
import type { MigrationReport } from '../../workflows/lib/report.js';
import type { MigrationStatus } from '../../workflows/lib/status.js';
import { rollbackUpdate } from '../../workflows/messages.js';
import { LEDGER_MIGRATIONS, LEDGER_SCHEMA, LedgerApplication } from './ledger-application.js';
import { inPhase, leftovers, Migration, until } from './migration.js';
import { withClient } from './postgres.js';
import { recordHistory } from './record-history.js';

/* Runs of a ledger under load that are rolled back, and what a rollback owes whoever asked for it. */

export const WHO = { by: 'grace', reason: 'the test says so' };
export const SLOW_STEP = { sql: { name: 'slow', up: 'SELECT pg_sleep(5)', down: 'SELECT 1' } };

/** Enough rows that their verification, which rests most of the time, lasts until a message arrives. */
const BULK = `CREATE TABLE bulk (id int PRIMARY KEY, filler text);
  INSERT INTO bulk SELECT g, repeat('x', 100) FROM generate_series(1, 400000) g`;

export async function newMigration(plan: Partial<PlanInput> = {}, bulk = false): Promise<Migration> {
  const migration = await Migration.create({
    blue: 'pg15',
    green: 'pg18',
    purpose: 'rollback',
    schema: bulk ? `${LEDGER_SCHEMA};${BULK}` : LEDGER_SCHEMA,
    plan: { migrations: LEDGER_MIGRATIONS, standby: { for: '10m' }, ...plan },
  });
  onTestFinished(() => migration.close());
  return migration;
}

/** Blue is as it was, with every write, and nothing of ours is there. */
export async function expectBlueAsBefore(migration: Migration, application: LedgerApplication): Promise<void> {
  expect(application.failures).toEqual([]);
  expect(await application.audit(migration.blue)).toEqual({ lost: [], doubled: [], total: '0', odd: 0 });
  const own = /^relation (accounts|balances|entries|recent|entries_id_seq|bulk)$/;
  expect((await leftovers(migration.blue)).filter((what) => !own.test(what))).toEqual([]);
  await withClient(migration.blue.config, (client) => client.query('UPDATE accounts SET balance = balance'));
}

/** Green takes writes of nobody but the feed. */
export async function expectGreenClosed(migration: Migration): Promise<void> {
  const statements = [
    'INSERT INTO accounts (id, balance) VALUES (999999, 0)',
    'UPDATE accounts SET balance = balance',
    'DELETE FROM entries',
    'TRUNCATE entries',
  ];
  await withClient(migration.green.config, async (client) => {
    for (const statement of statements) {
      await expect(client.query(statement), statement).rejects.toMatchObject({ code: '25006' });
    }
  });
}

export function quick(): NonNullable<PlanInput['traffic']> {
  return { stages: [{ percent: 100, for: '1s' }], gates: [{ metric: 'lag', max: '2s' }] };
}

export function longStage(): PlanInput['traffic'] {
  return { ...quick(), stages: [{ percent: 50, for: '10m' }] };
}

interface Moment {
  readonly plan: Partial<PlanInput>;
  readonly reached: (status: MigrationStatus) => boolean;
  /** What is looked at then. */
  readonly look?: (migration: Migration) => Promise<void>;
}

const PHASES = {
  replicate: {
    plan: { replicate: { holdFor: '30s' } },
    reached: (s) => s.phase === 'replicate' && s.waiting?.for === 'lag',
  },
  migrate: { plan: { migrations: [...LEDGER_MIGRATIONS, SLOW_STEP] }, reached: (s) => s.now.includes('slow') },
  verify: {
    plan: { verify: { parallel: 1, rest: 0.97 } },
    reached: inPhase('verify'),
    look: expectGreenClosed,
  },
  traffic: { plan: { traffic: longStage() }, reached: (s) => s.greenReadPercent === 50, look: expectGreenClosed },
  promote: {
    plan: { traffic: { ...quick(), approval: { before: ['promote'] } } },
    reached: (s) => s.waiting?.gate === 'promote',
    look: expectGreenClosed,
  },
} as const satisfies Record<string, Moment>;

/** A rollback by message in this phase brings blue back and leaves nothing behind. */
export async function rollBackIn(phase: keyof typeof PHASES): Promise<void> {
  const { plan, reached, look }: Moment = PHASES[phase];
  const migration = await newMigration(plan, phase === 'verify');
  const application = await LedgerApplication.start(migration);
  const handle = await migration.start();
  await until(handle, `in phase ${phase}`, reached);
  await look?.(migration);
  await handle.executeUpdate(rollbackUpdate, { args: [WHO] });
  const report = (await handle.result()) as MigrationReport;
  await application.stop();
  await recordHistory(handle, `rollback-${phase}`);

  expect(report.outcome).toBe('rolledBack');
  expect(report.phase).toBe(phase);
  expect(report.rollingBack).toMatchObject({ reason: 'grace: the test says so', notUndone: [] });
  await expectBlueAsBefore(migration, application);
  expect(await leftovers(migration.green)).toEqual([]);
}
