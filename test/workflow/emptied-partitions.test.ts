import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { MigrationReport } from '../../workflows/lib/report.js';
import { resumeUpdate, retireUpdate } from '../../workflows/messages.js';
import { DIFFERS, emptiedOnGreen, EQUAL, LOSS, PARTITIONS } from '../support/emptied-partition.js';
import { until } from '../support/migration.js';
import { replayed, ScriptedRuns } from '../support/scripted-run.js';

let runs: ScriptedRuns;

beforeAll(async () => {
  runs = await ScriptedRuns.start();
});

afterAll(() => runs.stop());

const WHO = { by: 'grace', reason: 'the test says so' };
describe.concurrent('a partition that may have been emptied', () => {
  it('on green takes the way back away until a comparison, which begins at once, has found nothing', async () => {
    let compared = (): void => undefined;
    const comparing = new Promise<void>((resolve) => (compared = resolve));
    const run = await runs.begin(emptiedOnGreen(() => comparing.then(() => EQUAL)));
    const status = await until(run.handle, 'told', (s) => s.rollback.loses !== undefined);
    expect(status.rollback).toMatchObject({ safe: false, loses: LOSS });
    expect(status.alarms).toMatchObject([{ about: 'rows', state: 'emptied' }]);
    await run.saw('-verify', 2);
    compared();
    const after = await until(run.handle, 'compared', (s) => s.rollback.safe);
    expect(after.alarms).toEqual([]);
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
