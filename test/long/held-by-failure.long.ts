import { ApplicationFailure } from '@temporalio/common';
import { Worker } from '@temporalio/worker';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { testBundle } from '../support/bundle.js';
import { statusOf, until } from '../support/migration.js';
import { ScriptedRuns, slowly, untilCancelled, type Overrides, type ScriptedRun } from '../support/scripted-run.js';
import type { MigrationReport } from '../../workflows/lib/report.js';
import { pauseUpdate, resumeUpdate, retireUpdate } from '../../workflows/messages.js';

let runs: ScriptedRuns;

beforeAll(async () => {
  runs = await ScriptedRuns.start();
});

afterAll(() => runs.stop());

const WHO = { by: 'grace', reason: 'the test says so' };
const COPY = { bootstrap: { method: 'copy', parallel: 2 } } as const;

/** To the end, and once more from its history. */
async function completed(run: ScriptedRun): Promise<void> {
  await run.saw('+watchStandby');
  await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
  expect(((await run.handle.result()) as MigrationReport).outcome).toBe('completed');
  await Worker.runReplayHistory(
    { workflowBundle: await testBundle() },
    await run.handle.fetchHistory(),
    run.handle.workflowId,
  );
}

describe.concurrent('a run that compares, fails and is held', () => {
  it('reads the rows again after a resume: not a pass that has found its differences, but one that was paused', async () => {
    const passes: string[] = [];
    const run = await runs.begin(
      {
        verify: (_run, _ref, _source, scope, pass) => {
          passes.push(`${scope} ${pass}`);
          return passes.length === 1 ? untilCancelled() : found(passes.length === 2 || passes.length === 4 ? 1 : 0);
        },
      },
      { onFailure: 'hold' },
    );
    await run.saw('+verify');
    await run.handle.executeUpdate(pauseUpdate, { args: [WHO] });
    await until(run.handle, 'paused', (s) => s.waiting?.why === 'paused by message');
    await run.handle.executeUpdate(resumeUpdate, { args: [WHO] });
    for (const phase of ['verify', 'promote']) {
      const held = await until(run.handle, 'held', (s) => s.phase === phase && s.waiting?.for === 'resume');
      expect(held.waiting?.why).toMatch(/1 row differs between blue and green: public\.orders "id" = 7: different/);
      expect(held.waiting?.why).toMatch(/mend it and resume/);
      await run.handle.executeUpdate(resumeUpdate, { args: [WHO] });
    }
    await completed(run);
    expect(passes).toEqual(['all pass 1', 'all pass 1', 'all pass 2', 'changed pass 3', 'changed pass 4']);
    expect(run.log).not.toContain('+undoReplication');
  });

  it('asks again for orphans of a new foreign key once they are corrected, and rolls nothing back by default', async () => {
    const references = { table: 'users', columns: ['id'] };
    const orphans = ['1 rows of public.orders violate the foreign key orders_user'];
    const run = await runs.begin(
      { recheckForeignKeys: () => orphans.splice(0) },
      {
        migrations: [
          { addConstraint: { table: 'orders', name: 'orders_user', foreignKey: { columns: ['user_id'], references } } },
        ],
      },
    );
    const held = await until(run.handle, 'held', (s) => s.phase === 'promote' && s.waiting?.for === 'resume');
    expect(held.waiting?.why).toMatch(/orders_user\nNext step: correct these rows on blue .*, then resume/);
    await run.handle.executeUpdate(resumeUpdate, { args: [WHO] });
    await completed(run);
    expect(run.log.filter((entry) => entry === '+recheckForeignKeys')).toHaveLength(2);
    expect(run.log).not.toContain('+undoReplication');
  });

  it('tells the columns that were not compared', async () => {
    const run = await runs.begin({ verify: () => ({ ...found(0), notCompared: ['public.orders.note'] }) });
    await completed(run);
    expect((await statusOf(run.handle)).warnings).toEqual([
      expect.stringMatching(/^not compared, .*: public\.orders\.note$/),
    ]);
  });

  it('publishes a table of blue that has come without a key once that is mended, and undoes nothing by default', async () => {
    const keyless = ['public.tmp_import has no primary key'];
    const planCopy = (): unknown => {
      const why = keyless.pop();
      if (why !== undefined) throw ApplicationFailure.nonRetryable(why, 'IdentityMissing');
      return { parcels: [], tables: 1 };
    };
    const run = await runs.begin({ ...copyOf([]), planCopy }, COPY);
    await until(run.handle, 'held', (s) => s.phase === 'replicate' && s.waiting?.for === 'resume');
    await run.handle.executeUpdate(resumeUpdate, { args: [WHO] });
    await completed(run);
    expect(run.log.filter((entry) => entry === '+planCopy')).toHaveLength(2);
    expect(run.log).not.toContain('+undoReplication');
  });

  it('tries again what a row of the application has stopped, as often as it takes, by default too', async () => {
    const rows = ['"id" = 1', '"id" = 2'];
    const run = await runs.begin({
      backfillTables: () => {
        const row = rows.shift();
        if (row === undefined) return [];
        throw ApplicationFailure.nonRetryable(`the backfill failed on the row with ${row}`, 'BackfillFailed');
      },
      expandTables: () => ({ tables: ['public.orders'], steps: [], beforeSql: 0 }),
    });
    for (const row of ['"id" = 1', '"id" = 2']) {
      await until(run.handle, row, (s) => s.waiting?.for === 'resume' && s.waiting.why.includes(row));
      await run.handle.executeUpdate(resumeUpdate, { args: [WHO] });
    }
    await completed(run);
    expect((await statusOf(run.handle)).warnings).toHaveLength(2);
  });
});

/** A copy of three tables, of which the first is cut in three; its first parcel meets a row that is in the way. */
function copyOf(copied: number[], alsoFails?: number): Overrides {
  const tables = ['big', 'big', 'middle', 'big', 'small'];
  const lost = (): boolean => copied.length > 0;
  return {
    planCopy: () => ({ parcels: tables.map((table, id) => ({ id, label: `${table} ${id}`, bytes: 1, table })) }),
    holdSnapshot: () => (lost() ? 'lost' : untilCancelled()),
    awaitSnapshot: () => (lost() ? 'lost' : 'ready'),
    copyParcel: async (_run, _ref, id) => {
      if (id === 0 || id === alsoFails)
        throw ApplicationFailure.nonRetryable(`bad row of parcel ${id}`, 'BackfillFailed');
      await slowly(300);
      copied.push(id);
      return { outcome: 'copied', rows: 1, bytes: 1 };
    },
    expandTables: () => ({ tables: [], steps: [], beforeSql: 0 }),
  };
}

describe.concurrent('a row that stops the copy of its table', () => {
  it('lets the parcels of other tables come to their end before the run holds, and begins no other of its own', async () => {
    const copied: number[] = [];
    const run = await runs.begin(copyOf(copied), COPY);
    await until(run.handle, 'told', (s) => s.warnings.includes('bad row of parcel 0'));
    const held = await until(run.handle, 'held', (s) => s.waiting?.for === 'resume');
    expect(held.waiting?.why).toBe('bad row of parcel 0');
    // The second one had begun beside the first.
    expect(copied.sort()).toEqual([1, 2, 4]);
    expect(run.log).not.toContain('+finishCopy');
    await run.handle.executeUpdate(resumeUpdate, { args: [WHO] });
    await completed(run);
    expect(run.log.filter((entry) => entry === '+finishCopy')).toHaveLength(1);
    expect(copied).toHaveLength(3);
  });

  it('is named beside those of other tables', async () => {
    const run = await runs.begin(copyOf([], 2), COPY);
    const held = await until(run.handle, 'held', (s) => s.waiting?.for === 'resume');
    expect(held.waiting?.why).toBe('bad row of parcel 0\nbad row of parcel 2');
    await run.handle.executeUpdate(resumeUpdate, { args: [WHO] });
    await completed(run);
  });

  it('ends the copy at once where the plan has such a run rolled back', async () => {
    const copied: number[] = [];
    const fails = copyOf(copied);
    // The parcel beside the one that fails would go on for ever.
    const copyParcel: Overrides['copyParcel'] = (...args) =>
      args[2] === 0 ? fails.copyParcel?.(...args) : untilCancelled();
    const run = await runs.begin({ ...fails, copyParcel }, { ...COPY, onFailure: 'rollback' });
    await expect(run.handle.result()).rejects.toThrow();
    expect(run.log.filter((entry) => entry === '+copyParcel').length).toBeLessThanOrEqual(2);
  });
});

function found(differingRows: number): object {
  const examples = differingRows === 0 ? [] : ['public.orders "id" = 7: different'];
  return { scope: 'all', tables: 1, rowsVerified: 1, differingRows, examples, at: '2026-11-22T00:00:00Z' };
}
