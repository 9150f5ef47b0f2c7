import { setTimeout as sleep } from 'node:timers/promises';
import { ApplicationFailure } from '@temporalio/common';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { MigrationReport } from '../../workflows/lib/report.js';
import { resumeUpdate, retireUpdate, rollbackUpdate } from '../../workflows/messages.js';
import { until } from '../support/migration.js';
import { replayed, ScriptedRuns, untilCancelled, type Overrides } from '../support/scripted-run.js';

let runs: ScriptedRuns;

beforeAll(async () => {
  runs = await ScriptedRuns.start();
});

afterAll(() => runs.stop());

const WHO = { by: 'grace', reason: 'the test says so' };
const PARTITIONS = ['public.event_1'];
const NEWS = { what: 'green: public.event_1 may have been emptied', emptied: { partitions: PARTITIONS, mark: 'a' } };
const LOSS =
  'what TRUNCATE may have removed from public.event_1 on green since rows were compared: blue may still have it';
const EQUAL = {
  ...{ scope: 'changed', tables: 1, rowsVerified: 1, differingRows: 0, examples: [] },
  at: '2026-11-22T00:00:00Z',
};
const DIFFERS = { ...EQUAL, differingRows: 9, examples: ['public.event "id" = 1: extra'] };

/** Green empties a partition in the standby window; the comparison of then does what it is told. */
function emptiedOnGreen(verify: () => unknown): Overrides {
  return {
    watchSchema: (_run, _ref, side, told) => (side === 'green' && told === undefined ? NEWS : untilCancelled()),
    verify: (_run, _ref, source) => (source === 'green' ? verify() : EQUAL),
  };
}

describe.concurrent('a partition that may have been emptied', () => {
  it('on green takes the way back away until a comparison, which begins at once, has found nothing', async () => {
    let compared = (): void => undefined;
    const comparing = new Promise<void>((resolve) => (compared = resolve));
    const run = await runs.begin(emptiedOnGreen(() => comparing.then(() => EQUAL)));
    const status = await until(run.handle, 'told', (s) => s.rollback.loses !== undefined);
    expect(status.rollback).toMatchObject({ safe: false, loses: LOSS });
    expect(status.alarms).toMatchObject([{ about: 'rows', state: 'emptied' }]);
    await expect(run.handle.executeUpdate(rollbackUpdate, { args: [WHO] })).rejects.toMatchObject({
      cause: { message: expect.stringContaining(`would lose ${LOSS}`) as string },
    });
    await run.saw('-verify', 2);
    compared();
    const after = await until(run.handle, 'compared', (s) => s.rollback.safe);
    expect(after.alarms).toEqual([]);
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    expect(((await run.handle.result()) as MigrationReport).outcome).toBe('completed');
    await replayed(run);
  });

  it('on green is a loss by its rows when the comparison has found them', async () => {
    const run = await runs.begin(emptiedOnGreen(() => DIFFERS));
    const status = await until(run.handle, 'compared', (s) => /9 rows differ/.test(s.rollback.loses ?? ''));
    expect(status.rollback.loses).not.toContain('TRUNCATE');
    await run.handle.executeUpdate(rollbackUpdate, { args: [{ ...WHO, acceptLoss: true }] });
    const report = (await run.handle.result()) as MigrationReport;
    expect(report).toMatchObject({ outcome: 'rolledBack', writesOn: 'blue' });
  });

  it('on green a moment before a rollback has it wait for somebody who accepts that', async () => {
    const run = await runs.begin({ maybeEmptied: () => PARTITIONS });
    await run.saw('+watchStandby');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    const status = await until(run.handle, 'asked', (s) => s.waiting?.for === 'confirmation');
    expect(status.waiting?.why).toContain(LOSS);
    expect(run.writesOn).toBe('green');
    await run.handle.executeUpdate(rollbackUpdate, { args: [{ ...WHO, acceptLoss: true }] });
    const report = (await run.handle.result()) as MigrationReport;
    expect(report).toMatchObject({ outcome: 'rolledBack', writesOn: 'blue' });
    await replayed(run);
  });

  it('on green between that look and the move of the writes has it looked at again', async () => {
    let tries = 0;
    const run = await runs.begin({
      maybeEmptied: () => (tries === 0 ? [] : PARTITIONS),
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

  it('on blue is a warning, and has rows compared once more when writes were about to move, without another approval', async () => {
    let tries = 0;
    let told = 0;
    const run = await runs.begin({
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
    const status = await until(run.handle, 'in standby', (s) => s.phase === 'standby');
    expect(status.warnings.join()).toMatch(/public\.event_1 may have been emptied.*the next comparison holds the run/);
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    expect(((await run.handle.result()) as MigrationReport).outcome).toBe('completed');
    await replayed(run);
  });

  it('on blue holds the run when green still has the rows; they are compared again on resume', async () => {
    let passes = 0;
    const run = await runs.begin({ verify: () => (passes++ === 0 ? { ...DIFFERS, emptied: PARTITIONS } : EQUAL) });
    const held = await until(run.handle, 'held', (s) => s.waiting?.for === 'resume');
    expect(held.waiting?.why).toMatch(
      /public\.event_1 may have been emptied on blue.*\nNext step: .*TRUNCATE it on green/,
    );
    await sleep(100);
    expect(run.log).not.toContain('+openStage');
    await run.handle.executeUpdate(resumeUpdate, { args: [WHO] });
    await run.saw('+watchStandby');
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    expect(((await run.handle.result()) as MigrationReport).outcome).toBe('completed');
    await replayed(run);
  });
});

function emptied(): ApplicationFailure {
  return ApplicationFailure.nonRetryable('public.event_1 may have been emptied since', 'PartitionEmptied');
}
