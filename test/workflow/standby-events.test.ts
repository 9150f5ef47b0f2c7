import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parsePlan } from '../../src/plan/parse.js';
import { standbyEvents } from '../../src/plan/rules/times.js';
import type { StandbyState } from '../../src/postgres/standby.js';
import { recorded } from '../support/recorded-histories.js';
import { ScriptedRuns, slowly, type ScriptedRun } from '../support/scripted-run.js';

/* Temporal terminates a run at 51,200 events, and the standby window is most of a run. */

let runs: ScriptedRuns;

beforeAll(async () => {
  runs = await ScriptedRuns.start();
});
afterAll(() => runs.stop());

/** How many events pass in a quiet standby window from each time that an activity is asked for to the next one. */
async function eventsBetween(run: ScriptedRun, activity: string): Promise<number[]> {
  await run.saw('+watchStandby');
  const before = run.log.filter((one) => one === `+${activity}`).length;
  await run.saw(`+${activity}`, before + 3);
  const { events } = await run.handle.fetchHistory();
  const names = (events ?? []).map((event) => event.activityTaskScheduledEventAttributes?.activityType?.name);
  const asked = names.flatMap((name, i) => (name === activity ? [i] : [])).slice(-3);
  await run.handle.cancel();
  await run.handle.result().catch(() => undefined);
  return asked.slice(1).map((at, i) => at - (asked[i] ?? 0));
}

describe('a comparison, and an hour of the watch of the feed, are as many events as the lint counts', () => {
  const hour = (verifyEvery: string): number => standbyEvents({ standby: { for: '1h', verifyEvery } });
  const watched = hour('2h');
  const compared = hour('1h') - watched;

  it.concurrent('a comparison', async () => {
    const run = await runs.begin({}, { standby: { for: '1h', verifyEvery: '1s' } });
    expect(Math.max(...(await eventsBetween(run, 'verify')))).toBeLessThanOrEqual(compared);
  });

  it.concurrent('an hour', async () => {
    let lagSeconds = 0;
    const watchStandby = async (): Promise<StandbyState> => {
      await slowly(300);
      return { health: 'healthy', rollbackSafe: true, why: 'it follows', lagSeconds: ++lagSeconds, loses: null };
    };
    const run = await runs.begin({ watchStandby }, { standby: { for: '1h', verifyEvery: '1h' } });
    expect(Math.max(...(await eventsBetween(run, 'watchStandby')))).toBeLessThanOrEqual(watched);
  });
});

it('a run of the default plan is some 1,300 events, far below what Temporal allows', () => {
  const parsed = parsePlan({ name: 'default', blue: { connection: 'b' }, green: { connection: 'g' } });
  if (!('plan' in parsed)) throw new Error('the default plan is refused');
  const { length: rest } = recorded('completed-pg15-pg18').events;
  expect(rest).toBeLessThan(500);
  expect(standbyEvents(parsed.plan)).toBe(912);
  expect(Math.round((rest + standbyEvents(parsed.plan)) / 100)).toBe(13);
});
