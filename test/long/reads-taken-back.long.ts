import { ApplicationFailure } from '@temporalio/common';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { rollbackUpdate, resumeUpdate } from '../../workflows/messages.js';
import { until } from '../support/migration.js';
import { failureOf, resultOf } from '../support/run-end.js';
import { replayed, ScriptedRuns, untilCancelled } from '../support/scripted-run.js';

let runs: ScriptedRuns;

beforeAll(async () => {
  runs = await ScriptedRuns.start();
});

afterAll(() => runs.stop());

const WHO = { by: 'grace', reason: 'the test says so' };

const refused = (): never => {
  throw ApplicationFailure.nonRetryable('blue: there is no such database (3D000)', 'ConnectionFailed');
};
const away = (): never => {
  throw ApplicationFailure.retryable('blue: nothing listens at that address', 'ConnectionFailed');
};
/** In a stage that lasts. */
const STAGE = { traffic: { stages: [{ percent: 50, for: '1h' }], approval: { before: [] } } };

describe.concurrent('reads that are on green', { timeout: 120_000 }, () => {
  it('and can not be taken back leave green what its readers need: nothing below is undone, and the report says so', async () => {
    const run = await runs.begin({ watchGates: () => untilCancelled(), readsToBlue: refused }, STAGE);
    await run.saw('+watchGates');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    const message = (await failureOf(run)).cause?.message ?? '';
    expect(message).toMatch(/all reads back to blue: blue: there is no such database/);
    expect(message).toMatch(/undo the schema changes on green: left as it is, since reads are not back/);
    for (const name of ['undoMigrations', 'undoReplication', 'releaseDatabases'])
      expect(run.log).not.toContain(`+${name}`);
    await replayed(run);
  });

  it('are waited for while blue does not answer, and the status says so', async () => {
    let isAway = true;
    const readsToBlue = (): null => (isAway ? away() : null);
    const run = await runs.begin({ watchGates: () => untilCancelled(), readsToBlue }, STAGE);
    await run.saw('+watchGates');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    const waits = await until(run.handle, 'told', (s) => s.waiting?.for === 'retry');
    expect(waits.waiting?.why).toMatch(/reads can't be taken back to blue.*nothing listens at that address/);
    expect(run.log).not.toContain('+undoReplication');
    isAway = false;
    expect((await resultOf(run)).outcome).toBe('rolledBack');
    run.at('-undoReplication');
    await replayed(run);
  });

  it('stay there, held, when their gates can not be looked at and the plan holds failures; they are watched again after a resume', async () => {
    let isRefused = true;
    const watchGates = (): unknown => (isRefused ? refused() : untilCancelled());
    const run = await runs.begin({ watchGates }, { ...STAGE, onFailure: 'hold' });
    const held = await until(run.handle, 'held', (s) => s.waiting?.for === 'resume');
    expect(held.waiting?.why).toMatch(/the gates of stage 50 % are not watched.*3D000/);
    isRefused = false;
    await run.handle.executeUpdate(resumeUpdate, { args: [WHO] });
    await until(run.handle, 'goes on', (s) => s.waiting?.for === 'stage');
    expect(run.log).not.toContain('+readsToBlue');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    expect((await resultOf(run)).outcome).toBe('rolledBack');
    await replayed(run);
  });
});
