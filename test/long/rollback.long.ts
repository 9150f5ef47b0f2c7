import { WorkflowFailedError } from '@temporalio/client';
import { describe, expect, it } from 'vitest';
import { LEDGER_MIGRATIONS, LedgerApplication } from '../support/ledger-application.js';
import { leftovers, statusOf, until } from '../support/migration.js';
import { recordHistory } from '../support/record-history.js';
import { expectBlueAsBefore, longStage, newMigration, rollBackIn, WHO } from '../support/rolled-back-run.js';
import type { MigrationReport } from '../../workflows/lib/report.js';
import { rollbackUpdate } from '../../workflows/messages.js';

/* In phases migrate, verify, traffic and promote, by the verification, and by a gate: test/faults/rollback-runs.faults.ts. */

describe('a rollback that is asked for by message', () => {
  it.each(['replicate'] as const)('in phase %s brings blue back and leaves nothing behind', rollBackIn);
});

describe('a rollback in a traffic stage', () => {
  it('undoes a step that made a table with rows, though green is fenced', async () => {
    const statuses = {
      sql: {
        name: 'statuses',
        up: `CREATE TABLE public.statuses (id int PRIMARY KEY); INSERT INTO public.statuses VALUES (1), (2)`,
        down: 'DELETE FROM public.statuses; DROP TABLE public.statuses',
      },
    };
    const migration = await newMigration({ migrations: [...LEDGER_MIGRATIONS, statuses], traffic: longStage() });
    const handle = await migration.start();
    await until(handle, 'reading from green', (s) => s.greenReadPercent === 50);
    await handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    const report = (await handle.result()) as MigrationReport;
    expect(report.rollingBack?.notUndone).toEqual([]);
    expect(report.outcome).toBe('rolledBack');
    expect(await leftovers(migration.green)).toEqual([]);
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
    await recordHistory(handle, 'failed-migrate');

    expect(error).toBeInstanceOf(WorkflowFailedError);
    expect((error as WorkflowFailedError).cause).toMatchObject({ type: 'MigrationRolledBack' });
    expect(String((error as WorkflowFailedError).cause?.message)).toMatch(/division by zero/);
    expect((await statusOf(handle)).rollingBack?.undone.length).toBeGreaterThan(0);
    await expectBlueAsBefore(migration, application);
    expect(await leftovers(migration.green)).toEqual([]);
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
    await recordHistory(handle, 'cancelled');

    expect((error as WorkflowFailedError).cause?.name).toBe('CancelledFailure');
    expect((await handle.describe()).status.name).toBe('CANCELLED');
    await expectBlueAsBefore(migration, application);
    expect(await leftovers(migration.green)).toEqual([]);
  });
});
