import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { statusOf, until } from '../support/migration.js';
import { ScriptedRuns, untilCancelled, type Overrides } from '../support/scripted-run.js';
import { beginInWindow, Schedule, soon } from '../support/window-schedule.js';
import { rollbackUpdate } from '../../workflows/messages.js';

let runs: ScriptedRuns;

beforeAll(async () => {
  runs = await ScriptedRuns.start();
});
afterAll(() => runs.stop());

const WHO = { by: 'ada', reason: 'the test says so' };

describe.concurrent('the windows of a run', () => {
  it('open for a promotion by themselves, and rows that were written meanwhile are compared first', async () => {
    const schedule = new Schedule([0, false]);
    const run = await beginInWindow(runs, 'promote', {
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

  it('say until when a promotion may begin, with the approval and the time for which it is tried; the way back has no end', async () => {
    const ends: unknown[] = [];
    const promote: Overrides['promote'] = (one, _ref, from, _epoch, _acceptLoss, notAfter) => {
      ends.push(notAfter);
      return one.move(from);
    };
    const schedule = new Schedule([0, true], [60_000, false]);
    const inWindow = await beginInWindow(runs, 'promote', { lookAtWindow: () => schedule.look(), promote });
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

  it('that open again for a backfill wait until blue is quiet, as the first one does', async () => {
    let looks = 0;
    let asked = 0;
    let quiet: (answer: { quiet: boolean; transactionsPerSecond: number }) => void = () => undefined;
    const run = await runs.begin(
      {
        lookAtWindow: (one) => {
          if (one.log.includes('+backfillTables')) looks += 1;
          return looks === 1 ? soon(false, 1_000) : soon(true, looks === 0 ? 1_000 : 3_600_000);
        },
        awaitQuiet: (one) => {
          if (!one.log.includes('-backfillTables')) return { quiet: true, transactionsPerSecond: 10 };
          asked += 1;
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
    await vi.waitFor(() => expect(asked).toBe(1), 10_000);
    await sleep(300);
    const backfills = (): number => run.log.filter((entry) => entry === '+backfillTables').length;
    expect(backfills()).toBe(1);
    // A window that has ended meanwhile, or a moment that was not quiet: it looks again.
    quiet({ quiet: false, transactionsPerSecond: 5_000 });
    await vi.waitFor(() => expect(looks).toBeGreaterThan(2), 10_000);
    expect(backfills()).toBe(1);
    await vi.waitFor(() => expect(asked).toBe(2), 10_000);
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
