import { setTimeout as sleep } from 'node:timers/promises';
import { ApplicationFailure } from '@temporalio/common';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { PlanInput } from '../../src/plan/schema.js';
import { ScriptedRuns, untilCancelled, type Overrides } from '../support/scripted-run.js';

/** Every activity of the run has it in the history. */
const LONG_SQL = `SELECT '${'x'.repeat(150_000)}'`;
const PLAN: Partial<PlanInput> = {
  migrations: [{ sql: { name: 'long', up: LONG_SQL, down: 'SELECT 1' } }],
  standby: { for: '1h', verifyEvery: '1s' },
};

/** As much as the activities of the story before it and half a minute of rests allow; without rests there are hundreds. */
const FEW = 60;

describe('a loop that would fill the history', () => {
  let runs: ScriptedRuns;
  beforeAll(async () => {
    runs = await ScriptedRuns.start();
  }, 60_000);
  afterAll(() => runs.stop());

  const feed: Overrides['watchStandby'] = (_run, _ref, known) => ({
    ...{ health: known === 'lagging' ? 'healthy' : 'lagging', rollbackSafe: true },
    ...{ why: 'to and fro', lagSeconds: 1, loses: null },
  });
  let changes = 0;
  it.each<[string, keyof Overrides, Overrides]>([
    ['a feed that lags and does not, in turns', 'watchStandby', { watchStandby: feed }],
    [
      'DDL without an end',
      'takeSchemaOver',
      {
        watchSchema: (_run, _ref, side) =>
          side === 'green' ? { what: `table t${++changes} is new` } : untilCancelled(),
        takeSchemaOver: () => ({ onlyOnGreen: [], droppedOnBlue: [] }),
      },
    ],
  ])('rests as soon as it has little room: %s', { timeout: 60_000 }, async (_what, activity, overrides) => {
    const run = await runs.begin(overrides, PLAN);
    await run.saw(`+${activity}`, 5);
    let before = -1;
    const size = (): number => run.log.filter((entry) => entry === `+${activity}`).length;
    for (let deadline = Date.now() + 30_000; size() !== before && Date.now() < deadline; await sleep(3_000))
      before = size();
    expect(size()).toBeLessThan(FEW);
    const { raw } = await run.handle.describe();
    expect(Number(raw.workflowExecutionInfo?.historySizeBytes)).toBeLessThan(30 * 2 ** 20);
    await run.handle.terminate('the test is over');
  });

  it('tries to open a stage more rarely', { timeout: 60_000 }, async () => {
    const full = { type: 'FlagsNotWritten', message: 'the volume is full', nonRetryable: false };
    const openStage = (): never => {
      throw ApplicationFailure.create(full);
    };
    // With it the history is a fifth full when the first stage is opened.
    const migrations = [{ sql: { name: 'long', up: `SELECT '${'x'.repeat(700_000)}'`, down: 'SELECT 1' } }];
    const run = await runs.begin({ openStage }, { migrations });
    await run.saw('+openStage');
    // It would be tried again after 2 s, and after 4 s more.
    await sleep(10_000);
    const { raw } = await run.handle.describe();
    expect(Number(raw.workflowExecutionInfo?.historySizeBytes)).toBeGreaterThan(10 * 2 ** 20);
    expect(run.log.filter((entry) => entry === '+openStage')).toHaveLength(1);
    await run.handle.terminate('the test is over');
  });
});
