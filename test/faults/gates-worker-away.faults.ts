import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { trafficActivities } from '../../activities/traffic.js';
import type { RunRef } from '../../workflows/lib/run-ref.js';
import { MIGRATION, Sides } from '../router/sides.js';
import { asks } from '../support/asked-approvals.js';
import { ScriptedRuns, type Overrides } from '../support/scripted-run.js';

let sides: Sides;
let runs: ScriptedRuns;
const closing: (() => Promise<void>)[] = [];

beforeAll(async () => {
  sides = await (await Sides.create('worker_away')).claim();
  runs = await ScriptedRuns.start();
}, 60_000);
afterEach(async () => {
  for (const close of closing.splice(0)) await close();
});
afterAll(async () => {
  await runs.stop();
  await sides.drop();
});

/** Traffic as it is moved, on two databases; all else of the run is scripted. */
function traffic(opened: number[]): Overrides {
  const environment = { VERDIGRIS_CONNECTION_B: sides.blue.uri, VERDIGRIS_CONNECTION_G: sides.green.uri };
  const activities = trafficActivities({
    ...{ environment, redact: (text: string) => text },
    patience: { lookMs: 8_000, watchedMs: 1_500 },
  });
  const refOf = (ref: RunRef): RunRef => ref;
  return {
    openStage: async (_run, ref, stage, notAfter, before) => {
      const result = await activities.openStage(refOf(ref), stage, notAfter, before);
      opened.push(stage.percent);
      return result;
    },
    judgeStage: (_run, ref, stage) => activities.judgeStage(ref, stage),
    watchGates: (_run, ref, stage) => activities.watchGates(ref, stage),
    readsToBlue: (_run, ref) => activities.readsToBlue(ref),
  };
}

describe('an approval that comes while no worker is there', { timeout: 90_000 }, () => {
  it('opens no stage when green has broken meanwhile: the gate does what it would have done', async () => {
    const opened: number[] = [];
    const run = await runs.begin(traffic(opened), {
      name: MIGRATION,
      traffic: {
        stages: [
          { percent: 10, for: '0s' },
          { percent: 50, for: '0s' },
        ],
        gates: [{ metric: 'longTransactions', max: '1s' }],
        approval: { before: [50] },
        onFail: 'rollback',
      },
    });
    await asks(run, 'stage-50');
    await runs.down();
    const client = new pg.Client(sides.green.config);
    await client.connect();
    closing.push(() => client.end());
    await client.query('BEGIN; SELECT txid_current()');
    await run.handle.signal('approve', { by: 'ada', reason: 'the numbers of before', gate: 'stage-50' });
    await sleep(2_500);
    await runs.up();
    await expect(run.handle.result()).rejects.toMatchObject({
      cause: { message: expect.stringContaining('gate failed in stage 10 %: longTransactions') as string },
    });
    expect(opened).toEqual([10]);
    expect(run.log).not.toContain('+promote');
  });
});
