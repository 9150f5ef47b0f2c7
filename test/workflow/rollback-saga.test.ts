import { setTimeout as sleep } from 'node:timers/promises';
import { Context } from '@temporalio/activity';
import { ApplicationFailure, CancelledFailure } from '@temporalio/common';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { statusOf, until } from '../support/migration.js';
import { failureOf, resultOf } from '../support/run-end.js';
import {
  everyThird,
  expectNothingWasRunning,
  rollBackByCancel,
  rollBackByFailure,
  rollBackByMessage,
} from '../support/running-phases.js';
import { replayed, ScriptedRuns, untilCancelled, type Overrides } from '../support/scripted-run.js';
import { pauseUpdate, resumeUpdate, retireUpdate, rollbackSignal, rollbackUpdate } from '../../workflows/messages.js';

let runs: ScriptedRuns;

beforeAll(async () => {
  runs = await ScriptedRuns.start();
});

afterAll(() => runs.stop());

const WHO = { by: 'grace', reason: 'the test says so' };

// Each of them in every third phase, so that every phase is met once; in all of them in test/long/rollback-saga.long.ts.
describe.concurrent('compensation begins when the running activities have really stopped', { timeout: 120_000 }, () => {
  it('in every phase, asked for by message', () => rollBackByMessage(runs, everyThird(0)));

  it('in every phase, by a cancel', () => rollBackByCancel(runs, everyThird(1)));

  it('in every phase, after a failure beside the running activity', () => rollBackByFailure(runs, everyThird(2)));
});

describe.concurrent('compensation runs to its end', () => {
  it('whatever fails in between: what could not be undone is in the report', async () => {
    const run = await runs.begin({
      undoMigrations: () => {
        throw ApplicationFailure.nonRetryable('a view is in the way', 'MigrationStepFailed');
      },
    });
    await run.saw('+watchStandby');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    const error = await failureOf(run);
    expect(error.cause?.message).toMatch(/Not undone: undo the schema changes on green: a view is in the way/);
    expect(error.cause?.message).toMatch(/Next step: .*: verdigris doctor --blue b --green g --clean$/);
    for (const name of ['promote', 'removeFence', 'undoReplication', 'releaseDatabases']) run.at(`-${name}`);
    expect((await statusOf(run.handle)).outcome).toBe('failed');
  });

  it('when it is cancelled, or asked for again, while it runs', async () => {
    let go = (): void => undefined;
    const wait = new Promise<void>((resolve) => (go = resolve));
    const run = await runs.begin({ undoReplication: () => wait });
    await run.saw('+watchStandby');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    await run.saw('+undoReplication');
    await run.handle.cancel();
    await expect(run.handle.executeUpdate(rollbackUpdate, { args: [WHO] })).rejects.toMatchObject({
      cause: { message: expect.stringMatching(/is being rolled back/) as string },
    });
    await run.handle.signal(rollbackSignal, WHO);
    await until(run.handle, 'told', (s) => s.decisions.some((d) => d.ignored !== undefined));
    go();
    const report = await resultOf(run);
    expect(report.outcome).toBe('rolledBack');
    expect(run.log.filter((entry) => entry === '+undoReplication')).toHaveLength(1);
    run.at('-releaseDatabases');
  });
});

describe.concurrent('rows that differ', () => {
  it('are named in the failure, ten of them; its history names all that were listed when green is gone', async () => {
    const examples = Array.from({ length: 25 }, (_, i) => `public.t "id" = ${i + 100}: missing`);
    const result = {
      scope: 'all',
      tables: 1,
      rowsVerified: 25,
      differingRows: 25,
      examples,
      at: '2026-01-01T00:00:00Z',
    };
    const run = await runs.begin({ verify: () => result });
    const message = (await failureOf(run)).cause?.message ?? '';
    run.at('-undoReplication');
    expect(message).toMatch(/^rolled back: 25 rows differ between blue and green: public\.t "id" = 100: missing; /);
    expect(message).toContain(`109: missing; 15 more in the run's history, in the result of this comparison`);
    expect(message).not.toContain('"id" = 110');
    const { events } = await run.handle.fetchHistory();
    const results = (events ?? []).map(({ activityTaskCompletedEventAttributes: done }) =>
      Buffer.from(done?.result?.payloads?.[0]?.data ?? []).toString(),
    );
    const [found] = results.filter((one) => one.includes('differingRows'));
    for (const example of examples) expect(found).toContain(JSON.stringify(example));
    expect((await statusOf(run.handle)).verification).not.toHaveProperty('examples');
  });
});

describe.concurrent('the fence of green', () => {
  it('is closed before anything is compared, and again before traffic goes there; it is taken off once', async () => {
    const run = await runs.begin({ judgeStage: () => untilCancelled() });
    await run.saw('+judgeStage');
    expect(run.at('-fenceGreen')).toBeLessThan(run.at('+verify'));
    run.at('-fenceGreen', run.at('-verify'));
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    const report = await resultOf(run);
    expect(report.rollingBack?.undone.filter((name) => name.includes('fence'))).toHaveLength(1);
    expect(run.log.filter((entry) => entry === '+removeFence')).toHaveLength(1);
    await replayed(run);
  });

  it('is tried to be switched off in the standby window; a rollback begins when that has stopped, and keeps it', async () => {
    const finished: unknown[] = [];
    const run = await runs.begin({
      switchFenceOff: () => untilCancelled(300),
      finishPromotion: (_run, _ref, from, goesBack) => {
        finished.push([from, goesBack]);
        return null;
      },
    });
    await run.saw('+switchFenceOff');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    expect((await resultOf(run)).outcome).toBe('rolledBack');
    expect(run.at('-switchFenceOff')).toBeLessThan(run.at('+whereWritesAre'));
    expect(finished).toEqual([
      ['blue', false],
      ['blue', true],
      ['green', false],
    ]);
    await replayed(run);
  });

  it('that can not be switched off is a warning: the run goes on in its standby window', async () => {
    const run = await runs.begin({
      switchFenceOff: () => {
        throw ApplicationFailure.nonRetryable('must be owner of table notes', 'SqlError');
      },
    });
    await run.saw('-switchFenceOff');
    const status = await until(run.handle, 'warned', (s) => s.warnings.some((one) => one.includes('owner of table')));
    expect(status).toMatchObject({ phase: 'standby', outcome: 'running' });
    expect(status.alarms ?? []).toEqual([]);
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    expect((await resultOf(run)).outcome).toBe('completed');
  });
});

describe.concurrent('a rollback that comes in the same instant', () => {
  it('as the decision: green is opened first, then writes go back', async () => {
    const run = await runs.begin({
      promote: async (own, _ref, from) => {
        if (from === 'green' || own.writesOn === 'green') return own.move(from);
        // The COMMIT goes through, and the answer does not arrive: the activity ends as cancelled.
        await untilCancelled().catch(() => own.move('blue'));
        throw new CancelledFailure('cancelled');
      },
    });
    await run.saw('+promote');
    await run.handle.signal(rollbackSignal, WHO);
    const report = await resultOf(run);
    expect(report.outcome).toBe('rolledBack');
    expect(run.writesOn).toBe('blue');
    const asked = run.at('+whereWritesAre');
    const opened = run.at('+promote', asked);
    const finished = run.at('+finishPromotion', opened);
    // The rollback finishes what was decided: the feed to blue is on before writes go there.
    expect(run.at('+promote', finished)).toBeGreaterThan(finished);
    expect(run.log.filter((entry) => entry === '+finishPromotion')).toHaveLength(2);
    expect(run.epoch).toBe(3);
  });

  it('as the end of the standby window: it was accepted, so nothing is taken down', async () => {
    const run = await runs.begin({ watchStandby: () => untilCancelled(3_000) });
    await run.saw('+watchStandby');
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    // The window has ended, and the watch is about to stop.
    await sleep(100);
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    const report = await resultOf(run);
    expect(report.outcome).toBe('rolledBack');
    expect(run.log).not.toContain('+retire');
    expect(run.writesOn).toBe('blue');
  });

  it('as the start: nothing is begun', async () => {
    const run = await runs.begin({ lintPlan: () => untilCancelled(50) });
    await run.handle.signal(rollbackSignal, WHO);
    expect((await resultOf(run)).outcome).toBe('rolledBack');
    expect(run.log).not.toContain('+claimDatabases');
  });
});

describe.concurrent('a run that is paused', () => {
  it('in its standby window neither compares nor asks for locks; both go on with the resume, and the feed is watched', async () => {
    const passes: string[] = [];
    const run = await runs.begin(
      {
        verify: (_run, _ref, source, scope, pass) => {
          if (source === 'green') passes.push(pass);
          return source === 'green' && passes.length === 1
            ? untilCancelled()
            : { ...{ scope, tables: 1, rowsVerified: 1, differingRows: 0, examples: [] }, at: '2026-11-29T00:00:00Z' };
        },
        switchFenceOff: () => untilCancelled(),
      },
      { standby: { for: '1h', verifyEvery: '1s' } },
    );
    const count = (entry: string): number => run.log.filter((one) => one === entry).length;
    await until(run.handle, 'compares', () => passes.length === 1);
    await run.handle.executeUpdate(pauseUpdate, { args: [WHO] });
    await until(run.handle, 'stopped', () => count('-verify') === count('+verify') && count('-switchFenceOff') === 1);
    await sleep(1_200);
    expect([passes.length, count('+switchFenceOff'), count('+watchStandby'), count('-watchStandby')]).toEqual([
      1, 1, 1, 0,
    ]);
    await run.handle.executeUpdate(resumeUpdate, { args: [WHO] });
    await run.saw('+switchFenceOff', 2);
    // The one after it comes within the second.
    await until(run.handle, 'goes on', () => passes.length >= 2);
    expect(passes[1]).toBe(passes[0]);
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    expect((await resultOf(run)).outcome).toBe('completed');
    await replayed(run);
  });

  it('while the watch of its standby window ends is not retired before the resume, and may be rolled back until then', async () => {
    const overrides: Overrides = {
      // The first watch takes long to end: there is time for a message.
      watchStandby: (own) => {
        Context.current().cancelled.catch(() => own.log.push('cancelled'));
        return untilCancelled(own.log.filter((entry) => entry === '+watchStandby').length > 1 ? 400 : 3_000);
      },
    };
    const [resumed, back] = [await runs.begin(overrides), await runs.begin(overrides)];
    for (const run of [resumed, back]) {
      await run.saw('+watchStandby');
      await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
      await run.saw('cancelled');
      await run.handle.executeUpdate(pauseUpdate, { args: [WHO] });
      await until(run.handle, 'paused', (s) => s.waiting?.why === 'paused by message');
      await run.saw('+watchStandby', 2);
      expect(run.log).not.toContain('+retire');
    }
    await back.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    expect((await resultOf(back)).outcome).toBe('rolledBack');
    expect(back.writesOn).toBe('blue');
    await resumed.handle.executeUpdate(resumeUpdate, { args: [WHO] });
    expect((await resultOf(resumed)).outcome).toBe('completed');
    await replayed(resumed);
  });

  it('is rolled back by a cancel', async () => {
    const run = await runs.begin({ verify: () => untilCancelled() });
    await run.saw('+verify');
    await run.handle.executeUpdate(pauseUpdate, { args: [WHO] });
    await run.saw('-verify');
    await until(run.handle, 'paused', (s) => s.waiting?.for === 'resume');
    await run.handle.cancel();
    expect((await failureOf(run)).cause).toBeInstanceOf(CancelledFailure);
    run.at('-releaseDatabases');
    expectNothingWasRunning(run, 'paused');
  });
});
