import { WorkflowFailedError } from '@temporalio/client';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { statusOf, until } from '../support/migration.js';
import { replayed, ScriptedRuns, type StartOptions } from '../support/scripted-run.js';
import type { PlanInput } from '../../src/plan/schema.js';
import { retireUpdate } from '../../workflows/messages.js';

let runs: ScriptedRuns;

beforeAll(async () => {
  runs = await ScriptedRuns.start();
});

afterAll(() => runs.stop());

const WHO = { by: 'grace', reason: 'the test says so' };

describe.concurrent('a run that is started with a time-out of Temporal', () => {
  const REFUSED: Record<string, [StartOptions, Partial<PlanInput>]> = {
    'of the execution': [{ workflowExecutionTimeout: '50m' }, {}],
    'of the run': [{ workflowRunTimeout: '50m' }, {}],
    'that is shorter than its windows': [
      { workflowExecutionTimeout: '100h' },
      { windows: { timezone: 'UTC', promote: ['Sat 02:00-04:00'] } },
    ],
  };

  it.each(Object.entries(REFUSED))('%s is refused before anything is touched', async (_what, [timeouts, plan]) => {
    const run = await runs.begin({}, plan, timeouts);
    const error: unknown = await run.handle.result().catch((e: unknown) => e);
    expect(error).toBeInstanceOf(WorkflowFailedError);
    expect((error as WorkflowFailedError).cause).toMatchObject({
      type: 'PreflightFailed',
      message: expect.stringMatching(
        /time-out, nothing was touched: .* may take (1|167) h\nNext step: start it without --execution-timeout/,
      ) as unknown,
    });
    expect(run.log).toEqual(['+lintPlan', '-lintPlan']);
    expect((await statusOf(run.handle)).outcome).toBe('failed');
  });

  it('that is long enough is warned, with the time, and goes on', async () => {
    const run = await runs.begin({}, {}, { workflowExecutionTimeout: '5d' });
    const status = await until(run.handle, 'in the standby window', (s) => s.waiting?.for === 'standby');
    const started = Date.parse(status.phases[0]?.startedAt ?? '');
    const [warning = ''] = status.warnings;
    const at = Date.parse(/at (\S+Z) Temporal ends it as it is, without a rollback/.exec(warning)?.[1] ?? '');
    expect(Math.abs(at - started - 5 * 86_400_000)).toBeLessThan(60_000);
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    await run.handle.result();
    await replayed(run);
  });

  it('that has none is not warned', async () => {
    const run = await runs.begin();
    expect((await until(run.handle, 'in the standby window', (s) => s.waiting?.for === 'standby')).warnings).toEqual(
      [],
    );
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    await run.handle.result();
  });
});
