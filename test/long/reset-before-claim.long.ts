import { ApplicationFailure, CancelledFailure } from '@temporalio/common';
import type { WorkflowFailedError, WorkflowHandle } from '@temporalio/client';
import { Worker } from '@temporalio/worker';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { PlanInput } from '../../src/plan/schema.js';
import type { MigrationReport } from '../../workflows/lib/report.js';
import { rollbackUpdate } from '../../workflows/messages.js';
import { testBundle } from '../support/bundle.js';
import { statusOf, until } from '../support/migration.js';
import { resetBefore } from '../support/reset.js';
import { ScriptedRuns, untilCancelled, type Overrides, type ScriptedRun } from '../support/scripted-run.js';

/* `temporal workflow reset` to a point before the run replicates: it remembers nothing of what is in its databases, but its claim. */

let runs: ScriptedRuns;

beforeAll(async () => {
  runs = await ScriptedRuns.start();
});

afterAll(() => runs.stop());

const WHO = { by: 'grace', reason: 'the test says so' };
const IN_STAGE: Partial<PlanInput> = {
  traffic: { stages: [{ percent: 10, for: '1h' }], approval: { before: [] } },
};
const EVERYTHING = ['+removeFence', '+undoMigrations', '+undoReplication', '+releaseDatabases'];

/** In its stage, and reset to before its preflight, or another activity. @param overrides what is so from then on */
async function inPreflightAgain(
  overrides: Overrides = {},
  plan = IN_STAGE,
  activity = 'preflight',
): Promise<ScriptedRun> {
  const now: Overrides = { followFromPromotion: () => ({ warnings: [] }) };
  const run = await runs.begin(now, plan);
  await until(run.handle, 'in its stage', (s) => s.greenReadPercent === 10 && s.waiting?.for === 'stage');
  Object.assign(now, { preflight: () => untilCancelled(), ...overrides });
  await resetBefore(run.handle, activity);
  await run.saw(`+${activity}`, 2);
  return run;
}

function again(run: ScriptedRun): WorkflowHandle {
  return runs.client.workflow.getHandle(run.handle.workflowId);
}

async function rolledBack(run: ScriptedRun): Promise<MigrationReport> {
  await again(run).executeUpdate(rollbackUpdate, { args: [WHO] });
  const report = (await again(run).result()) as MigrationReport;
  expect(report.outcome).toBe('rolledBack');
  await replayed(run);
  return report;
}

async function failureOf(run: ScriptedRun): Promise<Error | undefined> {
  const error: unknown = await again(run)
    .result()
    .catch((e: unknown) => e);
  await replayed(run);
  return (error as WorkflowFailedError).cause;
}

/** The same as people are told it. */
const EVERYTHING_UNDONE = {
  undone: [
    'take the fence off both sides',
    'undo the schema changes on green',
    'drop replication, and what was copied to green unless it has been primary',
    'release both databases',
  ],
  notUndone: [],
};

async function replayed(run: ScriptedRun): Promise<void> {
  const workflowBundle = await testBundle();
  await Worker.runReplayHistory({ workflowBundle }, await again(run).fetchHistory(), run.handle.workflowId);
}

function undone(run: ScriptedRun): string[] {
  return run.log.filter((entry) => EVERYTHING.includes(entry));
}

describe.concurrent('a run that was reset to a point before it claims its databases', () => {
  it('undoes everything that is there when it is rolled back', async () => {
    const run = await inPreflightAgain();
    expect((await rolledBack(run)).rollingBack).toMatchObject(EVERYTHING_UNDONE);
    expect(undone(run)).toEqual(EVERYTHING);
  });

  it('and whose plan has not been read yet, too', async () => {
    let read = 0;
    const lintPlan: Overrides['lintPlan'] = (own, input) => (++read === 1 ? untilCancelled() : own.lint(input));
    const run = await inPreflightAgain({ lintPlan }, IN_STAGE, 'lintPlan');
    await rolledBack(run);
    expect(undone(run)).toEqual(EVERYTHING);
  });

  it('when it is cancelled, too', async () => {
    const run = await inPreflightAgain();
    await again(run).cancel();
    expect(await failureOf(run)).toBeInstanceOf(CancelledFailure);
    expect(undone(run)).toEqual(EVERYTHING);
  });

  it('and when its preflight fails: somebody else would find all of it later', async () => {
    const refused = ApplicationFailure.nonRetryable('blue is no primary', 'PreflightFailed');
    const run = await inPreflightAgain({
      preflight: () => {
        throw refused;
      },
    });
    expect(await failureOf(run)).toMatchObject({
      type: 'MigrationRolledBack',
      message: 'rolled back: blue is no primary',
    });
    expect(undone(run)).toEqual(EVERYTHING);
  });

  it('also settles a green that was a standby', async () => {
    const run = await inPreflightAgain(
      { settleStandby: () => ({ notUndone: ['it is a primary now'] }) },
      {
        ...IN_STAGE,
        bootstrap: { method: 'standby' },
      },
    );
    expect((await rolledBack(run)).warnings).toContain('it is a primary now');
    expect(run.at('+settleStandby')).toBeLessThan(run.at('+undoReplication'));
  });

  it('undoes nothing where the databases are not its own', async () => {
    const run = await inPreflightAgain({ tracesOfRun: () => ({ isOwner: false, isBack: false }) });
    expect((await rolledBack(run)).rollingBack?.undone).toEqual([]);
    expect(undone(run)).toEqual([]);
  });

  it('where they do not say whose they are undoes what can be there, and drops no row', async () => {
    const keeps: unknown[] = [];
    const run = await inPreflightAgain({
      tracesOfRun: () => {
        throw ApplicationFailure.nonRetryable('green is no database', 'ConnectionFailed');
      },
      undoReplication: (_run, _ref, { keepGreen }) => void keeps.push(keepGreen),
    });
    const { warnings } = await rolledBack(run);
    expect(warnings).toContainEqual(expect.stringContaining('green is no database'));
    expect(keeps).toEqual([true]);
    expect(undone(run)).toEqual(EVERYTHING);
  });

  it('and whose plan no worker takes any more says that nothing is known to be undone', async () => {
    const refused = ApplicationFailure.nonRetryable('the plan has an unknown field', 'PlanInvalid');
    const run = await inPreflightAgain(
      {
        lintPlan: () => {
          throw refused;
        },
      },
      IN_STAGE,
      'lintPlan',
    );
    const message = (await failureOf(run))?.message;
    expect(message).toMatch(/Not undone: what was done before the reset: the plan has an unknown field/);
    expect(message).toMatch(/verdigris doctor .*--clean/);
    expect((await statusOf(again(run))).outcome).toBe('failed');
  });
});

describe.concurrent('a run that was reset to a point at which it knows of its claim alone', () => {
  it.each(['claimDatabases', 'beginSchemaWatch'])('undoes everything that is there: before %s', async (activity) => {
    const run = await inPreflightAgain({ [activity]: () => untilCancelled() }, IN_STAGE, activity);
    expect((await rolledBack(run)).rollingBack).toMatchObject(EVERYTHING_UNDONE);
    expect(undone(run)).toEqual(EVERYTHING);
  });

  it('and whose databases are not its own gives back no more than it has claimed', async () => {
    const run = await inPreflightAgain(
      { claimDatabases: () => untilCancelled(), tracesOfRun: () => ({ isOwner: false, isBack: false }) },
      IN_STAGE,
      'claimDatabases',
    );
    expect((await rolledBack(run)).rollingBack?.undone).toEqual(['release both databases']);
    expect(undone(run)).toEqual(['+releaseDatabases']);
  });
});

describe('a run that was reset when its rollback had brought writes back', () => {
  it('drops no row of green in the next one, which does not know what that has left there', async () => {
    const keeps: unknown[] = [];
    const run = await runs.begin(
      { undoReplication: (_run, _ref, { keepGreen }) => void keeps.push(keepGreen) },
      { green: { connection: 'g', afterRollback: 'drop' } },
    );
    await run.saw('+watchStandby');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    expect(((await run.handle.result()) as MigrationReport).outcome).toBe('rolledBack');
    await resetBefore(run.handle, 'watchStandby');
    await run.saw('+watchStandby', 2);
    const { warnings } = await rolledBack(run);
    expect(keeps).toEqual([false, true]);
    expect(warnings).toContainEqual(expect.stringMatching(/green is kept, fenced/));
  });
});
