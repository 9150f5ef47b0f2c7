import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { PlanInput } from '../../src/plan/schema.js';
import { lostWhenCancelled } from '../support/lost-when-cancelled.js';
import { until } from '../support/migration.js';
import { ScriptedRuns } from '../support/scripted-run.js';

let runs: ScriptedRuns;

beforeAll(async () => {
  runs = await ScriptedRuns.start();
});

afterAll(() => runs.stop());

const PASS = { outcome: 'pass', evidence: [], lagSeconds: 0 };

describe.concurrent('an activity that loses its connection while it is stopped', () => {
  it('does not fail the run when it watched the gates of a stage that is over', async () => {
    const plan: Partial<PlanInput> = { traffic: { stages: [{ percent: 1, for: '1s' }], approval: { before: [] } } };
    const run = await runs.begin({ watchGates: lostWhenCancelled, judgeStage: () => PASS }, plan);
    await run.saw('-watchGates');
    const status = await until(run.handle, 'standby', (now) => now.phase === 'standby' || now.outcome !== 'running');
    expect(status).toMatchObject({ phase: 'standby', outcome: 'running', writesOn: 'green' });
  });
});
