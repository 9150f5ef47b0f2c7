import pg from 'pg';
import { afterEach, describe, expect, it } from 'vitest';
import { LEDGER_MIGRATIONS, LEDGER_SCHEMA } from '../support/ledger-application.js';
import { Migration, rowsOf, until } from '../support/migration.js';
import type { MigrationReport } from '../../workflows/lib/report.js';
import { rollbackUpdate } from '../../workflows/messages.js';

const open: { close(): Promise<void> }[] = [];

afterEach(async () => {
  for (const item of open.splice(0).reverse()) await item.close();
});

const WHO = { by: 'grace', reason: 'the test says so' };

const IS_ON = `
  SELECT subenabled AS "isOn" FROM pg_subscription
   WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())`;

async function inStandby(purpose: string, schema = ''): Promise<Migration> {
  const migration = await Migration.create({
    blue: 'pg15',
    green: 'pg18',
    purpose,
    schema: `${LEDGER_SCHEMA}${schema}`,
    plan: {
      migrations: LEDGER_MIGRATIONS,
      traffic: { stages: [{ percent: 0, for: '0s' }], approval: { before: [] } },
      standby: { for: '30m' },
    },
  });
  open.push(migration);
  return migration;
}

describe('a way back while the apply of blue stands still', () => {
  it('says within a minute whom it waits for, and hears that the loss is accepted', async () => {
    const migration = await inStandby('way back locked');
    const handle = await migration.start();
    await until(handle, 'in the standby window', (s) => s.waiting?.for === 'standby', 120_000);
    const holder = new pg.Client({ ...migration.blue.config, application_name: 'nightly report' });
    await holder.connect();
    open.push({ close: () => holder.end() });
    await holder.query('BEGIN; LOCK TABLE accounts IN SHARE MODE');
    await rowsOf(migration.green, 'UPDATE accounts SET balance = balance + 1 WHERE id = 1');

    await handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    const { waiting } = await until(handle, 'told', (s) => /too far behind/.test(s.waiting?.why ?? ''), 60_000);
    expect(waiting?.why).toMatch(/Its feed waits for .*nightly report/);
    expect(waiting?.answer).toMatch(/"acceptLoss":true/);
    expect(await handle.executeUpdate(rollbackUpdate, { args: [{ ...WHO, acceptLoss: true }] })).toMatch(
      /with the loss of (about \d+ writes?|what was written on green) /,
    );
    // The forced try can't stop a worker that waits for a lock either. The feed goes on after it.
    await until(handle, 'not forced', (s) => /does not stop/.test(s.waiting?.why ?? ''), 120_000);
    expect(await rowsOf(migration.blue, IS_ON)).toEqual([{ isOn: true }]);
    await holder.query('ROLLBACK');
    const report = (await handle.result()) as MigrationReport;
    expect(report.outcome).toBe('rolledBack');
    // Blue had all of it by then.
    expect(report.rollingBack?.lost).toBeUndefined();
  }, 400_000);
});

describe('a feed to blue that meets the same error again and again', () => {
  it('is not called safe: it is told with what a rollback would lose, and lives again when it is mended', async () => {
    const migration = await inStandby('way back refused');
    const handle = await migration.start();
    await until(handle, 'in the standby window', (s) => s.waiting?.for === 'standby', 120_000);
    await rowsOf(migration.blue, 'ALTER TABLE accounts ADD CONSTRAINT strict CHECK (balance < 1000000)');
    await rowsOf(migration.green, 'UPDATE accounts SET balance = 2000000 WHERE id = 1');
    const told = await until(handle, 'told', (s) => s.rollback.loses !== undefined, 120_000);
    expect(told.rollback).toMatchObject({ safe: false });
    expect(told.rollback.why).toMatch(/meets the same error again and again/);
    await expect(handle.executeUpdate(rollbackUpdate, { args: [WHO] })).rejects.toMatchObject({
      cause: { message: expect.stringMatching(/would lose .*"acceptLoss": true/) as string },
    });
    await rowsOf(migration.blue, 'ALTER TABLE accounts DROP CONSTRAINT strict');
    await until(handle, 'healthy again', (s) => s.rollback.safe && s.rollback.loses === undefined, 180_000);
    await handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    expect(((await handle.result()) as MigrationReport).outcome).toBe('rolledBack');
  }, 400_000);
});
