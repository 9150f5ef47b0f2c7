import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { until } from '../support/migration.js';
import { replayed, ScriptedRuns } from '../support/scripted-run.js';
import type { MigrationReport } from '../../workflows/lib/report.js';
import { rollbackUpdate } from '../../workflows/messages.js';

let runs: ScriptedRuns;

beforeAll(async () => {
  runs = await ScriptedRuns.start();
});

afterAll(async () => {
  await runs.stop();
});

const WHO = { by: 'ada', reason: 'it is on fire' };
/** Temporal takes a message of this size. The result of a run that keeps it twice is larger than it takes. */
const LOG = 'x'.repeat(1_200_000);

describe.concurrent('a rollback with a log for its reason', () => {
  it('is refused as an update and ignored as a signal, with its length; the next one closes the run', async () => {
    const run = await runs.begin();
    await run.saw('+watchStandby');
    await expect(run.handle.executeUpdate(rollbackUpdate, { args: [{ ...WHO, reason: LOG }] })).rejects.toMatchObject({
      cause: { message: expect.stringContaining('"reason" has 1200000 characters') as string },
    });
    await run.handle.signal('rollback', { ...WHO, reason: LOG });
    const status = await until(run.handle, 'told', (s) => s.decisions.length === 1);
    expect(status).toMatchObject({ outcome: 'running', rollingBack: null });
    expect(status.decisions[0]?.ignored).toBe('"reason" has 1200000 characters: send 2000 at most');

    await run.handle.executeUpdate(rollbackUpdate, { args: [{ ...WHO, reason: 'y'.repeat(2_000) }] });
    const report = (await run.handle.result()) as MigrationReport;
    expect(report).toMatchObject({ outcome: 'rolledBack', rollingBack: { reason: `ada: ${'y'.repeat(2_000)}` } });
    await replayed(run);
  });

  it('that is told with many that nobody has sent rightly ends the run all the same', async () => {
    const run = await runs.begin();
    await run.saw('+watchStandby');
    for (let sent = 0; sent < 20; sent++) await run.handle.signal('rolback', { ...WHO, reason: LOG.slice(0, 200_000) });
    await until(run.handle, 'told', (s) => s.decisions.length === 20);
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    expect(await run.handle.result()).toMatchObject({ outcome: 'rolledBack' });
    await replayed(run);
  });
});
