import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { MigrationReport } from '../../workflows/lib/report.js';
import { retireUpdate, rollbackUpdate } from '../../workflows/messages.js';
import { DIFFERS, emptied, emptiedOnGreen, LOSS, NEWS, PARTITIONS } from '../support/emptied-partition.js';
import { until } from '../support/migration.js';
import { replayed, ScriptedRuns, untilCancelled } from '../support/scripted-run.js';

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
});
