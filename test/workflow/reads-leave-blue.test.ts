import { ApplicationFailure } from '@temporalio/common';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import type { PlanInput } from '../../src/plan/schema.js';
import type { MigrationReport } from '../../workflows/lib/report.js';
import { resumeUpdate, retireUpdate, rollbackUpdate } from '../../workflows/messages.js';
import { beginAway } from '../support/away-at-retirement.js';
import { statusOf, until } from '../support/migration.js';
import { replayed, ScriptedRuns, type ScriptedRun } from '../support/scripted-run.js';

let runs: ScriptedRuns;

beforeAll(async () => {
  runs = await ScriptedRuns.start();
});

afterAll(() => runs.stop());

const WHO = { by: 'grace', reason: 'the test says so' };
const LEFT = 'HAProxy "haproxy_1" still has connections to blue, which will not be kept current: they must end';

/** The pool that keeps connections to blue. */
interface Pool {
  hasLeft: boolean;
  /** How often it was looked at. */
  looks: number;
}

/** A run whose standby window is over, while a pool still has connections to blue. */
async function begin(): Promise<{ run: ScriptedRun; pool: Pool }> {
  const pool: Pool = { hasLeft: false, looks: 0 };
  const readsHaveLeftBlue = (): void => {
    pool.looks += 1;
    if (!pool.hasLeft) throw ApplicationFailure.retryable(`${LEFT}\nNext step: mend it`, 'WeightsNotSet');
  };
  const traffic: PlanInput['traffic'] = {
    stages: [{ percent: 1, for: '0s' }],
    approval: { before: [] },
    haproxy: { backend: 'reads', instances: ['haproxy_1'] },
  };
  return { pool, run: await runs.begin({ readsHaveLeftBlue }, { traffic, standby: { for: '1s' } }) };
}

/** It is told, and until it is over the standby window lasts. */
async function isWaitedFor({ handle, log }: ScriptedRun): Promise<void> {
  const { phase, waiting, rollback, warnings } = await until(handle, 'told', (s) => s.waiting?.for === 'resume');
  expect(waiting?.why).toContain(`the retirement waits: ${LEFT}`);
  expect(waiting?.answer).toContain('--name resume');
  expect(warnings.at(-1)).toBe(waiting?.why);
  expect({ phase, safe: rollback.safe }).toEqual({ phase: 'standby', safe: true });
  expect(log).not.toContain('+retire');
  expect(log).toContain('+watchStandby');
  expect(log).not.toContain('-watchStandby');
}

/** A run whose retirement ends at its first look: green was replaced right then. */
async function beginRefused(details: object[]): Promise<ScriptedRun> {
  let isRefused = true;
  const retire = (): null => {
    const message = 'green was opened for epoch 2 and knows nothing of it\nNext step: open it';
    if (isRefused) throw ApplicationFailure.create({ type: 'NotOpened', nonRetryable: true, message, details });
    return null;
  };
  const run = await runs.begin({ retire }, { standby: { for: '1s' } });
  await until(run.handle, 'held', (s) => s.phase === 'retire' && s.waiting?.for === 'resume');
  isRefused = false;
  return run;
}

describe.concurrent('a retirement', () => {
  it('that waits for reads behind HAProxy to leave blue is told and looked at again, while the feed is watched; it goes on when nobody reads there any more', async () => {
    const { run, pool } = await begin();
    await isWaitedFor(run);
    const { looks } = pool;
    await run.handle.executeUpdate(resumeUpdate, { args: [WHO] });
    // Where tests run at once, expect.poll() does not know to which of them it belongs.
    await vi.waitFor(() => expect(pool.looks).toBeGreaterThan(looks), { timeout: 30_000 });
    await expect(run.handle.executeUpdate(retireUpdate, { args: [WHO] })).rejects.toMatchObject({
      cause: { message: expect.stringContaining('the standby window has ended, and the run waits') as string },
    });
    pool.hasLeft = true;
    await run.handle.executeUpdate(resumeUpdate, { args: [WHO] });
    expect(((await run.handle.result()) as MigrationReport).outcome).toBe('completed');
    await replayed(run);
  });

  it('that waits for them may be rolled back meanwhile: nothing has been taken down', async () => {
    const { run } = await begin();
    await isWaitedFor(run);
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    expect(((await run.handle.result()) as MigrationReport).outcome).toBe('rolledBack');
    expect((await statusOf(run.handle)).writesOn).toBe('blue');
    expect(run.log).not.toContain('+retire');
    await replayed(run);
  });

  it('that meets at its first look what may pass is told, takes nothing down, and may be rolled back, while the feed is watched', async () => {
    const { run, back } = await beginAway(runs);
    const { waiting, rollback } = await statusOf(run.handle);
    expect(waiting?.why).toContain("the retirement waits: green can't be reached");
    expect(rollback.safe).toBe(true);
    await run.saw('+watchStandby', 2);
    back();
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    expect(((await run.handle.result()) as MigrationReport).outcome).toBe('rolledBack');
    expect(run.log).not.toContain('+retire');
    await replayed(run);
  });

  it('that is refused before anything was taken down: the feed is watched on, and it may be rolled back', async () => {
    const run = await beginRefused([{ untouched: true }]);
    const { waiting, rollback } = await statusOf(run.handle);
    expect(waiting?.why).toContain('the retirement could not begin: green was opened for epoch 2');
    // As it was known before: the watch says when it is not so any more.
    expect(rollback.safe).toBe(true);
    await run.saw('+watchStandby', 2);
    await run.saw('+compareRegularly', 2);
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    expect(((await run.handle.result()) as MigrationReport).outcome).toBe('rolledBack');
    expect((await statusOf(run.handle)).writesOn).toBe('blue');
    expect(run.log.filter((one) => one === '+retire')).toHaveLength(1);
    await replayed(run);
  });

  it('that is refused before anything was taken down: a resume has it go on', async () => {
    const run = await beginRefused([{ byHand: true, untouched: true }]);
    await run.handle.executeUpdate(resumeUpdate, { args: [WHO] });
    expect(((await run.handle.result()) as MigrationReport).outcome).toBe('completed');
    await replayed(run);
  });

  it('that is refused in its middle: there is no way back', async () => {
    const run = await beginRefused([]);
    await expect(run.handle.executeUpdate(rollbackUpdate, { args: [WHO] })).rejects.toMatchObject({
      cause: { message: expect.stringContaining('no way back any more') as string },
    });
    await run.handle.executeUpdate(resumeUpdate, { args: [WHO] });
    expect(((await run.handle.result()) as MigrationReport).outcome).toBe('completed');
    await replayed(run);
  });
});
