import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import type { WindowLook } from '../../activities/windows.js';
import { statusOf, until } from '../support/migration.js';
import { ScriptedRuns, untilCancelled, type Overrides, type ScriptedRun } from '../support/scripted-run.js';
import type { PlanInput } from '../../src/plan/schema.js';
import { approveUpdate, pauseUpdate, resumeUpdate, rollbackUpdate } from '../../workflows/messages.js';
import type { MigrationReport } from '../../workflows/lib/report.js';
import { aheadBy } from '../../workflows/windows.js';

let runs: ScriptedRuns;

beforeAll(async () => {
  runs = await ScriptedRuns.start();
});
afterAll(() => runs.stop());

const WHO = { by: 'ada', reason: 'the test says so' };

/** A window whose times are written by the test. */
class Schedule {
  /** Open or closed from that moment on. */
  changes: [at: number, open: boolean][];

  constructor(...changes: [inMs: number, open: boolean][]) {
    this.changes = changes.map(([inMs, open]) => [Date.now() + inMs, open]);
  }

  look(): WindowLook {
    const now = Date.now();
    const open = this.changes.filter(([at]) => at <= now).at(-1)?.[1] ?? true;
    const next = this.changes.find(([at]) => at > now)?.[0] ?? now + 3_600_000;
    return { open, changesAt: new Date(next).toISOString(), changesAtText: 'Tue 2026-11-24 01:00 Europe/Berlin' };
  }
}

function begin(what: 'migrate' | 'traffic' | 'promote', overrides: Overrides): Promise<ScriptedRun> {
  const windows: PlanInput['windows'] = { timezone: 'Europe/Berlin', [what]: ['Mon-Fri 01:00-05:00'] };
  return runs.begin(overrides, { windows });
}

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
    const run = await begin('promote', { lookAtWindow: () => schedule.look() });
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

  it('open for a promotion by themselves, and rows that were written meanwhile are compared first', async () => {
    const schedule = new Schedule([0, false]);
    const run = await begin('promote', {
      lookAtWindow: () => {
        // Opens two seconds after the first look.
        if (schedule.changes.length === 1) schedule.changes.push([Date.now() + 2_000, true]);
        return schedule.look();
      },
    });
    await run.saw('-promote');
    const looked = run.log.lastIndexOf('+lookAtWindow');
    expect(run.log.filter((entry) => entry === '+verify').length).toBe(3);
    expect(run.log.lastIndexOf('+verify')).toBeLessThan(looked);
    await run.handle.terminate();
  });

  it('are asked again after a pause: a window that has closed meanwhile stays closed', async () => {
    const schedule = new Schedule([0, true]);
    const run = await begin('promote', {
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

  it('say until when a promotion may begin, with the approval and the time for which it is tried; the way back has no end', async () => {
    const ends: unknown[] = [];
    const promote: Overrides['promote'] = (one, _ref, from, _epoch, _acceptLoss, notAfter) => {
      ends.push(notAfter);
      return one.move(from);
    };
    const schedule = new Schedule([0, true], [60_000, false]);
    const inWindow = await begin('promote', { lookAtWindow: () => schedule.look(), promote });
    const begun = Date.now();
    const inNone = await runs.begin({ promote });
    for (const run of [inWindow, inNone]) await run.saw('-promote');
    await inWindow.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    await inWindow.handle.result();
    await inNone.handle.terminate();
    const [window, tries, ...back] = ends.slice(0, 2).sort().concat(ends.slice(2));
    expect(window).toBe(new Date(schedule.changes[1]?.[0] ?? 0).toISOString());
    expect(Date.parse(String(tries)) - begun).toBeGreaterThan(250_000);
    expect(Date.parse(String(tries)) - begun).toBeLessThan(350_000);
    // What was decided is finished, then writes go back.
    expect(back).toEqual([undefined, undefined]);
  });

  it('end a backfill, which goes on in the next one; what stops is said', async () => {
    const soon = (open: boolean, ms: number): WindowLook => ({
      ...{ open, changesAt: new Date(Date.now() + ms).toISOString() },
      changesAtText: 'Tue 2026-11-24 01:00 Europe/Berlin',
    });
    let looks = 0;
    const run = await begin('migrate', {
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

  it('that open again for a backfill wait until blue is quiet, as the first one does', async () => {
    const soon = (open: boolean, ms: number): WindowLook => ({
      ...{ open, changesAt: new Date(Date.now() + ms).toISOString() },
      changesAtText: 'Tue 2026-11-24 01:00 Europe/Berlin',
    });
    let looks = 0;
    let quiet: (answer: { quiet: boolean; transactionsPerSecond: number }) => void = () => undefined;
    const run = await runs.begin(
      {
        lookAtWindow: (one) => {
          if (one.log.includes('+backfillTables')) looks += 1;
          return looks === 1 ? soon(false, 1_000) : soon(true, looks === 0 ? 1_000 : 3_600_000);
        },
        awaitQuiet: (one) => {
          if (!one.log.includes('-backfillTables')) return { quiet: true, transactionsPerSecond: 10 };
          return new Promise((resolve) => (quiet = resolve));
        },
        expandTables: () => ({ tables: ['public.orders'], steps: [] }),
        backfillTables: (one) =>
          one.log.filter((entry) => entry === '+backfillTables').length === 1 ? untilCancelled(100) : undefined,
      },
      { windows: { migrate: ['daily 01:00-05:00'], below: { transactionsPerSecond: 100 } } },
    );
    const status = await until(run.handle, 'waiting for the load', (s) => s.waiting?.for === 'load' && looks > 1);
    expect(status.waiting?.why).toContain('migrate waits until others make fewer than 100 transactions a second');
    await sleep(300);
    const backfills = (): number => run.log.filter((entry) => entry === '+backfillTables').length;
    expect(backfills()).toBe(1);
    // A window that has ended meanwhile, or a moment that was not quiet: it looks again.
    quiet({ quiet: false, transactionsPerSecond: 5_000 });
    await vi.waitFor(() => expect(looks).toBeGreaterThan(2), 10_000);
    expect(backfills()).toBe(1);
    await sleep(300);
    quiet({ quiet: true, transactionsPerSecond: 10 });
    await run.saw('+backfillTables', 2);
    await run.handle.terminate();
  });

  it('wait until blue is quiet once more when rows have been compared after the wait for the window', async () => {
    const schedule = new Schedule([0, false]);
    const order: string[] = [];
    const run = await runs.begin(
      {
        lookAtWindow: () => {
          if (schedule.changes.length === 1) schedule.changes.push([Date.now() + 2_000, true]);
          return schedule.look();
        },
        awaitQuiet: () => {
          order.push('quiet');
          return { quiet: true, transactionsPerSecond: 10 };
        },
        verify: (_run, _ref, _source, scope) => {
          order.push('compared');
          return { scope, tables: 1, rowsVerified: 1, differingRows: 0, examples: [], at: new Date().toISOString() };
        },
        promote: (one, _ref, from) => {
          order.push('promoted');
          return one.move(from);
        },
      },
      { windows: { promote: ['daily 01:00-05:00'], below: { transactionsPerSecond: 100 } } },
    );
    await run.saw('-promote');
    expect(order.slice(-4)).toEqual(['quiet', 'compared', 'quiet', 'promoted']);
    await run.handle.terminate();
  });

  it('of a promotion find the rows compared: it is begun ahead, in time to end when the window opens', async () => {
    const opensAt: { at?: number } = {};
    const compared: [begun: number, ended: number][] = [];
    const run = await runs.begin(
      {
        lookAtWindow: () => {
          opensAt.at ??= Date.now() + 8_000;
          const open = Date.now() >= opensAt.at;
          const changesAt = new Date(open ? Date.now() + 3_600_000 : opensAt.at).toISOString();
          return { open, changesAt, changesAtText: 'Tue 2026-11-24 01:00 Europe/Berlin' };
        },
        verify: async (_run, _ref, _source, scope) => {
          const begun = Date.now();
          if (scope === 'changed') await sleep(4_000);
          if (scope === 'changed') compared.push([begun, Date.now()]);
          return { scope, tables: 1, rowsVerified: 1, differingRows: 0, examples: [], at: new Date().toISOString() };
        },
      },
      { windows: { promote: ['daily 01:00-05:00'] } },
    );
    await run.saw('-promote');
    const opened = opensAt.at ?? 0;
    // Once before anything is waited for, and once around the opening: not inside from its beginning.
    expect(compared.length).toBeGreaterThan(1);
    for (const [begun] of compared) expect(begun).toBeLessThan(opened);
    expect(compared.at(-1)?.[1]).toBeGreaterThan(opened);
    expect((await statusOf(run.handle)).warnings).toEqual([]);
    await run.handle.terminate();
  });

  it('of a promotion that close while rows are compared are said to be missed, with how long it took', async () => {
    const schedule = new Schedule([0, false]);
    let inside = false;
    const run = await runs.begin(
      {
        lookAtWindow: () => {
          const { length } = schedule.changes;
          if (length === 1) schedule.changes.push([Date.now() + 1_500, true]);
          return schedule.look();
        },
        verify: async (_run, _ref, _source, scope) => {
          const isOpen = schedule.changes.length > 1 && Date.now() >= (schedule.changes[1]?.[0] ?? 0);
          if (scope === 'changed' && isOpen && !inside) {
            inside = true;
            schedule.changes.push([Date.now() + 100, false], [Date.now() + 3_000, true]);
            await sleep(300);
          }
          return { scope, tables: 1, rowsVerified: 1, differingRows: 0, examples: [], at: new Date().toISOString() };
        },
      },
      { windows: { promote: ['daily 01:00-05:00'] } },
    );
    const status = await until(run.handle, 'missed', (s) => s.warnings.length > 0);
    expect(status.warnings.join()).toMatch(
      /a window of the promotion \(daily 01:00-05:00\) has come and gone .* comparison of rows took \d/,
    );
    expect(run.log).not.toContain('+promote');
    await run.saw('-promote');
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

  it('are no reason to begin at any load when webhooks have kept a stage or a promotion waiting', async () => {
    const order: string[] = [];
    const busy = new Set(['stage', 'promoting']);
    const run = await runs.begin(
      {
        callWebhook: (_run, _called, _target, { event }) => {
          order.push(event);
          return { outcome: 'done' };
        },
        awaitQuiet: () => {
          const last = order.at(-1) ?? '';
          const quiet = !busy.delete(last);
          order.push(quiet ? 'quiet' : 'busy');
          return { quiet, transactionsPerSecond: 10 };
        },
        openStage: () => {
          order.push('opened');
          return { routers: 1 };
        },
        promote: (one, _ref, from) => {
          order.push('moved');
          return one.move(from);
        },
      },
      {
        windows: { below: { transactionsPerSecond: 100 } },
        traffic: {
          stages: [{ percent: 10, for: '0s' }],
          approval: { before: [] },
          webhooks: [{ connection: 'hook' }],
        },
      },
    );
    await run.saw('-promote');
    const told = new Set(['readsBack', 'notPromoted']);
    // What they are told goes on beside the run, and may be out of date before it begins.
    const asked = order.filter((event) => !told.has(event));
    const once = (event: string, then: string): string[] => [
      ...['quiet', event, 'busy', 'quiet', event, 'quiet', then],
    ];
    expect(asked.slice(-14)).toEqual([...once('stage', 'opened'), ...once('promoting', 'moved')]);
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
