import { ApplicationFailure } from '@temporalio/common';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { promotionBlocked } from '../../src/postgres/hold.js';
import { statusOf, until } from '../support/migration.js';
import { failureOf } from '../support/run-end.js';
import { replayed, ScriptedRuns, type Overrides } from '../support/scripted-run.js';
import { happened } from '../../workflows/lib/notices.js';
import { retireUpdate, rollbackUpdate } from '../../workflows/messages.js';

let runs: ScriptedRuns;

beforeAll(async () => {
  runs = await ScriptedRuns.start();
});

afterAll(() => runs.stop());

const WHO = { by: 'grace', reason: 'the test says so' };

/** Somebody on green stands in the way of the rollback. */
const BLOCKED: Overrides = {
  promote: (run, _ref, from) => {
    if (from === 'blue') return run.move(from);
    throw ApplicationFailure.nonRetryable(promotionBlocked('green: pid 4711 writes').message, 'PromotionBlocked');
  },
};

describe.concurrent('a rollback that is blocked', () => {
  it('asks for no approval, and says that it is tried again and what its answer does; given up, it is told as that', async () => {
    const run = await runs.begin(BLOCKED);
    await run.saw('+watchStandby');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    const { waiting } = await until(run.handle, 'blocked', (s) => /pid 4711/.test(s.waiting?.why ?? ''));
    expect(waiting?.answer).toMatch(/--name retire /);
    expect(waiting?.why).not.toMatch(/approve|the promotion/);
    expect(waiting?.why).toMatch(/is tried again by itself; `retire` gives the rollback up, and writes stay on green$/);

    const before = await statusOf(run.handle);
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    const { cause } = await failureOf(run);
    const status = await statusOf(run.handle);
    expect(status).toMatchObject({
      ...{ outcome: 'failed', writesOn: 'green' },
      now: 'the rollback was given up: writes are on green, blue is fenced',
      rollback: { safe: false, why: expect.stringContaining('the run is over') as string },
      rollingBack: { givenUp: true },
    });
    expect(status.failure).toBe(cause?.message);
    expect(status.failure).toMatch(/Next step: nothing watches.*: verdigris doctor --blue b --green g --clean$/);
    const told = happened({ status: before, evidence: [] }, { status, evidence: [] });
    expect(told.at(-1)).toEqual(['finished', status.failure]);
    await replayed(run);
  });
});
