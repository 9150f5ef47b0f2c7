import { describe, expect, it } from 'vitest';
import { LedgerApplication } from '../support/ledger-application.js';
import { leftovers, until } from '../support/migration.js';
import { withClient } from '../support/postgres.js';
import { expectBlueAsBefore, newMigration, WHO } from '../support/rolled-back-run.js';
import type { MigrationReport } from '../../workflows/lib/report.js';
import { rollbackSignal } from '../../workflows/messages.js';

/* Before the promotion, by a failure and by a cancel: test/long/rollback.long.ts and test/faults/rollback-runs.faults.ts. */

describe('a rollback that is asked for by message', () => {
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
