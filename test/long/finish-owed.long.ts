import { WorkflowFailedError } from '@temporalio/client';
import { ApplicationFailure } from '@temporalio/common';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { statusOf, until } from '../support/migration.js';
import { replayed, ScriptedRuns, untilCancelled, type Overrides } from '../support/scripted-run.js';
import type { Side } from '../../src/side.js';
import type { MigrationReport } from '../../workflows/lib/report.js';
import { retireUpdate, rollbackUpdate } from '../../workflows/messages.js';

let runs: ScriptedRuns;

beforeAll(async () => {
  runs = await ScriptedRuns.start();
});

afterAll(() => runs.stop());

const WHO = { by: 'grace', reason: 'the test says so' };

/** What follows the decision is refused when it moved the writes away from this side, so many times. */
function refusing(side: Side, times: number): Overrides {
  let left = times;
  return {
    finishPromotion: (_run, _ref, from) => {
      if (from !== side || left-- <= 0) return null;
      throw ApplicationFailure.nonRetryable('the other side is lost\nNext step: none', 'SqlError');
    },
    watchStandby: (_run, _ref, known) =>
      known === 'unfinished'
        ? { health: 'unreachable', rollbackSafe: false, why: 'blue is away', lagSeconds: null, loses: null }
        : untilCancelled(),
  };
}

describe.concurrent('what follows a decision can not be finished', () => {
  it('after the promotion: the run goes on into its standby window, watches, says so, and hears retire', async () => {
    const run = await runs.begin(refusing('blue', 1_000));
    const status = await until(run.handle, 'in standby', (s) => s.phase === 'standby' && s.alarms?.length === 2);
    // Which of the two it names depends on which was told last.
    expect(status.rollback).toMatchObject({
      safe: false,
      why: expect.stringMatching(/blue is away|still owed/) as string,
    });
    // Which comes first depends on which was told first.
    expect(status.alarms?.map(({ about, state }) => `${about}: ${state}`).sort()).toEqual([
      'feed: unreachable',
      'finish: green',
    ]);
    expect(status.warnings).toContainEqual(
      'writes are on green, but the end of the feed to green and the begin of the one to blue is still owed: the other side is lost',
    );
    await run.saw('+finishPromotion', 2);
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    expect(((await run.handle.result()) as MigrationReport).outcome).toBe('completed');
  });

  it('until later: it is finished in the standby window, and that is over', async () => {
    const run = await runs.begin(refusing('blue', 1));
    await run.saw('-finishPromotion', 2);
    const status = await until(run.handle, 'over', (s) => s.alarms?.map(({ about }) => about).join() === 'feed');
    expect(status.phase).toBe('standby');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    expect(((await run.handle.result()) as MigrationReport).outcome).toBe('rolledBack');
  });

  it('on the way back: the other compensations run, and the report says what is left', async () => {
    const run = await runs.begin(refusing('green', 1_000));
    await run.saw('+watchStandby');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    const error: unknown = await run.handle.result().catch((e: unknown) => e);
    expect(error).toBeInstanceOf(WorkflowFailedError);
    const { rollingBack, writesOn } = await statusOf(run.handle);
    expect(writesOn).toBe('blue');
    expect(rollingBack?.undone).toContain('writes back to blue');
    expect(rollingBack?.notUndone).toEqual(['what follows the move of the writes: the other side is lost']);
    for (const name of ['undoReplication', 'removeFence', 'releaseDatabases']) run.at(`-${name}`);
  });

  it('on the way back, until the other compensations have done it: the run is rolled back, and nothing is left', async () => {
    const run = await runs.begin(refusing('green', 1));
    await run.saw('+watchStandby');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    const report = (await run.handle.result()) as MigrationReport;
    expect(report).toMatchObject({ outcome: 'rolledBack', rollingBack: { notUndone: [] } });
    // The databases still say where writes are.
    expect(run.at('+finishPromotion', run.at('-undoReplication'))).toBeLessThan(run.at('+releaseDatabases'));
    await replayed(run);
  });
});

describe.concurrent('a blue that is gone for good', () => {
  it('does not keep a retirement: the run completes, and says what is left there', async () => {
    const left = 'blue is out of reach (it is away), so what the run has there is left: subscription s';
    const run = await runs.begin({ retire: () => left });
    await run.saw('+watchStandby');
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    const report = (await run.handle.result()) as MigrationReport;
    expect(report.outcome).toBe('completed');
    expect(report.now).toBe(`completed: green is the primary, ${left}`);
    expect((await statusOf(run.handle)).warnings).toContain(left);
    await replayed(run);
  });
});
