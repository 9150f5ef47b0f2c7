import { ApplicationFailure } from '@temporalio/common';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { until } from '../support/migration.js';
import { resultOf } from '../support/run-end.js';
import { replayed, ScriptedRuns, untilCancelled } from '../support/scripted-run.js';
import { approveSignal, pauseSignal, retireSignal, rollbackSignal, rollbackUpdate } from '../../workflows/messages.js';

/* Two orders that a run hears of at once, or one after the other while it stops: a rollback that was accepted is followed. */

let runs: ScriptedRuns;

beforeAll(async () => {
  runs = await ScriptedRuns.start();
});

afterAll(() => runs.stop());

const WHO = { by: 'grace', reason: 'the test says so' };

it('a rollback wins over an approval, a pause or a retirement that was heard right before it', async () => {
  const approved = await runs.begin(
    {},
    { traffic: { stages: [{ percent: 1, for: '0s' }], approval: { before: ['promote'] } } },
  );
  const paused = await runs.begin({ verify: () => untilCancelled() });
  const retired = await runs.begin();
  const { waiting } = await until(approved.handle, 'asked', (s) => s.waiting?.gate === 'promote');
  await paused.saw('+verify');
  await retired.saw('+watchStandby');

  // Whoever comes finds both in one task.
  await runs.down();
  const request = waiting?.request;
  await approved.handle.signal(approveSignal, {
    ...{ ...WHO, gate: 'promote' },
    ...(request === undefined ? {} : { request }),
  });
  await paused.handle.signal(pauseSignal, WHO);
  await retired.handle.signal(retireSignal, WHO);
  for (const { handle } of [approved, paused, retired]) await handle.signal(rollbackSignal, WHO);
  await runs.up();

  for (const [run, first] of [
    [approved, 'approve'],
    [paused, 'pause'],
    [retired, 'retire'],
  ] as const) {
    const { outcome, decisions } = await resultOf(run);
    expect([first, outcome]).toEqual([first, 'rolledBack']);
    expect(decisions.map(({ message, ignored }) => [message, ignored])).toEqual([
      [first, undefined],
      ['rollback', undefined],
    ]);
    expect(run.writesOn).toBe('blue');
    run.at('-releaseDatabases');
    await replayed(run);
  }
  expect(approved.log).not.toContain('+promote');
  expect(retired.log).not.toContain('+retire');
});

describe.concurrent('a rollback by message and a cancel', () => {
  it('that comes while a loss is to be accepted: it goes on, and the run is rolled back, not cancelled', async () => {
    const run = await runs.begin({
      promote: (own, _ref, from, _epoch, acceptLoss) => {
        if (from === 'blue' || acceptLoss === true) return own.move(from);
        throw ApplicationFailure.nonRetryable(
          'its slot is gone; a rollback would lose about 12 writes',
          'RollbackUnsafe',
        );
      },
    });
    await run.saw('+watchStandby');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    await until(run.handle, 'asked', (s) => s.waiting?.for === 'confirmation');
    await run.handle.cancel();
    await run.handle.executeUpdate(rollbackUpdate, { args: [{ ...WHO, acceptLoss: true }] });
    expect((await resultOf(run)).outcome).toBe('rolledBack');
    expect(run.writesOn).toBe('blue');
    await replayed(run);
  });

  it('that came before it, with the watch still about to stop: the same', async () => {
    const run = await runs.begin({ watchStandby: () => untilCancelled(600) });
    await run.saw('+watchStandby');
    await run.handle.cancel();
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    expect(run.log).not.toContain('-watchStandby');
    expect((await resultOf(run)).outcome).toBe('rolledBack');
    expect(run.writesOn).toBe('blue');
    await replayed(run);
  });
});
