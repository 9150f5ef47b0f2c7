import { ApplicationFailure } from '@temporalio/common';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { until } from '../support/migration.js';
import { replayed, ScriptedRuns, untilCancelled, type Overrides } from '../support/scripted-run.js';
import type { MigrationReport } from '../../workflows/lib/report.js';
import { rollbackUpdate } from '../../workflows/messages.js';

let runs: ScriptedRuns;

beforeAll(async () => {
  runs = await ScriptedRuns.start();
});

afterAll(() => runs.stop());

const WHO = { by: 'grace', reason: 'the test says so' };
const LOSS = 'about 500000 writes';

/** The feed to blue can't be begun while somebody is in the way; until then a way back would lose everything. */
class Unfinished {
  inTheWay = true;
  private feedIsOn = false;
  readonly withLoss: boolean[] = [];

  readonly activities: Overrides = {
    finishPromotion: (_run, _ref, from) => {
      if (from === 'green') return null;
      if (this.inTheWay) throw ApplicationFailure.nonRetryable('a session holds the subscription', 'LockNotHad');
      this.feedIsOn = true;
      return null;
    },
    promote: (run, _ref, from, _epoch, acceptLoss) => {
      if (from === 'blue') return run.move(from);
      this.withLoss.push(acceptLoss === true);
      if (this.feedIsOn || acceptLoss === true) return { ...run.move(from), lost: acceptLoss === true ? LOSS : null };
      const message = `the subscription on blue is disabled; a rollback would lose ${LOSS}`;
      throw ApplicationFailure.nonRetryable(message, 'RollbackUnsafe');
    },
    watchStandby: () => untilCancelled(),
  };
}

describe.concurrent('a rollback while the finish of the promotion is still owed', () => {
  it('tries it on: once nobody is in the way, nothing is lost, and nobody has to accept anything', async () => {
    const unfinished = new Unfinished();
    const run = await runs.begin(unfinished.activities);
    await run.saw('+watchStandby');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    const { waiting } = await until(run.handle, 'waiting', (s) => s.waiting?.for === 'confirmation');
    expect(waiting?.why).toMatch(/would lose about 500000 writes.*still owed.*a session holds the subscription\n/);
    unfinished.inTheWay = false;
    const report = (await run.handle.result()) as MigrationReport;
    expect(report).toMatchObject({ outcome: 'rolledBack', rollingBack: { notUndone: [] } });
    expect(report.rollingBack?.lost).toBeUndefined();
    expect(unfinished.withLoss).not.toContain(true);
    await replayed(run);
  });

  it('takes the loss where somebody accepts it although it could not be finished', async () => {
    const unfinished = new Unfinished();
    const run = await runs.begin(unfinished.activities);
    await run.saw('+watchStandby');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    await until(run.handle, 'waiting', (s) => s.waiting?.for === 'confirmation');
    await run.handle.executeUpdate(rollbackUpdate, { args: [{ ...WHO, acceptLoss: true }] });
    const report = (await run.handle.result()) as MigrationReport;
    expect(report).toMatchObject({ outcome: 'rolledBack', rollingBack: { lost: LOSS } });
    await replayed(run);
  });
});
