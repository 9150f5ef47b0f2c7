import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { until } from '../support/migration.js';
import { ScriptedRuns, slowly, untilCancelled } from '../support/scripted-run.js';
import { progressSignal } from '../../workflows/messages.js';

let runs: ScriptedRuns;

beforeAll(async () => {
  runs = await ScriptedRuns.start();
});

afterAll(() => runs.stop());

const PROGRESS = { step: 'verify', object: 'public.t', done: 1, total: 2, rowsPerSecond: 0, etaSeconds: null };

describe.concurrent('in the standby window', () => {
  it('a comparison that is over is shown no more, until the next one', async () => {
    const run = await runs.begin(
      {
        verify: async (own, _ref, source, scope) => {
          if (source === 'green') {
            await own.handle.signal(progressSignal, [PROGRESS]);
            await slowly(1_000);
          }
          return { scope, tables: 1, rowsVerified: 1, differingRows: 0, examples: [], at: '2026-11-29T00:00:00Z' };
        },
      },
      { standby: { for: '1h', verifyEvery: '5s' } },
    );
    await until(run.handle, 'compares', (s) => s.phase === 'standby' && s.progress.length === 1);
    const { waiting } = await until(
      run.handle,
      'shown no more',
      (s) => s.verification?.again?.at === '2026-11-29T00:00:00Z' && s.progress.length === 0,
      4_000,
    );
    expect(waiting?.why).toMatch(/^the standby window lasts until /);
    await run.handle.terminate();
  });

  it('DDL on blue is not to be undone where it was told to be made there, as on green', async () => {
    const changed = new Set<string>();
    const run = await runs.begin({
      watchSchema: (own, _ref, side) => {
        if (own.writesOn === 'blue' || changed.has(side)) return untilCancelled();
        changed.add(side);
        return { what: `${side}: column note of public.t was added` };
      },
    });
    const { alarms = [] } = await until(run.handle, 'told', (s) => s.alarms?.length === 2);
    const next = (about: string): string | undefined => alarms.find((one) => one.about === about)?.next;
    expect(next('schema')).toMatch(/make it on blue as well.*the newest one stays here until the run ends$/);
    expect(next('blueSchema')).toMatch(/^nothing where it makes blue what green is; else undo it on blue/);
    await run.handle.terminate();
  });
});
