import { describe, expect, it } from 'vitest';
import { diagnose } from '../../src/postgres/doctor/diagnose.js';
import { examine } from '../../src/postgres/doctor/inventory.js';
import { judge } from '../../src/postgres/doctor/who-is-primary.js';
import { LedgerApplication } from '../support/ledger-application.js';
import { leftovers, until } from '../support/migration.js';
import { asDatabase, withClient } from '../support/postgres.js';
import { recordHistory } from '../support/record-history.js';
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
    await recordHistory(handle, 'rollback-standby');

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

    // Each move of the writes is written down once, also on the side that has given them away.
    const moves = `SELECT what, detail ->> 'holdMs' IS NOT NULL AS measured FROM verdigris.event WHERE what ~ 'moved' ORDER BY id`;
    expect((await withClient(migration.green.config, (client) => client.query(moves))).rows).toEqual([
      { what: 'writes moved from blue to green', measured: true },
      { what: 'writes moved from green to blue', measured: true },
    ]);

    // What green has kept is not said to be undone, and is nothing that is wrong.
    const { undone = [] } = report.rollingBack ?? {};
    expect(undone).toEqual(
      expect.arrayContaining([
        'take the fence off blue; green stays closed: it has had the writes',
        'green keeps the schema changes and their triggers: it has had the writes',
        'drop replication; green keeps its rows: it has had the writes',
      ]),
    );
    expect(undone.join()).not.toMatch(/undo the schema|both sides|copied to green/);
    const found = await examine({
      blue: asDatabase(migration.blue, 'blue'),
      green: asDatabase(migration.green, 'green'),
    });
    const findings = diagnose(found, judge(found), { state: 'over', why: 'the test says so' });
    expect(findings.filter(({ severity }) => severity !== 'note')).toEqual([]);
    expect(findings.map(({ what }) => what)).toContainEqual(
      expect.stringMatching(/^kept with the green .*: up\/down trigger of/),
    );
  });
});
