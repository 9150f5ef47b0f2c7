import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { until } from '../support/migration.js';
import type { Evidence } from '../../workflows/lib/evidence.js';
import type { MigrationStatus } from '../../workflows/lib/status.js';
import { resumeUpdate } from '../../workflows/messages.js';
import { ScriptedRuns, type ScriptedRun } from '../support/scripted-run.js';

const SIDE = { requests: 100, errors: 0 };

function evidence(outcome: Evidence['outcome'], more: Partial<Evidence> = {}): Evidence {
  return {
    ...{ metric: 'errorRate', outcome, because: `it is ${outcome}`, windowSeconds: 60, green: SIDE, blue: SIDE },
    ...{ at: '2026-11-28T00:00:00.000Z', where: 'stage 1 %', ...more },
  };
}

const BY = { by: 'ada', reason: 'looked at it' };

function held(run: ScriptedRun): Promise<MigrationStatus> {
  return until(run.handle, 'held', (status) => status.waiting?.for === 'resume');
}

describe('a gate that does not pass', () => {
  let runs: ScriptedRuns;
  beforeAll(async () => {
    runs = await ScriptedRuns.start();
  }, 60_000);
  afterAll(() => runs.stop());

  it('and is inconclusive never lets the stage end by itself: each time somebody has to answer, who is told what is missing', async () => {
    let judged = 0;
    const run = await runs.begin({
      judgeStage: () => {
        const outcome = ++judged < 3 ? ('inconclusive' as const) : ('pass' as const);
        return { outcome, evidence: [evidence(outcome)], lagSeconds: 0 };
      },
    });
    for (const time of [1, 2]) {
      const { waiting } = await held(run);
      expect(judged).toBe(time);
      expect(waiting?.why).toContain('errorRate: it is inconclusive');
      expect(run.log).not.toContain('+promote');
      expect(run.log).not.toContain('+readsToBlue');
      await run.handle.executeUpdate(resumeUpdate, { args: [BY] });
      await run.saw('+judgeStage', time + 1);
    }
    await run.saw('+watchStandby');
    expect(judged).toBe(3);
    await run.handle.terminate();
  });

  it('and says pause takes the reads back and keeps everything else; the stage is opened again on resume', async () => {
    let judged = 0;
    const run = await runs.begin({
      judgeStage: () =>
        ++judged === 1
          ? { outcome: 'fail', evidence: [evidence('fail', { onFail: 'pause' })], lagSeconds: 0 }
          : { outcome: 'pass', evidence: [evidence('pass')], lagSeconds: 0 },
    });
    const status = await held(run);
    expect(status).toMatchObject({ outcome: 'running', greenReadPercent: 0 });
    expect(run.log).toContain('-readsToBlue');
    expect(run.log.some((entry) => /undoReplication|removeFence|releaseDatabases/.test(entry))).toBe(false);
    await run.handle.executeUpdate(resumeUpdate, { args: [BY] });
    await run.saw('+openStage', 2);
    await run.saw('+watchStandby');
    await run.handle.terminate();
  });
});
