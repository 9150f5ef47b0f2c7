import { ApplicationFailure, CancelledFailure } from '@temporalio/common';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { until } from '../support/migration.js';
import { failureOf, resultOf } from '../support/run-end.js';
import { replayed, ScriptedRuns, untilCancelled, type Overrides, type ScriptedRun } from '../support/scripted-run.js';
import { pauseUpdate, retireUpdate, rollbackSignal, rollbackUpdate } from '../../workflows/messages.js';

/* What the databases say of the writes is not what the run has seen: its workflow was reset, or a late worker has decided. */

let runs: ScriptedRuns;

beforeAll(async () => {
  runs = await ScriptedRuns.start();
});

afterAll(() => runs.stop());

const WHO = { by: 'grace', reason: 'the test says so' };

function asked(run: ScriptedRun, entry: string): number {
  return run.log.filter((one) => one === entry).length;
}

describe.concurrent('a run in its standby window whose writes are back on blue', () => {
  it('is not completed by a retirement: what the rollback has left is undone, and the run says so', async () => {
    const epochs: unknown[] = [];
    const run = await runs.begin({
      retire: (own, _ref, epoch) => {
        epochs.push(epoch);
        if (own.writesOn === 'green') return null;
        throw ApplicationFailure.nonRetryable('writes have been given back to blue (epoch 3)', 'WritesOnBlue');
      },
    });
    await run.saw('+watchStandby');
    run.move('green');
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    const error = await failureOf(run);
    expect(error.cause?.message).toMatch(/^rolled back: writes have been given back to blue/);
    expect(epochs).toEqual([2]);
    expect(asked(run, '+promote')).toBe(1);
    run.at('-releaseDatabases', run.at('-undoReplication', run.at('-retire')));
    await replayed(run, 'retirement-after-way-back');
  });

  it('waits for no reads to leave blue through HAProxy before that', async () => {
    const givenBack = ApplicationFailure.nonRetryable('writes have been given back to blue (epoch 3)', 'WritesOnBlue');
    const run = await runs.begin(
      { readsHaveLeftBlue: () => Promise.reject(givenBack) },
      {
        traffic: {
          stages: [{ percent: 1, for: '0s' }],
          approval: { before: [] },
          haproxy: { backend: 'reads', instances: ['haproxy_1'] },
        },
      },
    );
    await run.saw('+watchStandby');
    run.move('green');
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    expect((await failureOf(run)).cause?.message).toMatch(/^rolled back: writes have been given back to blue/);
    expect(run.log).not.toContain('+retire');
    await replayed(run, 'reads-after-way-back');
  });
});

describe.concurrent('a way back that was decided before', () => {
  it('is finished first where blue is still to be opened', async () => {
    const run = await runs.begin({
      // Blue's row is behind.
      whereWritesAre: (own) =>
        own.writesOn === 'blue' && own.log.filter((one) => one === '+promote').length === 1
          ? { writesOn: 'blue', epoch: own.epoch, isOpen: false }
          : { writesOn: own.writesOn, epoch: own.epoch },
    });
    await run.saw('+watchStandby');
    run.move('green');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    expect((await resultOf(run)).outcome).toBe('rolledBack');
    expect(run.log).not.toContain('+withdrawPromotion');
    expect(asked(run, '+promote')).toBe(2);
    run.at('+undoReplication', run.at('-finishPromotion', run.at('-promote', run.at('-whereWritesAre'))));
    await replayed(run, 'way-back-not-opened');
  });

  it('also where it shows only when green refuses to be opened', async () => {
    const run = await runs.begin({
      promote: (own, _ref, from) => {
        if (own.writesOn === 'green' || from === 'green') return own.move(from);
        if (own.epoch === 1) return own.move('blue');
        throw ApplicationFailure.nonRetryable('verdigris: epoch 2 is over, the route is at 3', 'StaleEpoch');
      },
      whereWritesAre: (own) =>
        asked(own, '+whereWritesAre') === 1
          ? { writesOn: 'green', epoch: 2 }
          : { writesOn: 'blue', epoch: own.epoch, isOpen: false },
    });
    await run.saw('+watchStandby');
    run.move('green');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    expect((await resultOf(run)).outcome).toBe('rolledBack');
    expect(asked(run, '+whereWritesAre')).toBe(2);
    run.at('-finishPromotion', run.at('-promote', run.at('-whereWritesAre', run.at('-whereWritesAre') + 1)));
    await replayed(run);
  });
});

describe.concurrent('a promotion that a late worker decides while it is withdrawn', () => {
  it('is finished, and gone back from', async () => {
    const run = await runs.begin({
      promote: async (own, _ref, from) => {
        if (from === 'green' || own.writesOn === 'green') return own.move(from);
        await untilCancelled().catch(() => undefined);
        throw new CancelledFailure('cancelled');
      },
      withdrawPromotion: (own) => {
        own.move('blue');
        throw ApplicationFailure.nonRetryable('green has been given the writes meanwhile (epoch 2)', 'WritesOnGreen');
      },
    });
    await run.saw('+promote');
    await run.handle.signal(rollbackSignal, WHO);
    expect((await resultOf(run)).outcome).toBe('rolledBack');
    expect(run.writesOn).toBe('blue');
    expect(run.epoch).toBe(3);
    expect(asked(run, '+withdrawPromotion')).toBe(1);
    run.at('+undoReplication', run.at('-finishPromotion', run.at('-withdrawPromotion')));
    await replayed(run, 'late-decision');
  });

  it('is finished at once while the run is paused: green is opened, and blue follows it', async () => {
    const run = await runs.begin({
      promote: async (own, _ref, from) => {
        if (own.writesOn === 'green') return own.move(from);
        await untilCancelled().catch(() => undefined);
        throw new CancelledFailure('cancelled');
      },
      withdrawPromotion: (own, _ref, _goesOn, tellsDecision) => {
        own.move('blue');
        if (tellsDecision !== true) return null;
        throw ApplicationFailure.nonRetryable('green has been given the writes meanwhile (epoch 2)', 'WritesOnGreen');
      },
    });
    await run.saw('+promote');
    await run.handle.executeUpdate(pauseUpdate, { args: [WHO] });
    const now = await until(run.handle, 'promoted', ({ phase }) => phase === 'standby', 30_000);
    expect(now).toMatchObject({ paused: true, writesOn: 'green', rollback: { safe: true } });
    await run.saw('+watchStandby');
    run.at('+watchStandby', run.at('-finishPromotion', run.at('-promote', run.at('-withdrawPromotion'))));
    expect(asked(run, '+withdrawPromotion')).toBe(1);
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    expect((await resultOf(run)).outcome).toBe('rolledBack');
    expect(run).toMatchObject({ writesOn: 'blue', epoch: 3 });
    await replayed(run);
  });
});

describe.concurrent('a green that is lost right after it has given the writes back', () => {
  const lost = (): never => {
    throw ApplicationFailure.nonRetryable('green: connect ECONNREFUSED', 'ConnectionFailed');
  };

  it.each([false, true])(
    'ends no rollback: blue, which was opened, is asked; also with a loss accepted: %s',
    async (acceptLoss) => {
      const run = await runs.begin(
        {
          ...{ maybeEmptied: (own) => (own.epoch === 3 ? lost() : []), writesOfGreen: lost },
          promote: (own, _ref, from, _epoch, withLoss) => {
            if (from === 'blue') return own.move('blue');
            if (own.epoch === 2 && acceptLoss && withLoss !== true) {
              throw ApplicationFailure.nonRetryable(
                'its slot is gone; a rollback would lose 2 writes',
                'RollbackUnsafe',
              );
            }
            own.move('green');
            return lost();
          },
        },
        { green: { connection: 'g', afterRollback: 'drop' } },
      );
      await run.saw('+watchStandby');
      await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
      if (acceptLoss) {
        await until(run.handle, 'asked', (s) => s.waiting?.for === 'confirmation');
        await run.handle.executeUpdate(rollbackUpdate, { args: [{ ...WHO, acceptLoss }] });
      }
      const report = await resultOf(run);
      expect(report).toMatchObject({ outcome: 'rolledBack', writesOn: 'blue', promotion: { to: 'blue', epoch: 3 } });
      // No try without a loss leaves anything behind.
      const notKnown = 'what it may lack of green (not known: green does not answer)';
      expect(report.rollingBack?.lost).toBe(acceptLoss ? notKnown : undefined);
      run.at('+undoReplication', run.at('+finishPromotion', run.at('-writesOfGreen')));
      await replayed(run);
    },
  );

  it('is not taken for a way back that nobody has opened where the run begins it anew', async () => {
    const tried: unknown[] = [];
    const run = await runs.begin({
      promote: (own, _ref, from) => {
        if (own.epoch === 1) return own.move('blue');
        tried.push(from);
        own.move('green');
        return lost();
      },
      // Green has said so, right before it was lost.
      whereWritesAre: (own) =>
        tried.length === 0 ? { writesOn: 'green', epoch: 2 } : { writesOn: own.writesOn, epoch: own.epoch },
      writesOfGreen: lost,
    });
    await run.saw('+watchStandby');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    const report = await resultOf(run);
    expect(report).toMatchObject({ outcome: 'rolledBack', writesOn: 'blue', promotion: { to: 'blue', epoch: 3 } });
    expect(report.rollingBack?.lost).toBeUndefined();
    // A try of the way back comes after the word that nobody takes writes.
    expect(tried).toEqual(['blue']);
    run.at('+undoReplication', run.at('+finishPromotion', run.at('-whereWritesAre', run.at('-watchStandby'))));
    await replayed(run);
  });

  it('nor is a `retire` waited with for its answer then', async () => {
    let isDown = false;
    const run = await runs.begin({
      promote: (own, _ref, from) => (from === 'blue' && own.epoch === 1 ? own.move('blue') : lost()),
      ...{ maybeEmptied: lost, writesOfGreen: lost },
      whereWritesAre: (own) => (isDown ? lost() : { writesOn: own.writesOn, epoch: own.epoch }),
    });
    await run.saw('+watchStandby');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    await until(run.handle, 'blocked', (s) => s.waiting?.answer?.includes('--name retire ') === true);
    isDown = true;
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    await until(run.handle, 'asking', (s) => /`retire` waits until green says/.test(s.waiting?.why ?? ''));
    run.move('green');
    isDown = false;
    const report = await resultOf(run);
    expect(report).toMatchObject({ outcome: 'rolledBack', writesOn: 'blue' });
    expect(report.warnings.join()).toMatch(
      /`retire` was not followed: green has given the writes back, and blue takes/,
    );
    await replayed(run);
  });
});

describe.concurrent('the tries of a promotion that can not be ended', () => {
  const promote: Overrides['promote'] = async () => {
    await untilCancelled().catch(() => undefined);
    throw new CancelledFailure('cancelled');
  };

  it('are told with what is in the way, and are ended once that is gone', async () => {
    let isAway = true;
    const run = await runs.begin({
      promote,
      withdrawPromotion: () => {
        if (isAway) throw ApplicationFailure.nonRetryable('blue: connect ECONNREFUSED', 'ConnectionFailed');
        return null;
      },
    });
    await run.saw('+promote');
    await run.handle.signal(rollbackSignal, WHO);
    const { waiting } = await until(run.handle, 'told', (s) => /blue: connect/.test(s.waiting?.why ?? ''));
    expect(waiting?.why).toMatch(/^ending the tries of the promotion, .*`retire` .* writes stay where they are$/s);
    expect(waiting?.answer).toMatch(/--name retire /);
    isAway = false;
    expect(await resultOf(run)).toMatchObject({ outcome: 'rolledBack', rollingBack: { notUndone: [] } });
    await replayed(run);
  });

  it('can be left as they are', async () => {
    const run = await runs.begin({
      promote,
      withdrawPromotion: () => {
        throw ApplicationFailure.nonRetryable('blue: connect ECONNREFUSED', 'ConnectionFailed');
      },
    });
    await run.saw('+promote');
    await run.handle.signal(rollbackSignal, WHO);
    await until(run.handle, 'told', (s) => /blue: connect/.test(s.waiting?.why ?? ''));
    await run.handle.executeUpdate(retireUpdate, { args: [{ by: 'ada', reason: 'we wait' }] });
    expect((await failureOf(run)).cause?.message).toMatch(/writes stay where they are, as ada has said: we wait/);
    expect(run.writesOn).toBe('blue');
    await replayed(run);
  });
});
