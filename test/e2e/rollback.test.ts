import { WorkflowFailedError } from '@temporalio/client';
import { afterEach, describe, expect, it } from 'vitest';
import { LEDGER_MIGRATIONS, LEDGER_SCHEMA, LedgerApplication } from '../support/ledger-application.js';
import { inPhase, leftovers, Migration, rowsOf, statusOf, until } from '../support/migration.js';
import { withClient } from '../support/postgres.js';
import type { MigrationReport } from '../../workflows/lib/report.js';
import type { MigrationStatus } from '../../workflows/lib/status.js';
import { rollbackSignal, rollbackUpdate } from '../../workflows/messages.js';
import type { PlanInput } from '../../src/plan/schema.js';

const open: { close(): Promise<void> }[] = [];

afterEach(async () => {
  for (const item of open.splice(0).reverse()) await item.close();
});

const WHO = { by: 'grace', reason: 'the test says so' };
const SLOW_STEP = { sql: { name: 'slow', up: 'SELECT pg_sleep(5)', down: 'SELECT 1' } };

/** Enough rows that their verification, which rests most of the time, lasts until a message arrives. */
const BULK = `CREATE TABLE bulk (id int PRIMARY KEY, filler text);
  INSERT INTO bulk SELECT g, repeat('x', 100) FROM generate_series(1, 400000) g`;

async function newMigration(plan: Partial<PlanInput> = {}, bulk = false): Promise<Migration> {
  const migration = await Migration.create({
    blue: 'pg15',
    green: 'pg18',
    purpose: 'rollback',
    schema: bulk ? `${LEDGER_SCHEMA};${BULK}` : LEDGER_SCHEMA,
    plan: { migrations: LEDGER_MIGRATIONS, standby: { for: '10m' }, ...plan },
  });
  open.push(migration);
  return migration;
}

/** What a rollback owes whoever asked for it: blue as it was, with every write, and nothing of ours anywhere. */
async function expectBlueAsBefore(migration: Migration, application: LedgerApplication): Promise<void> {
  expect(application.failures).toEqual([]);
  expect(await application.audit(migration.blue)).toEqual({ lost: [], doubled: [], total: '0', odd: 0 });
  const own = /^relation (accounts|balances|entries|recent|entries_id_seq|bulk)$/;
  expect((await leftovers(migration.blue)).filter((what) => !own.test(what))).toEqual([]);
  await withClient(migration.blue.config, (client) => client.query('UPDATE accounts SET balance = balance'));
}

const PHASES: [string, Partial<PlanInput>, (status: MigrationStatus) => boolean][] = [
  ['replicate', { replicate: { holdFor: '30s' } }, (s) => s.phase === 'replicate' && s.waiting?.for === 'lag'],
  ['migrate', { migrations: [...LEDGER_MIGRATIONS, SLOW_STEP] }, (s) => s.now.includes('slow')],
  ['verify', { verify: { parallel: 1, rest: 0.97 } }, inPhase('verify')],
  ['traffic', { traffic: longStage() }, (s) => s.greenReadPercent === 50],
  ['promote', { traffic: { ...quick(), approval: { before: ['promote'] } } }, (s) => s.waiting?.gate === 'promote'],
];

function quick(): NonNullable<PlanInput['traffic']> {
  return { stages: [{ percent: 100, for: '1s' }], gates: [{ metric: 'lag', max: '2s' }] };
}

function longStage(): PlanInput['traffic'] {
  return { ...quick(), stages: [{ percent: 50, for: '10m' }] };
}

describe('a rollback that is asked for by message', () => {
  it.each(PHASES)('in phase %s brings blue back and leaves nothing behind', async (phase, plan, reached) => {
    const migration = await newMigration(plan, phase === 'verify');
    const application = await LedgerApplication.start(migration);
    const handle = await migration.start();
    await until(handle, `in phase ${phase}`, reached);
    await handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    const report = (await handle.result()) as MigrationReport;
    await application.stop();
    await migration.record(handle, `rollback-${phase}`);

    expect(report.outcome).toBe('rolledBack');
    expect(report.phase).toBe(phase);
    expect(report.rollingBack).toMatchObject({ reason: 'grace: the test says so', notUndone: [] });
    await expectBlueAsBefore(migration, application);
    expect(await leftovers(migration.green)).toEqual([]);
  });

  it('in the standby window moves writes back without a loss, and keeps green, fenced', async () => {
    const migration = await newMigration();
    const application = await LedgerApplication.start(migration);
    const handle = await migration.start();
    await until(handle, 'in the standby window', (s) => s.phase === 'standby' && s.lagSeconds !== null);
    const onGreen = application.acknowledged.length;
    await until(handle, 'writing on green', () => application.acknowledged.length > onGreen + 100);
    await handle.signal(rollbackSignal, WHO);
    const report = (await handle.result()) as MigrationReport;
    await until(handle, 'writing on blue again', () => application.acknowledged.length > onGreen + 200);
    await application.stop();
    await migration.record(handle, 'rollback-standby');

    expect(report.outcome).toBe('rolledBack');
    expect(report.writesOn).toBe('blue');
    expect(report.rollingBack?.trafficBackMs).toBeGreaterThan(0);
    await expectBlueAsBefore(migration, application);
    await expect(
      withClient(migration.green.config, (client) => client.query('UPDATE accounts SET balance = 0')),
    ).rejects.toMatchObject({ code: '25006' });
    const left = await leftovers(migration.green);
    expect(left.filter((what) => /publication|slot|subscription/.test(what))).toEqual([]);
    expect(left).toContain('relation entries');
  });
});

describe('a rollback that is forced by a failure', () => {
  it('of a migration step fails the run with what was undone', async () => {
    const broken = {
      sql: { name: 'broken', up: 'SELECT 1 / (SELECT count(*) - count(*) FROM public.entries)', down: 'SELECT 1' },
    };
    const migration = await newMigration({ migrations: [...LEDGER_MIGRATIONS, broken] });
    const application = await LedgerApplication.start(migration);
    const handle = await migration.start();
    const error: unknown = await handle.result().catch((e: unknown) => e);
    await application.stop();
    await migration.record(handle, 'failed-migrate');

    expect(error).toBeInstanceOf(WorkflowFailedError);
    expect((error as WorkflowFailedError).cause).toMatchObject({ type: 'MigrationRolledBack' });
    expect(String((error as WorkflowFailedError).cause?.message)).toMatch(/division by zero/);
    expect((await statusOf(handle)).rollingBack?.undone.length).toBeGreaterThan(0);
    await expectBlueAsBefore(migration, application);
    expect(await leftovers(migration.green)).toEqual([]);
  });

  it('of the verification: a row that is missing on green', async () => {
    const migration = await newMigration({ migrations: [...LEDGER_MIGRATIONS, SLOW_STEP] });
    const application = await LedgerApplication.start(migration);
    const handle = await migration.start();
    await until(handle, 'before the verification', (s) => s.now.includes('slow'));
    await rowsOf(migration.green, 'DELETE FROM entries WHERE id = 77');
    const error: unknown = await handle.result().catch((e: unknown) => e);
    await application.stop();

    expect(String((error as WorkflowFailedError).cause?.message)).toMatch(
      /1 row differs between blue and green: public\.entries "id" = 77: missing/,
    );
    await expectBlueAsBefore(migration, application);
    expect(await leftovers(migration.green)).toEqual([]);
  });

  it('of a gate: green answers with errors, which no caller sees', async () => {
    const migration = await newMigration({
      traffic: { ...quick(), stages: [{ percent: 100, for: '10m' }], gates: [{ metric: 'errorRate', max: 0.05 }] },
    });
    const application = await LedgerApplication.start(migration);
    const handle = await migration.start();
    await until(handle, 'reading from green', (s) => s.greenReadPercent === 100);
    await rowsOf(migration.green, 'DROP VIEW balances');
    const error: unknown = await handle.result().catch((e: unknown) => e);
    await application.stop();

    expect(String((error as WorkflowFailedError).cause?.message)).toMatch(/gate failed in stage 100 %: errorRate/);
    await expectBlueAsBefore(migration, application);
  });
});

describe('a rollback by cancel', () => {
  it('undoes everything, then closes as cancelled', async () => {
    const migration = await newMigration({ traffic: longStage() });
    const application = await LedgerApplication.start(migration);
    const handle = await migration.start();
    await until(handle, 'reading from green', (s) => s.greenReadPercent === 50);
    await handle.cancel();
    const error: unknown = await handle.result().catch((e: unknown) => e);
    await application.stop();
    await migration.record(handle, 'cancelled');

    expect((error as WorkflowFailedError).cause?.name).toBe('CancelledFailure');
    expect((await handle.describe()).status.name).toBe('CANCELLED');
    await expectBlueAsBefore(migration, application);
    expect(await leftovers(migration.green)).toEqual([]);
  });
});
