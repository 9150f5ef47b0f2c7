import { ApplicationFailure } from '@temporalio/common';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { MigrationReport } from '../../workflows/lib/report.js';
import { pauseUpdate, resumeUpdate, rollbackUpdate } from '../../workflows/messages.js';
import { beginAway } from '../support/away-at-retirement.js';
import { statusOf, until } from '../support/migration.js';
import { replayed, ScriptedRuns } from '../support/scripted-run.js';

/* What a retirement does that meets what may pass; that it may be rolled back then: test/workflow/reads-leave-blue.test.ts. */

let runs: ScriptedRuns;

beforeAll(async () => {
  runs = await ScriptedRuns.start();
});

afterAll(() => runs.stop());

const WHO = { by: 'grace', reason: 'the test says so' };

describe.concurrent('a retirement', () => {
  it('that met it is looked at again by itself, and goes on', async () => {
    const { run, back } = await beginAway(runs);
    back();
    expect(((await run.handle.result()) as MigrationReport).outcome).toBe('completed');
    expect(run.log.filter((one) => one === '+retire')).toHaveLength(1);
    await replayed(run);
  });

  it('that met it may be paused: it takes nothing down before it is resumed', async () => {
    const { run, back } = await beginAway(runs);
    await run.handle.executeUpdate(pauseUpdate, { args: [WHO] });
    back();
    await until(run.handle, 'paused', (s) => s.waiting?.why.includes('paused') === true);
    expect(run.log).not.toContain('+retire');
    await run.handle.executeUpdate(resumeUpdate, { args: [WHO] });
    expect(((await run.handle.result()) as MigrationReport).outcome).toBe('completed');
    await replayed(run);
  });

  it(
    'that has begun and fails again and again is told with what it meets, and ends when that is over',
    { timeout: 120_000 },
    async () => {
      let isHeld = true;
      const retire = (): null => {
        if (isHeld) throw ApplicationFailure.retryable('the slot verdigris_x is held by pid 7', 'LockNotHad');
        return null;
      };
      const run = await runs.begin({ retire }, { standby: { for: '1s' } });
      const { waiting, alarms } = await until(run.handle, 'told', (s) => s.waiting?.why.includes('pid 7') === true);
      expect(waiting).toMatchObject({ for: 'retry', why: expect.stringContaining('is not finished') as string });
      expect(alarms).toMatchObject([{ about: 'retirement', state: 'unfinished' }]);
      await expect(run.handle.executeUpdate(rollbackUpdate, { args: [WHO] })).rejects.toMatchObject({
        cause: { message: expect.stringContaining('the retirement has begun') as string },
      });
      isHeld = false;
      expect(((await run.handle.result()) as MigrationReport).outcome).toBe('completed');
      expect((await statusOf(run.handle)).alarms).toEqual([]);
      await replayed(run);
    },
  );
});
