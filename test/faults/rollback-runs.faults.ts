import type { WorkflowFailedError } from '@temporalio/client';
import { describe, expect, it } from 'vitest';
import { LEDGER_MIGRATIONS, LedgerApplication } from '../support/ledger-application.js';
import { leftovers, rowsOf, until } from '../support/migration.js';
import { recordHistory } from '../support/record-history.js';
import { expectBlueAsBefore, newMigration, quick, rollBackIn, SLOW_STEP } from '../support/rolled-back-run.js';

/* The slower ones of test/e2e/rollback.test.ts. */

describe('a rollback that is asked for by message', () => {
  it.each(['migrate', 'verify', 'traffic', 'promote'] as const)(
    'in phase %s brings blue back and leaves nothing behind',
    rollBackIn,
  );
});

describe('a rollback that is forced by a failure', () => {
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
    await recordHistory(handle, 'failed-gate');

    expect(String((error as WorkflowFailedError).cause?.message)).toMatch(/gate failed in stage 100 %: errorRate/);
    await expectBlueAsBefore(migration, application);
  });

  it('of the verification: a row that is missing on green', async () => {
    const migration = await newMigration({ migrations: [...LEDGER_MIGRATIONS, SLOW_STEP] });
    const application = await LedgerApplication.start(migration);
    const handle = await migration.start();
    await until(handle, 'before the verification', (s) => s.now.includes('slow'));
    await rowsOf(migration.green, 'DELETE FROM entries WHERE id = 77');
    const error: unknown = await handle.result().catch((e: unknown) => e);
    await application.stop();
    await recordHistory(handle, 'failed-verify');

    expect(String((error as WorkflowFailedError).cause?.message)).toMatch(
      /1 row differs between blue and green: public\.entries "id" = 77: missing/,
    );
    await expectBlueAsBefore(migration, application);
    expect(await leftovers(migration.green)).toEqual([]);
  });
});
