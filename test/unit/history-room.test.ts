import { beforeEach, describe, expect, it, vi } from 'vitest';
import { lookAtHistory, outageTries, restMs, spareHistory, sparingMs } from '../../workflows/lib/history-room.js';
import { MigrationRun } from '../../workflows/lib/migration-run.js';

const temporal = vi.hoisted(() => ({
  history: { historyLength: 0, historySize: 0 },
  asked: [] as string[],
  slept: [] as number[],
}));

vi.mock('@temporalio/workflow', () => ({
  workflowInfo: () => temporal.history,
  patched: (id: string) => temporal.asked.push(id) > 0,
  sleep: (ms: number) => Promise.resolve(temporal.slept.push(ms)),
}));

const MEGABYTE = 2 ** 20;

beforeEach(() => {
  temporal.history = { historyLength: 400, historySize: MEGABYTE };
  temporal.asked.length = 0;
  temporal.slept.length = 0;
});

function newRun(): MigrationRun {
  return new MigrationRun(
    { name: 'orders', workflowId: 'verdigris/orders', runId: 'r1' },
    () => '2026-11-24T01:00:00Z',
  );
}

describe('the room of the history', () => {
  it('adds nothing to an ordinary run: not even the mark of a patch', async () => {
    const run = newRun();
    lookAtHistory(run);
    await spareHistory();
    expect(restMs()).toBe(0);
    expect(run.status.alarms ?? []).toEqual([]);
    expect(temporal).toMatchObject({ asked: [], slept: [] });
  });

  it.each([
    [11_000, 1, 60_000],
    [31_000, 1, 300_000],
    [36_000, 1, 3_600_000],
    [44_000, 1, 6 * 3_600_000],
    [500, 11, 60_000],
    [500, 43, 6 * 3_600_000],
  ])('rests longer the fuller it is: %i events and %i MB', async (historyLength, megabytes, ms) => {
    temporal.history = { historyLength, historySize: megabytes * MEGABYTE };
    expect(restMs()).toBe(ms);
    await spareHistory();
    await spareHistory(300_000);
    expect(temporal.slept).toEqual([ms, Math.min(ms, 300_000)]);
  });

  it('has what is tried again and again wait longer the fuller it is, and no less than it would', () => {
    const HOUR = 3_600_000;
    const waits = (): number[] => [sparingMs(2_000), sparingMs(300_000), sparingMs(300_000, HOUR)];
    expect(waits()).toEqual([2_000, 300_000, 300_000]);
    temporal.history = { historyLength: 11_000, historySize: MEGABYTE };
    expect(waits()).toEqual([60_000, 300_000, 300_000]);
    temporal.history = { historyLength: 44_000, historySize: MEGABYTE };
    expect(waits()).toEqual([6 * HOUR, 6 * HOUR, HOUR]);
  });

  it('raises an alarm long before it is full, once for each state', () => {
    const run = newRun();
    run.onChange = () => lookAtHistory(run);
    const warnings = (): number => run.status.warnings.length;
    temporal.history = { historyLength: 35_000, historySize: 34 * MEGABYTE };
    run.doing('waiting');
    expect(run.status.alarms ?? []).toEqual([]);
    temporal.history = { historyLength: 36_000, historySize: 2 * MEGABYTE };
    run.doing('waiting');
    expect(run.status.alarms).toMatchObject([
      {
        about: 'history',
        state: 'filling',
        why: expect.stringContaining('36000 events of 51200, 2 MB of 50') as string,
        next: expect.stringContaining('`retire`, or `rollback`') as string,
      },
    ]);
    temporal.history = { historyLength: 36_100, historySize: 2 * MEGABYTE };
    run.doing('still waiting');
    expect(warnings()).toBe(1);
    temporal.history = { historyLength: 36_100, historySize: 43 * MEGABYTE };
    run.doing('still waiting');
    expect(run.status.alarms).toMatchObject([{ about: 'history', state: 'nearly full' }]);
    run.end('completed', 'over');
    expect(run.status.alarms).toEqual([]);
  });
});

describe('an outage in which nobody takes writes', () => {
  it('is told anew each half minute, and more rarely the fuller the history: the tries in between leave nothing in it', () => {
    const tries = [400, 11_000, 31_000, 45_000].map((historyLength) => {
      temporal.history = { historyLength, historySize: MEGABYTE };
      return outageTries();
    });
    expect(tries).toEqual([10, 100, 1_000, 1_000]);
  });
});
