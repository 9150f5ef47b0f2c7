import { WorkflowFailedError } from '@temporalio/client';
import { describe, expect, it } from 'vitest';
import { LEDGER_MIGRATIONS, LedgerApplication } from '../support/ledger-application.js';
import { leftovers, statusOf, until } from '../support/migration.js';
import { withClient } from '../support/postgres.js';
import { expectBlueAsBefore, longStage, newMigration, rollBackIn, WHO } from '../support/rolled-back-run.js';
import type { MigrationReport } from '../../workflows/lib/report.js';
import { rollbackSignal } from '../../workflows/messages.js';

/* In phases migrate, verify, traffic and promote, by the verification, and by a gate: test/faults/rollback-runs.faults.ts, since they take long. */

describe('a rollback that is asked for by message', () => {
  it.each(['replicate'] as const)('in phase %s brings blue back and leaves nothing behind', rollBackIn);

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
