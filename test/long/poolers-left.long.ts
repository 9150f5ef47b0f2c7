import { WorkflowFailedError } from '@temporalio/client';
import { ApplicationFailure, CancelledFailure } from '@temporalio/common';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { inPhase, statusOf, until } from '../support/migration.js';
import { replayed, ScriptedRuns, untilCancelled, type ScriptedRun } from '../support/scripted-run.js';
import { approveUpdate, pauseUpdate, resumeUpdate, rollbackUpdate } from '../../workflows/messages.js';

let runs: ScriptedRuns;

beforeAll(async () => {
  runs = await ScriptedRuns.start();
});

afterAll(() => runs.stop());

const WHO = { by: 'grace', reason: 'the test says so' };
const LEFT = 'these poolers are not back where writes are: "pooler_1" (it does not answer)';

/** When a worker of such an activity counts as dead, in seconds after its last word; the same each time. */
async function missedAfter({ handle }: ScriptedRun, activity: string): Promise<number[]> {
  const { events } = await handle.fetchHistory();
  const scheduled = (events ?? []).map((event) => event.activityTaskScheduledEventAttributes);
  return [
    ...new Set(
      scheduled
        .filter((one) => one?.activityType?.name === activity)
        .map((one) => Number(one?.heartbeatTimeout?.seconds ?? 0)),
    ),
  ];
}

describe.concurrent('a pooler that is lost while a promotion is tried', () => {
  it('keeps no compensation from being undone, and the report names it', async () => {
    const run = await runs.begin({
      promote: () => untilCancelled(),
      withdrawPromotion: () => LEFT,
    });
    await run.saw('+promote');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    const error: unknown = await run.handle.result().catch((e: unknown) => e);
    expect(error).toBeInstanceOf(WorkflowFailedError);
    const { rollingBack, greenReadPercent } = await statusOf(run.handle);
    expect(greenReadPercent).toBe(0);
    expect(rollingBack?.notUndone).toEqual([`end the tries of the promotion: ${LEFT}`]);
    expect(rollingBack?.undone).toEqual(
      expect.arrayContaining(['writes back to blue', 'all reads back to blue', 'release both databases']),
    );
    // Its clients wait for whoever ends the tries as they do for whoever promotes.
    expect(await missedAfter(run, 'withdrawPromotion')).toEqual(await missedAfter(run, 'promote'));
    await replayed(run);
  });

  it('leaves the promotion to the gates and the approval, once its clients go on', async () => {
    let tries = 0;
    let left: string | null = LEFT;
    const run = await runs.begin({
      promote: (own, _ref, from) => {
        if (tries++ > 0) return own.move(from);
        throw ApplicationFailure.nonRetryable(`${LEFT}\nNext step: let the worker reach them`, 'PoolNotReleased');
      },
      withdrawPromotion: () => left,
    });
    await until(run.handle, 'told', (s) => s.waiting?.for === 'retry' && s.waiting.why === LEFT);
    // The gates are watched meanwhile, and nobody is asked yet.
    const opened = (entry: string): number => run.log.filter((one) => one === entry).length;
    expect(opened('+watchGates')).toBe(opened('-watchGates') + 1);
    left = null;
    const asked = await until(run.handle, 'asked', (s) => s.waiting?.for === 'approval', 30_000);
    expect(asked.waiting?.why).toMatch(/pooler_1/);
    expect(tries).toBe(1);
    await run.handle.executeUpdate(approveUpdate, { args: [{ ...WHO, gate: 'promote' }] });
    await until(run.handle, 'promoted', inPhase('standby'));
    expect(run.writesOn).toBe('green');
    await replayed(run);
  });

  it('is released while the run is paused, when the try that a pause has ended could not, and the gates are watched', async () => {
    let tries = 0;
    let left: string | null = LEFT;
    const run = await runs.begin({
      promote: async (own, _ref, from) => {
        if (tries++ > 0) return own.move(from);
        // What it has met on its way out is not told.
        await untilCancelled().catch(() => undefined);
        throw new CancelledFailure('cancelled');
      },
      withdrawPromotion: (_run, _ref, goesOn) => (goesOn === true ? left : 'the run goes on'),
    });
    await run.saw('+promote');
    await run.handle.executeUpdate(pauseUpdate, { args: [WHO] });
    await until(run.handle, 'told', (s) => s.paused && s.waiting?.for === 'retry' && s.waiting.why === LEFT);
    const opened = (entry: string): number => run.log.filter((one) => one === entry).length;
    expect(opened('+watchGates')).toBe(opened('-watchGates') + 1);
    left = null;
    await until(run.handle, 'paused', (s) => s.paused && s.waiting?.why === 'paused by message');
    expect(tries).toBe(1);
    expect(await missedAfter(run, 'withdrawPromotion')).toEqual(await missedAfter(run, 'promote'));
    await run.handle.executeUpdate(resumeUpdate, { args: [WHO] });
    await until(run.handle, 'promoted', inPhase('standby'));
    expect(run.writesOn).toBe('green');
    await replayed(run);
  });
});
