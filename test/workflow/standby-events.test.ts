import { setTimeout as sleep } from 'node:timers/promises';
import { Context } from '@temporalio/activity';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { parsePlan } from '../../src/plan/parse.js';
import { standbyEvents } from '../../src/plan/rules/times.js';
import type { StandbyState } from '../../src/postgres/standby.js';
import { approveUpdate, pauseUpdate, resumeUpdate, retireUpdate, rollbackUpdate } from '../../workflows/messages.js';
import { until } from '../support/migration.js';
import { recorded } from '../support/recorded-histories.js';
import { expectNothingWasRunning } from '../support/running-phases.js';
import { resultOf } from '../support/run-end.js';
import { replayed, ScriptedRuns, slowly, untilCancelled, type ScriptedRun } from '../support/scripted-run.js';

/* Temporal terminates a run at 51,200 events, and people read its history: the standby window is most of the time of a run. */

let runs: ScriptedRuns;

beforeAll(async () => {
  runs = await ScriptedRuns.start();
});
afterAll(() => runs.stop());

const WHO = { by: 'grace', reason: 'the test says so' };
const EQUAL = {
  ...{ scope: 'changed', tables: 1, rowsVerified: 1, differingRows: 0, examples: [] },
  at: '2026-11-30T00:00:00Z',
} as const;
const HEALTHY: StandbyState = {
  ...{ health: 'healthy', rollbackSafe: true, why: 'it follows', loses: null },
  lagSeconds: 0,
};

/** A run's history, as long as it is now. */
async function historyOf({ handle }: ScriptedRun): Promise<number> {
  return Number((await handle.fetchHistory()).events?.length);
}

function defaultPlan() {
  const parsed = parsePlan({ name: 'default', blue: { connection: 'b' }, green: { connection: 'g' } });
  if (!('plan' in parsed)) throw new Error('the default plan is refused');
  return parsed.plan;
}

describe.concurrent('a run of the default plan', () => {
  it('in which all is well is less than 500 events, its standby window of 48 h some 60 of them', async () => {
    const plan = defaultPlan();
    expect(plan.standby).toEqual({ for: '48h', verifyEvery: '1h' });
    let copied = (): void => undefined;
    const copying = new Promise<void>((resolve) => (copied = resolve));
    let lagSeconds = 0;
    const told = { feed: 0, rows: 0 };
    const run = await runs.begin(
      {
        planCopy: () => ({ tables: 4, parcels: [1, 2, 3, 4].map((id) => ({ id, label: `t${id}`, bytes: 1 })) }),
        holdSnapshot: () => copying.then(() => 'released'),
        awaitSnapshot: () => 'ready',
        copyParcel: () => ({ outcome: 'copied' }),
        finishCopy: () => copied(),
        // Each time the lag is another one. The window is over in seconds, so it is as often as in 48 h.
        watchStandby: () => (told.feed++ < 4 ? { ...HEALTHY, lagSeconds: ++lagSeconds } : untilCancelled()),
        compareRegularly: () => (told.rows++ < 5 ? { ...EQUAL, mark: 'equal' } : untilCancelled()),
      },
      {
        bootstrap: { method: 'copy' },
        traffic: { stages: plan.traffic.stages.map(({ percent }) => ({ percent, for: '0s' })) },
        standby: plan.standby,
      },
    );
    await until(run.handle, 'asks', (s) => s.waiting?.gate === 'promote');
    await run.handle.executeUpdate(approveUpdate, { args: [{ gate: 'promote', ...WHO }] });
    await run.saw('+watchStandby');
    const before = await historyOf(run);
    await run.saw('+watchStandby', 5);
    await run.saw('+compareRegularly', 6);
    await until(run.handle, 'told', (s) => s.lagSeconds === 4);
    expect((await historyOf(run)) - before).toBeLessThanOrEqual(standbyEvents(plan) + 20);
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    expect((await resultOf(run)).outcome).toBe('completed');
    await replayed(run);
    expect(await historyOf(run)).toBeLessThan(470);
  });

  it('is so also with what a real one has told of its progress', () => {
    expect(standbyEvents(defaultPlan())).toBe(63);
    // Two stages less, and nine steps more.
    const { length } = recorded('completed-pg15-pg18').events;
    expect(length + standbyEvents(defaultPlan())).toBeLessThan(470);
  });
});

describe.concurrent('a watch of the feed that comes back', () => {
  it('is as many events as are counted', async () => {
    let lagSeconds = 0;
    const watchStandby = async (): Promise<StandbyState> => {
      await slowly(300);
      return { ...HEALTHY, lagSeconds: ++lagSeconds };
    };
    const run = await runs.begin({ watchStandby });
    await run.saw('+watchStandby', 4);
    const { events } = await run.handle.fetchHistory();
    const names = (events ?? []).map((event) => event.activityTaskScheduledEventAttributes?.activityType?.name);
    const asked = names.flatMap((name, i) => (name === 'watchStandby' ? [i] : [])).slice(-3);
    const between = asked.slice(1).map((at, i) => at - (asked[i] ?? 0));
    // In all of 12 h it is told once, and so is a comparison; the first of them in any case.
    const counted = standbyEvents({ standby: { for: '12h', verifyEvery: '1h' } }) / 3;
    expect(Math.max(...between)).toBeLessThanOrEqual(counted);
    await run.handle.terminate();
  });
});

describe.concurrent('the comparisons of a standby window', () => {
  it('that find nothing new take no event, and are replayed; one that does comes back at once', async () => {
    let compared = 0;
    let finds: object = EQUAL;
    const run = await runs.begin(
      { verify: (_run, _ref, source) => (source === 'green' ? (compared++, finds) : EQUAL) },
      { standby: { for: '1h', verifyEvery: '1s' } },
    );
    await until(
      run.handle,
      'the first one is told',
      (s) => s.phase === 'standby' && s.verification?.again !== undefined,
    );
    await run.saw('+compareRegularly', 3);
    const before = await historyOf(run);
    const had = compared;
    await until(run.handle, 'compares', () => compared >= had + 3);
    expect(await historyOf(run)).toBe(before);

    finds = { ...EQUAL, differingRows: 1, examples: ['public.t "id" = 1: missing'] };
    const differs = await until(
      run.handle,
      'told',
      (s) => s.alarms?.some(({ state }) => state === 'differ') === true,
      3_000,
    );
    expect(differs.rollback).toMatchObject({ safe: false, loses: expect.stringContaining('1 row differs') as string });
    // The same again is no news.
    await run.saw('+compareRegularly', run.log.filter((one) => one === '+compareRegularly').length + 2);
    const [then, at] = [compared, await historyOf(run)];
    await until(run.handle, 'compares', () => compared >= then + 2);
    expect(await historyOf(run)).toBe(at);
    finds = EQUAL;
    await until(run.handle, 'mended', (s) => s.rollback.safe && s.alarms?.length === 0, 3_000);
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    expect((await resultOf(run)).outcome).toBe('completed');
    await replayed(run, 'comparisons-gathered');
  });

  it('come at once where a change of green has met no row on blue, and until then a rollback is not safe', async () => {
    const known: (number | undefined)[] = [];
    const run = await runs.begin({
      watchStandby: (_run, _ref, _known, _epoch, missed) => {
        known.push(missed);
        return known.length <= 2 ? { ...HEALTHY, missed: 2 } : untilCancelled();
      },
      verify: (_run, _ref, source) => (source === 'green' ? slowly(1_500).then(() => EQUAL) : EQUAL),
    });
    const missed = await until(
      run.handle,
      'alarmed',
      (s) => s.alarms?.some(({ state }) => state === 'missed') === true,
    );
    expect(missed.rollback).toMatchObject({ safe: false, loses: expect.stringContaining('2 changes') as string });
    await until(run.handle, 'compared', (s) => s.rollback.safe && s.alarms?.length === 0);
    await run.saw('+watchStandby', 3);
    expect(known).toEqual([0, 2, 2]);
    // Once before the promotion, and once for both of the looks.
    expect(run.log.filter((one) => one === '-verify')).toHaveLength(3);
    await replayed(run);
    await run.handle.terminate();
  });

  it('keep no rollback waiting in between', async () => {
    const run = await runs.begin();
    await run.saw('-compareRegularly');
    const begun = performance.now();
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    await run.saw('+whereWritesAre');
    expect(performance.now() - begun).toBeLessThan(10_000);
    expect((await resultOf(run)).outcome).toBe('rolledBack');
    expect(run.log.filter((one) => one === '+compareRegularly')).toHaveLength(1);
    await replayed(run);
  });

  it('are waited for by a rollback that comes in the middle of one', async () => {
    const run = await runs.begin(
      { verify: (_run, _ref, source) => (source === 'green' ? untilCancelled(500) : EQUAL) },
      { standby: { for: '1h', verifyEvery: '1s' } },
    );
    await run.saw('+verify', 3);
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    expect((await resultOf(run)).outcome).toBe('rolledBack');
    expectNothingWasRunning(run, 'a comparison');
    expect(run.log.filter((one) => one === '-verify')).toHaveLength(3);
    expect(run.at('-compareRegularly')).toBeLessThan(run.at('+whereWritesAre'));
    await replayed(run);
  });

  it('are made at once after a pause in between', async () => {
    const run = await runs.begin();
    await run.saw('-compareRegularly');
    await run.handle.executeUpdate(pauseUpdate, { args: [WHO] });
    await until(run.handle, 'paused', (s) => s.paused);
    await sleep(300);
    expect(run.log.filter((one) => one === '+verify')).toHaveLength(2);
    await run.handle.executeUpdate(resumeUpdate, { args: [WHO] });
    await until(
      run.handle,
      'compared',
      (s) => s.verification?.again !== undefined && run.log.includes('+watchStandby'),
    );
    await run.saw('-verify', 3);
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    expect((await resultOf(run)).outcome).toBe('completed');
    await replayed(run);
  });

  it('are not waited for where one may make the way back safe again', async () => {
    const known: (string | null | undefined)[] = [];
    const dead = {
      health: 'broken',
      rollbackSafe: false,
      why: 'it is dead',
      lagSeconds: null,
      loses: 'about 5 writes',
    };
    const failedOver = { ...dead, comparisonEndsIt: '1 00000002' };
    const run = await runs.begin({
      // Somebody had disabled its subscription before; it is told again how much would be lost.
      watchStandby: (_run, _ref, _health, _epoch, _missed, comparedFor) =>
        [dead, failedOver, failedOver][known.push(comparedFor) - 1] ?? untilCancelled(),
    });
    await run.saw('-verify', 3);
    await run.saw('+watchStandby', 4);
    expect(known).toEqual([null, null, '1 00000002', '1 00000002']);
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    expect((await resultOf(run)).outcome).toBe('completed');
    expect(run.log.filter((one) => one === '+verify')).toHaveLength(3);
    await replayed(run);
  });

  it('have one of now when somebody is asked to approve the retirement', async () => {
    const run = await runs.begin(
      {},
      { traffic: { stages: [{ percent: 1, for: '0s' }], approval: { before: ['retire'] } } },
    );
    await run.saw('-compareRegularly');
    expect(run.log.filter((one) => one === '+verify')).toHaveLength(2);
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    await run.saw('-verify', 3);
    const { waiting } = await until(run.handle, 'asks', (s) => s.waiting?.gate === 'retire');
    await run.handle.executeUpdate(approveUpdate, {
      args: [{ gate: 'retire', request: waiting?.request ?? '', ...WHO }],
    });
    expect((await resultOf(run)).outcome).toBe('completed');
    expect(run.log.filter((one) => one === '+verify')).toHaveLength(3);
    await replayed(run);
  });
});

it('a comparison goes on where it was when its worker ends', { timeout: 60_000 }, async () => {
  const passes: string[] = [];
  const run = await runs.begin(
    {
      verify: (_run, _ref, source, _scope, pass) => {
        if (source === 'blue') return EQUAL;
        passes.push(pass);
        // The heartbeats are those of the comparison.
        return passes.length === 1 ? Context.current().cancelled : EQUAL;
      },
    },
    { standby: { for: '1h', verifyEvery: '1s' } },
  );
  await until(run.handle, 'compares', () => passes.length === 1);
  // What it says is on its way to the server.
  await sleep(500);
  await runs.down();
  await runs.up();
  await vi.waitFor(() => expect(passes.length).toBeGreaterThanOrEqual(2), { timeout: 30_000 });
  expect(passes[1]).toBe(passes[0]);
  await until(run.handle, 'told', (s) => s.verification?.again !== undefined && s.progress.length === 0);
  await run.handle.terminate();
});
