import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from 'vitest';
import type { MigrationReport } from '../../workflows/lib/report.js';
import { rollbackUpdate } from '../../workflows/messages.js';
import { expectGreenClosed, newMigration, SLOW_STEP, WHO } from '../support/rolled-back-run.js';
import { inPhase, leftovers, statusOf, until } from '../support/migration.js';
import { withClient } from '../support/postgres.js';

/** Longer than one activity tries to arm one table. */
const HELD_MS = 18_000;

it('green is fenced before it is compared, however long somebody locks one of its tables', async () => {
  const migration = await newMigration(
    { migrations: [SLOW_STEP], verify: { parallel: 1, rest: 0.97 }, onFailure: 'rollback' },
    true,
  );
  const handle = await migration.start();
  await until(handle, 'before the fence', (s) => s.now.includes('slow'));
  await withClient(migration.green.config, async (client) => {
    await client.query('BEGIN; LOCK TABLE accounts IN ROW EXCLUSIVE MODE');
    await until(handle, 'closing green', (s) => s.now.includes('closing green'));
    await sleep(HELD_MS);
    expect(await statusOf(handle)).toMatchObject({ phase: 'migrate', outcome: 'running' });
    await client.query('ROLLBACK');
  });
  await until(handle, 'comparing', inPhase('verify'));
  await expectGreenClosed(migration);
  await handle.executeUpdate(rollbackUpdate, { args: [WHO] });
  const report = (await handle.result()) as MigrationReport;
  expect(report).toMatchObject({ outcome: 'rolledBack', phase: 'verify', rollingBack: { notUndone: [] } });
  expect(await leftovers(migration.green)).toEqual([]);
});
