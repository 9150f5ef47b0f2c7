import { setTimeout as sleep } from 'node:timers/promises';
import { ApplicationFailure } from '@temporalio/common';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { statusOf, until } from '../support/migration.js';
import { replayed, ScriptedRuns, untilCancelled, type ScriptedRun } from '../support/scripted-run.js';
import { beginInWindow, Schedule, soon } from '../support/window-schedule.js';
import { approveUpdate, pauseUpdate, resumeUpdate, rollbackUpdate } from '../../workflows/messages.js';
import type { MigrationReport } from '../../workflows/lib/report.js';
import { aheadBy } from '../../workflows/windows.js';

let runs: ScriptedRuns;

beforeAll(async () => {
  runs = await ScriptedRuns.start();
});
afterAll(() => runs.stop());

const WHO = { by: 'ada', reason: 'the test says so' };

/** The summaries of the timers that a run has started. */
async function timers(run: ScriptedRun): Promise<string> {
  const { events } = await run.handle.fetchHistory();
  return (events ?? [])
    .filter((event) => (event.timerStartedEventAttributes ?? null) !== null)
    .map((event) => Buffer.from(event.userMetadata?.summary?.data ?? []).toString())
    .join('\n');
}

describe.concurrent('the windows of a run', () => {
  it('keep a promotion waiting, with a timer and a status that say until when and why; then it looks at the rows again', async () => {
    const schedule = new Schedule([0, false]);
    const run = await beginInWindow(runs, 'promote', { lookAtWindow: () => schedule.look() });
    const status = await until(run.handle, 'waiting', (s) => s.waiting?.for === 'window');
    expect(status.waiting?.why).toBe(
      'promote waits until Tue 2026-11-24 01:00 Europe/Berlin: only Mon-Fri 01:00-05:00',
    );
    expect(Date.parse(status.waiting?.until ?? '')).toBeGreaterThan(Date.now());
    expect(await timers(run)).toContain('promote waits until Tue 2026-11-24 01:00 Europe/Berlin');
    expect(run.log).not.toContain('+promote');

    // Nothing of a rollback asks whether it may.
    const looks = run.log.filter((entry) => entry === '+lookAtWindow').length;
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    const report = (await run.handle.result()) as MigrationReport;
    expect(report.outcome).toBe('rolledBack');
    expect(run.log.filter((entry) => entry === '+lookAtWindow')).toHaveLength(looks);
  });

  it('have both databases looked at again before anything is touched: what was found is as old as the wait', async () => {
    const schedule = new Schedule([0, false], [2_000, true]);
    const run = await beginInWindow(runs, 'replicate', {
      lookAtWindow: () => schedule.look(),
      preflight: (_, __, isAgain) => {
        if (isAgain !== true) return { warnings: [] };
        throw ApplicationFailure.nonRetryable('public.audit has no primary key', 'PreflightFailed');
      },
    });
    await expect(run.handle.result()).rejects.toMatchObject({ cause: { type: 'PreflightFailed' } });
    expect(run.log).not.toContain('+claimDatabases');
    await replayed(run);
  });

  it('are asked again after that look: one that a pause has stopped until they have closed begins no copy', async () => {
    const schedule = new Schedule();
    const run = await beginInWindow(runs, 'replicate', {
      lookAtWindow: (one) =>
        one.log.filter((entry) => entry === '+lookAtWindow').length === 1 ? soon(false, 1_000) : schedule.look(),
      preflight: (one) =>
        one.log.filter((entry) => entry === '+preflight').length === 2 ? untilCancelled() : { warnings: [] },
    });
    await run.saw('+preflight', 2);
    await run.handle.executeUpdate(pauseUpdate, { args: [WHO] });
    await run.saw('-preflight', 2);
    const opens = Date.now() + 4_000;
    schedule.changes = [
      [0, false],
      [opens, true],
    ];
    await run.handle.executeUpdate(resumeUpdate, { args: [WHO] });
    await until(run.handle, 'waiting', (s) => s.waiting?.for === 'window');
    await run.saw('+claimDatabases');
    expect(Date.now()).toBeGreaterThanOrEqual(opens);
    expect(run.log.filter((entry) => entry === '+preflight')).toHaveLength(4);
    await replayed(run);
    await run.handle.terminate();
  });

  it('that are open at once, and no pause, have nothing looked at twice', async () => {
    const run = await beginInWindow(runs, 'replicate', { lookAtWindow: () => soon(true, 3_600_000) });
    await run.saw('-claimDatabases');
    expect(run.log.filter((entry) => entry === '+preflight')).toHaveLength(1);
    await run.handle.terminate();
  });

  it('are asked again after a pause: a window that has closed meanwhile stays closed', async () => {
    const schedule = new Schedule([0, true]);
    const run = await beginInWindow(runs, 'promote', {
      lookAtWindow: () => schedule.look(),
      promote: (one, _ref, from) =>
        one.log.filter((entry) => entry === '+promote').length === 1 ? untilCancelled() : one.move(from),
    });
    await run.saw('+promote');
    await run.handle.executeUpdate(pauseUpdate, { args: [WHO] });
    await run.saw('-promote');
    schedule.changes = [[0, false]];
    await run.handle.executeUpdate(resumeUpdate, { args: [WHO] });
    await until(run.handle, 'waiting', (s) => s.waiting?.for === 'window');
    await sleep(300);
    expect(run.log.filter((entry) => entry === '+promote')).toHaveLength(1);
    expect((await statusOf(run.handle)).writesOn).toBe('blue');
    await run.handle.terminate();
  });

  it('end a backfill, which goes on in the next one; what stops is said', async () => {
    let looks = 0;
    const run = await beginInWindow(runs, 'migrate', {
      // Open until the backfill has begun, then closed once.
      lookAtWindow: (one) => {
        if (one.log.includes('+backfillTables')) looks += 1;
        return looks === 1 ? soon(false, 1_000) : soon(true, looks === 0 ? 1_000 : 3_600_000);
      },
      expandTables: () => ({ tables: ['public.orders'], steps: [] }),
      backfillTables: (one) =>
        one.log.filter((entry) => entry === '+backfillTables').length === 1 ? untilCancelled(100) : undefined,
    });
    await run.saw('+backfillTables', 2);
    expect(run.at('-backfillTables')).toBeLessThan(run.log.lastIndexOf('+backfillTables'));
    const { warnings } = await statusOf(run.handle);
    expect(warnings.join()).toMatch(
      /"backfilling public.orders" stops at the end of its window, and goes on where it was/,
    );
    expect(await timers(run)).toContain('migrate waits until Tue 2026-11-24 01:00 Europe/Berlin');
    await run.handle.terminate();
  });

  it('keep a stage waiting while the gates of the stage before keep their authority', async () => {
    const schedule = new Schedule([0, true]);
    const run = await runs.begin(
      {
        lookAtWindow: () => schedule.look(),
        openStage: () => {
          schedule.changes = [[0, false]];
          return { routers: 0 };
        },
        watchGates: (one) => (one.log.filter((entry) => entry === '+openStage').length === 1 ? untilCancelled() : []),
      },
      {
        windows: { traffic: ['daily 01:00-05:00'] },
        traffic: {
          stages: [
            { percent: 1, for: '0s' },
            { percent: 10, for: '0s' },
          ],
          approval: { before: [] },
        },
      },
    );
    await until(run.handle, 'waiting', (s) => s.waiting?.for === 'window' && s.greenReadPercent === 1);
    expect(run.log.filter((entry) => entry === '+openStage')).toHaveLength(1);
    expect(run.log.lastIndexOf('+watchGates')).toBeGreaterThan(run.log.lastIndexOf('-watchGates'));
    await run.handle.terminate();
  });

  it('wait until blue is quiet, too', async () => {
    let looks = 0;
    const run = await runs.begin(
      { awaitQuiet: () => ({ quiet: ++looks > 1, transactionsPerSecond: 10 }) },
      { windows: { below: { transactionsPerSecond: 100 } } },
    );
    await run.saw('-promote');
    // Once more at the first of replicate, migrate, the stage and the promotion.
    expect(looks).toBe(5);
    await run.handle.terminate();
  });

  it('that open after an approval has ended are named where it is asked for, and in the answer to it', async () => {
    const DAY = 86_400_000;
    const opens = new Date(Date.now() + 4 * DAY).toISOString();
    const changesAtText = 'Sat 2026-11-28 02:00 UTC';
    const run = await runs.begin(
      { lookAtWindow: () => ({ open: false, changesAt: opens, changesAtText }) },
      {
        windows: { promote: ['Sat 02:00-04:00'] },
        traffic: { stages: [{ percent: 1, for: '0s' }], approval: { before: ['promote'] } },
      },
    );
    const { waiting } = await until(run.handle, 'asked', (s) => s.waiting?.gate === 'promote');
    expect(waiting?.evidence).toContain(`window: opens ${changesAtText}`);
    expect(waiting?.evidence?.at(-1)).toMatch(/^NOT in time: the approval ends at .* before the window opens \(Sat /);
    const approval = { gate: 'promote', by: 'ada', reason: 'go' };
    const answer = await run.handle.executeUpdate(approveUpdate, { args: [approval] });
    expect(answer).toMatch(
      /^approved: promote; the approval ends at .* before the window opens \(Sat .*\); it is asked for again then/,
    );
    expect((await statusOf(run.handle)).warnings.join()).toContain('promote: the approval ends at');
    await run.handle.terminate();
  });
});

describe.concurrent('a question that outlives a window', () => {
  const asking = {
    windows: { promote: ['Sat 02:00-04:00'] },
    traffic: { stages: [{ percent: 1, for: '0s' }], approval: { before: ['promote' as const], validFor: '1h' } },
  };

  it.each([false, true])('says when it opens next, also when it was asked while that was open (%s)', async (open) => {
    const later = 'Sat 2026-12-05 02:00 UTC';
    const next = new Date(Date.now() + 86_400_000).toISOString();
    let looks = 0;
    const run = await runs.begin(
      {
        lookAtWindow: () => {
          if (++looks > 1) return { open: false, changesAt: next, changesAtText: later };
          return { open, changesAt: new Date(Date.now() + 6_000).toISOString(), changesAtText: 'Sat 02:00 UTC' };
        },
      },
      asking,
    );
    const { waiting } = await until(run.handle, 'asked', (s) => s.waiting?.gate === 'promote');
    const evidence = waiting?.evidence?.join() ?? '';
    expect(evidence.includes('window: opens Sat 02:00 UTC')).toBe(!open);
    const told = await until(
      run.handle,
      'told',
      (s) => s.waiting?.evidence?.includes(`window: opens ${later}`) === true,
    );
    expect(told.waiting?.evidence?.at(-1)).toMatch(/^NOT in time: /);
    const approval = { gate: 'promote', by: 'ada', reason: 'go' };
    expect(await run.handle.executeUpdate(approveUpdate, { args: [approval] })).toContain(`opens (${later})`);
    await until(run.handle, 'waits for it', (s) => s.waiting?.for === 'window');
    await replayed(run, 'window-missed');
    await run.handle.terminate();
  });
});

describe('what is compared ahead of a window', () => {
  const HOUR = 3_600_000;

  it.each([
    [144 * HOUR, 100, 36 * HOUR],
    [2 * HOUR, 100, HOUR / 2],
    [30_000, 100, null],
    [33 * HOUR, 3 * HOUR, 8.25 * HOUR],
    [5.25 * HOUR, 3 * HOUR, 2.25 * HOUR],
    [HOUR, 3 * HOUR, HOUR],
  ])('%d ms before it opens, where it took %d ms, is begun %d ms before', (remaining, lastMs, by) => {
    expect(aheadBy(remaining, lastMs)).toBe(by);
  });
});
