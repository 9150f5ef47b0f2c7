import { setTimeout as sleep } from 'node:timers/promises';
import { Context } from '@temporalio/activity';
import { WorkflowFailedError } from '@temporalio/client';
import { ApplicationFailure, CancelledFailure } from '@temporalio/common';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { pauseUpdate, resumeUpdate, rollbackUpdate } from '../../workflows/messages.js';
import type { MigrationReport } from '../../workflows/lib/report.js';
import type { Phase } from '../../workflows/lib/status.js';
import { lostWhenCancelled } from '../support/lost-when-cancelled.js';
import { statusOf, until } from '../support/migration.js';
import { replayed, ScriptedRuns, untilCancelled, type Overrides } from '../support/scripted-run.js';

/*
 * An activity that is to stop loses its connection in that very moment, or its worker dies. Neither is a failure of the
 * run: what would have been tried again is not tried again only because it was to stop.
 */

let runs: ScriptedRuns;

beforeAll(async () => {
  runs = await ScriptedRuns.start();
});

afterAll(() => runs.stop());

const WHO = { by: 'grace', reason: 'the test says so' };

/** The worker is gone: it neither lives nor answers until its heartbeat timeout is over. */
async function gone(): Promise<never> {
  await untilCancelled().catch(() => undefined);
  await sleep(6_000);
  throw new Error('nobody hears this');
}

/** The first call meets that, the later ones do as the script does. */
function once<T>(first: () => Promise<T>, then: T | (() => T | Promise<T>)): () => Promise<T> {
  let calls = 0;
  return async () => (calls++ === 0 ? first() : then instanceof Function ? then() : then);
}

const VERIFIED = () => ({
  ...{ scope: 'everything', tables: 1, rowsVerified: 1, differingRows: 0, examples: [] },
  at: new Date().toISOString(),
});

/** An activity of each phase that is stopped by a pause, and what it does when it is begun again. */
const STOPPED: readonly [phase: Phase, activity: string, overrides: () => Overrides][] = [
  ['replicate', 'copySchema', () => ({ copySchema: once<unknown>(lostWhenCancelled, undefined) })],
  ['migrate', 'expandTables', () => ({ expandTables: once<unknown>(lostWhenCancelled, { tables: [], steps: [] }) })],
  ['verify', 'verify', () => ({ verify: once<unknown>(lostWhenCancelled, VERIFIED) })],
  ['migrate', 'fenceGreen', () => ({ fenceGreen: once<unknown>(lostWhenCancelled, undefined) })],
  ['traffic', 'forecastGates', () => ({ forecastGates: once<unknown>(lostWhenCancelled, { warnings: [] }) })],
];

describe.concurrent('an activity that loses its connection while it is stopped', () => {
  it('goes on after a pause, in every phase', async () => {
    await Promise.all(
      STOPPED.map(async ([phase, activity, overrides]) => {
        const run = await runs.begin(overrides());
        await run.saw(`+${activity}`);
        await run.handle.executeUpdate(pauseUpdate, { args: [WHO] });
        await run.saw(`-${activity}`);
        await run.handle.executeUpdate(resumeUpdate, { args: [WHO] });
        const status = await until(run.handle, phase, (now) => now.phase === 'standby' || now.outcome !== 'running');
        expect(status, phase).toMatchObject({ phase: 'standby', outcome: 'running' });
      }),
    );
  });

  it('closes the run as cancelled after a cancel, and as rolled back after a rollback', async () => {
    const overrides: Overrides = { fenceGreen: lostWhenCancelled, watchSchema: lostWhenCancelled };
    const [cancelled, asked] = [await runs.begin(overrides), await runs.begin(overrides)];
    await Promise.all([cancelled.saw('+fenceGreen'), asked.saw('+fenceGreen')]);
    await cancelled.handle.cancel();
    const error: unknown = await cancelled.handle.result().catch((e: unknown) => e);
    expect(error).toBeInstanceOf(WorkflowFailedError);
    expect((error as WorkflowFailedError).cause).toBeInstanceOf(CancelledFailure);
    expect((await statusOf(cancelled.handle)).outcome).toBe('cancelled');

    await asked.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    expect(((await asked.handle.result()) as MigrationReport).outcome).toBe('rolledBack');
  });

  it('fails the run all the same when it had found what nobody can try again', async () => {
    const run = await runs.begin({
      fenceGreen: async () => {
        await untilCancelled().catch(() => undefined);
        throw ApplicationFailure.nonRetryable('the fence was tampered with', 'FenceTampered');
      },
    });
    await run.saw('+fenceGreen');
    await run.handle.executeUpdate(pauseUpdate, { args: [WHO] });
    await run.saw('-fenceGreen');
    await run.handle.executeUpdate(resumeUpdate, { args: [WHO] });
    const error: unknown = await run.handle.result().catch((e: unknown) => e);
    expect((error as WorkflowFailedError).cause).toMatchObject({ type: 'MigrationRolledBack' });
  });
});

describe.concurrent('a worker that dies while its activity is stopped', () => {
  it('does not fail the run: the promotion is begun again after the pause', async () => {
    let calls = 0;
    const run = await runs.begin({
      promote: (self, _ref, from) => {
        if (calls++ > 0) return self.move(from);
        Context.current().heartbeat();
        return gone();
      },
    });
    await run.saw('+promote');
    await run.handle.executeUpdate(pauseUpdate, { args: [WHO] });
    // It may have died in its hold: clients of poolers go on now, and not with the resume.
    await run.saw('-withdrawPromotion');
    run.at('+withdrawPromotion', run.at('-whereWritesAre'));
    await until(run.handle, 'paused', (s) => s.paused && s.waiting?.why === 'paused by message');
    await run.handle.executeUpdate(resumeUpdate, { args: [WHO] });
    const status = await until(run.handle, 'standby', (now) => now.phase === 'standby' || now.outcome !== 'running');
    expect(status).toMatchObject({ phase: 'standby', outcome: 'running', writesOn: 'green' });
    await replayed(run);
  });
});
