import { ApplicationFailure, CancelledFailure } from '@temporalio/common';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { statusOf, until } from '../support/migration.js';
import { resultOf } from '../support/run-end.js';
import { replayed, ScriptedRuns, untilCancelled, type Overrides, type ScriptedRun } from '../support/scripted-run.js';
import type { MigrationStatus } from '../../workflows/lib/status.js';
import { retireUpdate, rollbackSignal, rollbackUpdate } from '../../workflows/messages.js';

let runs: ScriptedRuns;

beforeAll(async () => {
  runs = await ScriptedRuns.start();
});

afterAll(() => runs.stop());

const WHO = { by: 'grace', reason: 'the test says so' };

/** Blue's COMMIT goes through, and green can't be opened for as long as it is away. */
class Away {
  isAway = true;

  readonly promote: NonNullable<Overrides['promote']> = (run, _ref, from) => {
    const promoted = run.move(from);
    if (from === 'blue' && this.isAway) throw notOpened();
    return promoted;
  };
}

function notOpened(): ApplicationFailure {
  const message = "the new side can't be opened for epoch 2: no answer\nNext step: it is tried again";
  return ApplicationFailure.create({ type: 'NotOpened', message, nonRetryable: false });
}

function told({ handle }: ScriptedRun): Promise<MigrationStatus> {
  return until(handle, 'told', ({ waiting }) =>
    /^green has been given the writes and is not open/.test(waiting?.why ?? ''),
  );
}

const OPEN = 'verdigris doctor --blue b --green g --open --yes';

describe.concurrent('green could not be opened after the decision', () => {
  it('it is told at once, with the command that opens it; the run goes on when it is open', async () => {
    const green = new Away();
    const run = await runs.begin({ promote: green.promote });
    const { waiting, writesOn, rollback } = await told(run);
    expect(waiting).toMatchObject({ for: 'retry', answer: OPEN });
    expect(waiting?.why).toMatch(/ --open --yes\. the new side can't be opened for epoch 2: no answer$/);
    expect(writesOn).toBe('green');
    expect(rollback.safe).toBe(false);
    await run.saw('+promote', 3);
    green.isAway = false;
    const after = await until(run.handle, 'in standby', (s) => s.phase === 'standby' && s.rollback.safe);
    expect(after.waiting?.answer).not.toBe(OPEN);
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    expect((await resultOf(run)).outcome).toBe('rolledBack');
    await replayed(run);
  });

  it('one that is open, and whose commits wait for a standby, is not called closed', async () => {
    const message = 'the new side is open for epoch 2, but commits there wait\nNext step: that alone';
    let waits = true;
    const run = await runs.begin({
      promote: (own, _ref, from) => {
        const promoted = own.move(from);
        if (!waits) return promoted;
        throw ApplicationFailure.create({
          type: 'NotOpened',
          message,
          nonRetryable: false,
          details: [{ isOpen: true }],
        });
      },
    });
    const { waiting, writesOn } = await until(run.handle, 'told', (s) => s.waiting?.for === 'retry');
    expect(waiting?.why).toBe('the new side is open for epoch 2, but commits there wait');
    expect(waiting?.answer).toBeUndefined();
    expect(writesOn).toBe('green');
    waits = false;
    await until(run.handle, 'in standby', (s) => s.phase === 'standby');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    expect((await resultOf(run)).outcome).toBe('rolledBack');
    await replayed(run);
  });

  it('a rollback that is asked for meanwhile waits for it, and says why', async () => {
    const green = new Away();
    const run = await runs.begin({ promote: green.promote });
    await told(run);
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    expect((await statusOf(run.handle)).waiting).toMatchObject({ for: 'retry', answer: OPEN });
    green.isAway = false;
    expect((await resultOf(run)).outcome).toBe('rolledBack');
    expect(run.writesOn).toBe('blue');
  });

  it('also where a rollback has ended the activity in the instant of the decision', async () => {
    const green = new Away();
    const run = await runs.begin({
      promote: async (own, ref, from, ...more) => {
        if (own.writesOn === 'green' || from === 'green') return green.promote(own, ref, from, ...more);
        await untilCancelled().catch(() => own.move('blue'));
        throw new CancelledFailure('cancelled');
      },
    });
    await run.saw('+promote');
    await run.handle.signal(rollbackSignal, WHO);
    expect((await told(run)).waiting?.answer).toBe(OPEN);
    green.isAway = false;
    expect((await resultOf(run)).outcome).toBe('rolledBack');
    expect(run.writesOn).toBe('blue');
  });
});

describe.concurrent('a green that was replaced after its opening by one that lacks it', () => {
  const LACKS = 'green was opened for epoch 2 and knows nothing of it, so nobody takes writes';

  it('before what follows the promotion: it is told at once, with the command that opens it; then the run goes on', async () => {
    let isOpen = false;
    const run = await runs.begin({
      finishPromotion: () => {
        if (isOpen) return null;
        throw ApplicationFailure.create({
          type: 'NotOpened',
          message: `${LACKS}\nNext step: open it`,
          nonRetryable: false,
        });
      },
    });
    const { alarms, rollback } = await until(run.handle, 'told', (s) => (s.alarms ?? []).length > 0);
    expect(alarms).toMatchObject([
      { about: 'finish', state: 'notOpened', why: LACKS, next: expect.stringContaining(OPEN) as string },
    ]);
    expect(rollback).toMatchObject({ safe: false, why: LACKS });
    await run.saw('+finishPromotion', 2);
    isOpen = true;
    await until(run.handle, 'finished', (s) => s.phase === 'standby' && (s.alarms ?? []).length === 0);
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    expect((await resultOf(run)).outcome).toBe('completed');
    await replayed(run);
  });

  it('in its standby window: the watch tells it, and not that blue is late', async () => {
    const run = await runs.begin({
      watchStandby: (_run, _ref, known) =>
        known === 'notOpened'
          ? untilCancelled()
          : { health: 'notOpened', rollbackSafe: false, why: LACKS, lagSeconds: null, loses: null },
    });
    const { alarms, rollback } = await until(run.handle, 'told', (s) => (s.alarms ?? []).length > 0);
    expect(alarms).toMatchObject([
      { about: 'feed', state: 'notOpened', why: LACKS, next: expect.stringContaining(OPEN) as string },
    ]);
    expect(rollback).toMatchObject({ safe: false, why: LACKS });
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    expect((await resultOf(run)).outcome).toBe('rolledBack');
    await replayed(run);
  });
});

it('a green that is away in the standby window is told as green, with what opens blue once it is lost for good', async () => {
  const why = "the worker can't reach green, which has the writes: green did not answer";
  const run = await runs.begin({
    watchStandby: (_run, _ref, known) =>
      known === 'greenAway'
        ? untilCancelled()
        : { health: 'greenAway', rollbackSafe: false, why, lagSeconds: null, loses: null },
  });
  const { alarms = [], name } = await until(run.handle, 'told', (s) => (s.alarms ?? []).length > 0);
  expect(alarms).toMatchObject([{ about: 'feed', state: 'greenAway', why }]);
  expect(alarms[0]?.next).not.toMatch(/bring blue back|retire/);
  expect(alarms[0]?.next).toContain(`verdigris doctor --blue b --green g --open --green-is-gone ${name}`);
  await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
  expect((await resultOf(run)).outcome).toBe('completed');
});
