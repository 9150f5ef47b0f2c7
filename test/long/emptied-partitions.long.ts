import { ApplicationFailure } from '@temporalio/common';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import type { MigrationReport } from '../../workflows/lib/report.js';
import { resumeUpdate, retireUpdate, rollbackUpdate } from '../../workflows/messages.js';
import { DIFFERS, emptied, emptiedOnGreen, EQUAL, LOSS, NEWS, PARTITIONS } from '../support/emptied-partition.js';
import { until } from '../support/migration.js';
import { replayed, ScriptedRuns, untilCancelled, type Overrides, type ScriptedRun } from '../support/scripted-run.js';

let runs: ScriptedRuns;

beforeAll(async () => {
  runs = await ScriptedRuns.start();
});

afterAll(() => runs.stop());

const WHO = { by: 'grace', reason: 'the test says so' };

describe.concurrent('a partition that may have been emptied', () => {
  it('on green is a loss by its rows when the comparison has found them', async () => {
    const run = await runs.begin(emptiedOnGreen(() => DIFFERS));
    const status = await until(run.handle, 'compared', (s) => /9 rows differ/.test(s.rollback.loses ?? ''));
    expect(status.rollback.loses).not.toContain('TRUNCATE');
    await run.handle.executeUpdate(rollbackUpdate, { args: [{ ...WHO, acceptLoss: true }] });
    const report = (await run.handle.result()) as MigrationReport;
    expect(report).toMatchObject({ outcome: 'rolledBack', writesOn: 'blue' });
  });

  it('on green asks a rollback for nothing where a comparison of its table finds nothing, whether it was told or not', async () => {
    for (const told of [false, true]) {
      const run = await runs.begin({
        ...(told ? emptiedOnGreen(() => untilCancelled()) : {}),
        maybeEmptied: () => PARTITIONS,
        verify: (_run, _ref, source, _scope, _pass, only) =>
          source === 'blue' || only === 'emptied' ? EQUAL : untilCancelled(),
      });
      await run.saw('+watchStandby');
      if (told) await until(run.handle, 'told', (s) => s.rollback.loses === LOSS);
      await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
      const report = (await run.handle.result()) as MigrationReport;
      expect(report).toMatchObject({ outcome: 'rolledBack', writesOn: 'blue' });
      expect(report.rollingBack?.lost).toBeUndefined();
      await replayed(run);
    }
  });

  it('on green a moment before a rollback has it wait for somebody who accepts the rows that blue still has', async () => {
    const run = await runs.begin({ maybeEmptied: () => PARTITIONS, verify: whatGreenHasEmptied(() => DIFFERS) });
    await run.saw('+watchStandby');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    const status = await until(run.handle, 'asked', (s) => s.waiting?.for === 'confirmation');
    expect(status.waiting?.why).toContain(`9 rows differ`);
    expect(status.waiting?.why).toContain(LOSS);
    expect(run.writesOn).toBe('green');
    await run.handle.executeUpdate(rollbackUpdate, { args: [{ ...WHO, acceptLoss: true }] });
    const report = (await run.handle.result()) as MigrationReport;
    expect(report).toMatchObject({ outcome: 'rolledBack', writesOn: 'blue' });
    expect(report.rollingBack?.lost).toMatch(/^9 rows differ/);
    await replayed(run);
  });

  it('on green that can not be compared is accepted as what blue may have again: green keeps nothing for it', async () => {
    const kept: unknown[] = [];
    const failing = (): never => {
      throw ApplicationFailure.nonRetryable('blue is gone', 'VerificationFailed');
    };
    const run = await runs.begin(
      {
        maybeEmptied: () => PARTITIONS,
        verify: whatGreenHasEmptied(failing),
        undoReplication: (_run, _ref, keep) => void kept.push(keep),
      },
      { green: { connection: 'g', afterRollback: 'drop' } },
    );
    await run.saw('+watchStandby');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    await until(run.handle, 'asked', (s) => s.waiting?.for === 'confirmation');
    await run.handle.executeUpdate(rollbackUpdate, { args: [{ ...WHO, acceptLoss: true }] });
    const report = (await run.handle.result()) as MigrationReport;
    expect(report).toMatchObject({ outcome: 'rolledBack', writesOn: 'blue' });
    expect(report.rollingBack?.lost).toBeUndefined();
    expect(report.now).toBe(`rolled back: blue serves everything, also ${LOSS}`);
    expect(kept).toEqual([{ keepGreen: false }]);
    await replayed(run);
  });

  it('on green whose comparison fails is compared again in ten minutes, not when the next one is planned', async () => {
    let passes = 0;
    const run = await runs.begin(
      emptiedOnGreen(() => {
        if (passes++ === 0) throw ApplicationFailure.nonRetryable('blue is behind', 'ReplicationStalled');
        return EQUAL;
      }),
    );
    await until(run.handle, 'failed', (s) => /can't be compared: blue is behind/.test(s.warnings.join()));
    await vi.waitFor(async () => expect((await timers(run)).some((s) => s > 500 && s <= 600)).toBe(true), {
      timeout: 10_000,
    });
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    await run.handle.result();
    await replayed(run);
  });

  it('on green between that look and the move of the writes has it looked at again', async () => {
    let tries = 0;
    const run = await runs.begin({
      maybeEmptied: () => (tries === 0 ? [] : PARTITIONS),
      verify: whatGreenHasEmptied(() => DIFFERS),
      promote: (own, _ref, from) => {
        if (from === 'green' && tries++ === 0) throw emptied();
        return own.move(from as 'blue' | 'green');
      },
    });
    await run.saw('+watchStandby');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    await until(run.handle, 'asked', (s) => s.waiting?.for === 'confirmation');
    expect(tries).toBe(1);
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    await run.handle.result().catch(() => undefined);
    expect(run.writesOn).toBe('green');
  });

  it('on blue is a warning, and has its table compared once more when writes were about to move, without another approval', async () => {
    let tries = 0;
    let told = 0;
    const only: unknown[] = [];
    const run = await runs.begin({
      verify: (_run, _ref, _source, _scope, _pass, which) => {
        only.push(which);
        return EQUAL;
      },
      watchSchema: (own, _ref, side) =>
        side === 'blue' && own.writesOn === 'blue' && told++ === 0 ? NEWS : untilCancelled(),
      promote: (own, _ref, from) => {
        if (from === 'blue' && tries++ === 0) throw emptied();
        return own.move(from as 'blue' | 'green');
      },
    });
    await run.saw('+watchStandby');
    const promoted = run.at('+promote');
    expect(run.at('-verify', promoted)).toBeLessThan(run.at('+promote', promoted + 1));
    expect(only).toEqual([undefined, undefined, 'emptied']);
    const status = await until(run.handle, 'in standby', (s) => s.phase === 'standby');
    expect(status.warnings.join()).toMatch(/public\.event_1 may have been emptied.*the next comparison holds the run/);
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    expect(((await run.handle.result()) as MigrationReport).outcome).toBe('completed');
    await replayed(run);
  });

  it('on blue is compared before anybody is asked to move traffic, where a look tells it', async () => {
    let looks = 0;
    const run = await runs.begin({
      lookAtSchema: () => (looks++ === 0 ? { what: null, emptied: PARTITIONS } : { what: null }),
    });
    await run.saw('+watchStandby');
    expect(run.log.filter((one) => one === '+promote')).toHaveLength(1);
    expect(run.at('-verify', run.at('-lookAtSchema'))).toBeLessThan(run.at('+promote'));
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    await run.handle.result();
    await replayed(run);
  });

  it('on blue again in three tries in a row holds the run with what to stop', async () => {
    let tries = 0;
    const run = await runs.begin({
      promote: (own, _ref, from) => {
        if (from === 'blue' && tries++ < 4) throw emptied();
        return own.move(from as 'blue' | 'green');
      },
    });
    const held = await until(run.handle, 'held', (s) => s.waiting?.for === 'resume');
    expect(held.waiting?.why).toMatch(/3 tries in a row: stop the job that gives partitions other files/);
    expect(tries).toBe(3);
    await run.handle.executeUpdate(resumeUpdate, { args: [WHO] });
    await run.saw('+watchStandby');
    expect(tries).toBe(5);
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    await run.handle.result();
    await replayed(run);
  });

  it('on blue holds a stage with the gate rowDifferences, too, whatever a failed gate does', async () => {
    let passes = 0;
    const names = new Set<unknown>();
    const run = await runs.begin(
      {
        verify: (_run, _ref, _source, scope, pass) => {
          if (scope === 'all') return EQUAL;
          names.add(pass);
          return passes++ === 0 ? { ...DIFFERS, emptied: PARTITIONS } : EQUAL;
        },
      },
      {
        traffic: {
          ...{ stages: [{ percent: 1, for: '0s' }], approval: { before: [] }, onFail: 'rollback' },
          gates: [{ metric: 'rowDifferences', max: 0 }],
        },
      },
    );
    const held = await until(run.handle, 'held', (s) => s.waiting?.for === 'resume' || s.outcome !== 'running');
    expect(held.waiting?.why).toMatch(/public\.event_1 may have been emptied on blue/);
    await run.handle.executeUpdate(resumeUpdate, { args: [WHO] });
    await run.saw('+watchStandby');
    expect(names.size).toBe(3);
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    expect(((await run.handle.result()) as MigrationReport).outcome).toBe('completed');
    await replayed(run);
  });
});

/** All is equal but what a comparison of tables with emptied partitions is told to find. */
function whatGreenHasEmptied(found: () => unknown): NonNullable<Overrides['verify']> {
  return (_run, _ref, source, _scope, _pass, only) => (source === 'green' && only === 'emptied' ? found() : EQUAL);
}

/** The timers of a run, in seconds. */
async function timers({ handle }: ScriptedRun): Promise<number[]> {
  const { events } = await handle.fetchHistory();
  return (events ?? []).map(({ timerStartedEventAttributes: timer }) =>
    Number(timer?.startToFireTimeout?.seconds ?? 0),
  );
}
