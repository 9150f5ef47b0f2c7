import { ApplicationFailure } from '@temporalio/common';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { statusOf, until } from '../support/migration.js';
import { ScriptedRuns, type Overrides } from '../support/scripted-run.js';
import type { Side } from '../../src/side.js';
import type { MigrationReport } from '../../workflows/lib/report.js';
import { rollbackUpdate } from '../../workflows/messages.js';

/* A server or a pooler is lost right after a decision, and stays away: test/long/finish-owed.long.ts has what is refused. */

let runs: ScriptedRuns;

beforeAll(async () => {
  runs = await ScriptedRuns.start();
});

afterAll(() => runs.stop());

const WHO = { by: 'grace', reason: 'the test says so' };

function away(side: Side): Overrides & { isAway: boolean } {
  const state = {
    isAway: true,
    finishPromotion: (_run: unknown, _ref: unknown, from: Side) => {
      if (from !== side || !state.isAway) return null;
      throw ApplicationFailure.create({ type: 'ConnectionFailed', message: 'it is away', nonRetryable: false });
    },
  };
  return state as unknown as Overrides & { isAway: boolean };
}

describe.concurrent('a server that stays away after a decision', { timeout: 600_000 }, () => {
  it('is told after a minute, and a rollback is heard at once', async () => {
    const overrides = away('blue');
    const run = await runs.begin(overrides);
    await run.saw('-promote');
    const began = Date.now();
    let status = await statusOf(run.handle);
    while ((status.alarms?.length ?? 0) === 0 && Date.now() - began < 90_000) {
      await new Promise((resolve) => setTimeout(resolve, 500));
      status = await statusOf(run.handle);
    }
    expect(status).toMatchObject({ phase: 'promote', writesOn: 'green', rollback: { safe: false } });
    expect(status.alarms?.[0]?.why).toMatch(/still owed: it is away/);
    expect(Date.now() - began).toBeGreaterThan(40_000);
    overrides.isAway = false;
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    const report = (await run.handle.result()) as MigrationReport;
    expect(report.outcome).toBe('rolledBack');
    expect(report.rollingBack?.notUndone).toEqual([]);
  });

  it('on the way back keeps nothing from being undone for longer than some minutes', async () => {
    const run = await runs.begin(away('green'));
    await until(run.handle, 'in standby', (s) => s.phase === 'standby');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    await run.handle.result().catch(() => undefined);
    const { rollingBack } = await statusOf(run.handle);
    expect(rollingBack?.notUndone).toEqual(['what follows the move of the writes: it is away']);
    expect(rollingBack?.undone).toContain('release both databases');
  });
});
