import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { formatInstant, instantOf } from '../../src/plan/local-time.js';
import { parsePlan } from '../../src/plan/parse.js';
import type { Windows } from '../../src/plan/schema.js';
import { checkWindows } from '../../src/plan/window-preflight.js';
import { windowState, type WindowState } from '../../src/plan/window-times.js';
import { parseWindow } from '../../src/plan/window-text.js';

function plan(timezone: string, promote: string[], holidays: string[] = []): Windows {
  return { timezone, promote, holidays };
}

function state(windows: Windows, at: string): WindowState {
  return windowState(windows, 'promote', Date.parse(at));
}

/** `open until ...` or `opens ...`, in UTC. */
function says(windows: Windows, at: string): string {
  const seen = state(windows, at);
  const change = new Date(seen.open ? seen.closesAt : seen.opensAt).toISOString().slice(0, 16);
  return seen.open ? `open until ${change}` : `opens ${change}`;
}

describe('a window', () => {
  const table: [zone: string, window: string, at: string, says: string, what: string][] = [
    // Europe/Berlin: 02:00 becomes 03:00 on 2026-03-29, 03:00 becomes 02:00 on 2026-10-25.
    ['Europe/Berlin', 'Sun 01:00-05:00', '2026-03-28T12:00Z', 'opens 2026-03-29T00:00', 'begins at 01:00 CET'],
    [
      'Europe/Berlin',
      'Sun 01:00-05:00',
      '2026-03-29T00:00Z',
      'open until 2026-03-29T03:00',
      'ends at 05:00 CEST, an hour sooner',
    ],
    [
      'Europe/Berlin',
      'Sun 01:00-05:00',
      '2026-03-29T03:00Z',
      'opens 2026-04-04T23:00',
      'is at 01:00 CEST a week later',
    ],
    [
      'Europe/Berlin',
      'Sun 02:30-05:00',
      '2026-03-28T12:00Z',
      'opens 2026-03-29T01:00',
      'begins when the clocks jump over its beginning',
    ],
    [
      'Europe/Berlin',
      'Sun 01:00-02:30',
      '2026-03-29T00:30Z',
      'open until 2026-03-29T01:00',
      'ends when they jump over its end',
    ],
    [
      'Europe/Berlin',
      'Sun 02:10-02:50',
      '2026-03-28T12:00Z',
      'opens 2026-04-05T00:10',
      'does not open in the night in which it does not exist',
    ],
    [
      'Europe/Berlin',
      'Sun 01:00-05:00',
      '2026-10-24T23:00Z',
      'open until 2026-10-25T04:00',
      'is an hour longer in autumn',
    ],
    ['Europe/Berlin', 'Sun 02:30-05:00', '2026-10-24T23:00Z', 'opens 2026-10-25T00:30', 'begins at the first 02:30'],
    ['Europe/Berlin', 'Sun 01:00-02:30', '2026-10-25T00:00Z', 'open until 2026-10-25T00:30', 'ends at the first 02:30'],
    [
      'Europe/Berlin',
      'Sun 01:00-02:30',
      '2026-10-25T01:15Z',
      'opens 2026-11-01T00:00',
      'stays closed at the second 02:15',
    ],
    [
      'Europe/Berlin',
      'Sat 22:00-04:00',
      '2026-03-29T00:30Z',
      'open until 2026-03-29T02:00',
      'goes past midnight and over the change',
    ],
    // America/New_York: 02:00 becomes 03:00 on 2026-03-08, 02:00 becomes 01:00 on 2026-11-01.
    ['America/New_York', 'Sun 01:00-05:00', '2026-03-08T06:00Z', 'open until 2026-03-08T09:00', 'is an hour shorter'],
    [
      'America/New_York',
      'Sun 01:00-05:00',
      '2026-11-01T05:00Z',
      'open until 2026-11-01T10:00',
      'begins at the first 01:00',
    ],
    [
      'America/New_York',
      'Sun 00:30-01:30',
      '2026-11-01T06:15Z',
      'opens 2026-11-08T05:30',
      'is over at the second 01:15',
    ],
    [
      'America/New_York',
      'Mon-Fri 22:00-04:00',
      '2026-10-31T07:59Z',
      'open until 2026-10-31T08:00',
      "Friday's ends on Saturday",
    ],
    [
      'America/New_York',
      'Mon-Fri 22:00-04:00',
      '2026-10-31T08:00Z',
      'opens 2026-11-03T03:00',
      'and Monday is next, in winter time',
    ],
    // Australia/Lord_Howe: half an hour; 02:00 becomes 02:30 on 2026-10-04, 02:00 becomes 01:30 on 2026-04-05.
    [
      'Australia/Lord_Howe',
      'Sun 01:00-03:00',
      '2026-10-03T14:30Z',
      'open until 2026-10-03T16:00',
      'is half an hour shorter',
    ],
    ['Australia/Lord_Howe', 'Sun 02:15-03:00', '2026-10-03T14:30Z', 'opens 2026-10-03T15:30', 'begins at the jump'],
    [
      'Australia/Lord_Howe',
      'Sun 01:00-03:00',
      '2026-04-04T14:00Z',
      'open until 2026-04-04T16:30',
      'is half an hour longer',
    ],
    [
      'Australia/Lord_Howe',
      'Sun 01:45-03:00',
      '2026-04-04T14:00Z',
      'opens 2026-04-04T14:45',
      'begins at the first 01:45',
    ],
    // Midnight itself is left out: Africa/Cairo, 2026-04-24.
    [
      'Africa/Cairo',
      'Fri 00:00-02:00',
      '2026-04-23T12:00Z',
      'opens 2026-04-23T22:00',
      'begins when midnight is skipped',
    ],
    [
      'UTC',
      'daily 00:00-24:00',
      '2026-11-23T10:00Z',
      'open until 2026-12-03T00:00',
      'that never closes is looked at again',
    ],
    ['UTC', 'Sat-Mon 23:00-01:00', '2026-11-24T00:30Z', 'open until 2026-11-24T01:00', 'goes over the end of the week'],
    ['UTC', 'Mon,Wed 10:00-11:00', '2026-11-23T11:00Z', 'opens 2026-11-25T10:00', 'is closed at its last minute'],
  ];
  it.each(table)('%s, %s at %s: %s (%s)', (zone, window, at, expected) => {
    expect(says(plan(zone, [window]), at)).toBe(expected);
  });

  it('is cut by holidays, from their midnight to the next', () => {
    const windows = plan('Europe/Berlin', ['daily 22:00-04:00'], ['2026-12-25', '2026-12-26']);
    expect(says(windows, '2026-12-24T21:00Z')).toBe('open until 2026-12-24T23:00');
    expect(says(windows, '2026-12-24T23:00Z')).toBe('opens 2026-12-26T23:00');
    expect(says(windows, '2026-12-26T23:00Z')).toBe('open until 2026-12-27T03:00');
  });

  it('joins another one that begins where it ends, also over midnight', () => {
    const windows = plan('Europe/Berlin', ['Fri 22:00-24:00', 'Sat 00:00-06:00', 'Sat 05:00-08:00']);
    expect(says(windows, '2026-11-27T21:30Z')).toBe('open until 2026-11-28T07:00');
  });

  it('that never opens is an error, not a wait for ever', () => {
    const days = Array.from({ length: 900 }, (_, i) => new Date(Date.UTC(2026, 0, i + 1)).toISOString().slice(0, 10));
    expect(() => state(plan('UTC', ['Mon 10:00-11:00'], days), '2026-01-02T00:00Z')).toThrow(
      /no window of "promote" opens/,
    );
  });

  it('is refused in a plan when it says nothing, or the time zone or the day does not exist', () => {
    const ask = (windows: object): object =>
      parsePlan({ name: 'w', blue: { connection: 'a' }, green: { connection: 'b' }, windows });
    expect(ask({ promote: ['Mon 01:00-02:00'], timezone: 'Europe/Berlin' })).toHaveProperty('plan');
    for (const wrong of [
      { promote: ['Mon 01:00-01:00'] },
      { promote: ['Mo 01:00-02:00'] },
      { promote: ['Mon 25:00-26:00'] },
      { promote: [] },
      { timezone: 'Europe/Atlantis' },
      { timezone: '+01:00' },
      { holidays: ['2026-02-30'] },
      { below: { transactionsPerSecond: 0 } },
    ]) {
      expect(ask(wrong), JSON.stringify(wrong)).toHaveProperty('findings');
    }
  });
});

const ZONES = ['Europe/Berlin', 'America/New_York', 'Australia/Lord_Howe', 'Africa/Cairo', 'Asia/Kathmandu', 'UTC'];
const DAYS = ['Sun', 'Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat'];
const time = fc
  .integer({ min: 0, max: 95 })
  .map((n) => `${String(Math.floor(n / 4)).padStart(2, '0')}:${String((n % 4) * 15).padStart(2, '0')}`);
const window = fc
  .tuple(fc.constantFrom('daily', ...DAYS, 'Mon-Fri', 'Sat-Mon', 'Tue,Thu'), time, time)
  .filter(([, from, to]) => from !== to)
  .map(([days, from, to]) => `${days} ${from}-${to}`);
const instant = fc
  .integer({ min: Date.UTC(2026, 0, 1), max: Date.UTC(2027, 11, 31) })
  .map((at) => Math.floor(at / 60_000) * 60_000);

/** What the clocks read, by another way than the code under test: one look at a time. */
function clock(zone: string, at: number): { minutes: number; day: number } {
  const format = new Intl.DateTimeFormat('en-GB', {
    timeZone: zone,
    weekday: 'short',
    hour: '2-digit',
    minute: '2-digit',
    hourCycle: 'h23',
  });
  const parts = new Map(format.formatToParts(at).map(({ type, value }) => [type, value]));
  return {
    minutes: Number(parts.get('hour')) * 60 + Number(parts.get('minute')),
    day: DAYS.indexOf(parts.get('weekday') ?? ''),
  };
}

describe('the state of windows', () => {
  it('agrees with the clock on the wall wherever clocks are not set, and always changes when it says so', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...ZONES),
        fc.array(window, { minLength: 1, maxLength: 3 }),
        instant,
        (zone, texts, at) => {
          const windows = plan(zone, texts);
          const seen = windowState(windows, 'promote', at);
          const change = seen.open ? seen.closesAt : seen.opensAt;
          expect(change).toBeGreaterThan(at);
          // Nothing changes before, and just then it does.
          expect(windowState(windows, 'promote', Math.floor((at + change) / 2)).open).toBe(seen.open);
          const after = windowState(windows, 'promote', change);
          if (!seen.open) expect(after.open).toBe(true);
          else if (change - at < 8 * 86_400_000) expect(after.open).toBe(false);

          const offset = (of: number): number =>
            (clock(zone, of).minutes - Math.floor((of / 60_000) % 1_440) + 2_880) % 1_440;
          if (offset(at - 30 * 3_600_000) !== offset(at + 30 * 3_600_000)) return;
          const { minutes, day } = clock(zone, at);
          const inside = texts
            .map(parseWindow)
            .some(
              ({ days, from, to }) =>
                (days.has(day) && minutes >= from && minutes < to) ||
                (days.has((day + 6) % 7) && minutes + 1_440 >= from && minutes + 1_440 < to),
            );
          expect(seen.open, `${texts.join()} ${formatInstant(zone, at)}`).toBe(inside);
        },
      ),
      { numRuns: 150 },
    );
  });

  it('knows the instant of every time that the clocks read, and it is the first one', () => {
    fc.assert(
      fc.property(fc.constantFrom(...ZONES), instant, (zone, at) => {
        const date = new Intl.DateTimeFormat('sv-SE', { timeZone: zone }).format(at);
        const found = instantOf(zone, date, clock(zone, at).minutes);
        expect(found).toBeLessThanOrEqual(at);
        expect(at - found).toBeLessThanOrEqual(3_600_000);
        expect(clock(zone, found).minutes).toBe(clock(zone, at).minutes);
      }),
      { numRuns: 200 },
    );
  });
});

describe('the preflight of windows', () => {
  const MONDAYS = daysFrom('2026-11-30', 7, 120);

  function found(windows: Partial<Windows>, at = '2026-11-25T12:00Z'): string[] {
    const parsed = parsePlan({ name: 'orders', blue: { connection: 'b' }, green: { connection: 'g' }, windows });
    if (!('plan' in parsed)) throw new Error(JSON.stringify(parsed.findings));
    return checkWindows(parsed.plan, Date.parse(at)).map((f) => `${f.severity} ${f.object}: ${f.message}`);
  }

  it('refuses one that never opens, and no other', () => {
    expect(found({})).toEqual([]);
    const windows = { timezone: 'Europe/Berlin', promote: ['Mon 01:00-02:00'], traffic: ['daily 01:00-02:00'] };
    expect(found(windows)).toEqual([]);
    expect(found({ ...windows, holidays: MONDAYS })).toEqual([
      'error windows.promote: no window of "promote" opens within 800 days: Mon 01:00-02:00',
    ]);
  });

  it('warns, with the date, of one that is closed for more than two weeks: from now on, or when it has ended', () => {
    const migrate = ['Mon 01:00-02:00'];
    expect(found({ migrate, holidays: MONDAYS.slice(0, 1) })).toEqual([]);
    expect(found({ migrate, holidays: MONDAYS.slice(0, 3) })).toEqual([
      'warning windows.migrate: it is closed for 25 days, until Mon 2026-12-21 01:00 UTC',
    ]);
    const open = '2026-11-30T01:30Z';
    const closedLater = { holidays: MONDAYS.slice(1, 4) };
    expect(found({ migrate, ...closedLater }, open)).toEqual([
      'warning windows.migrate: it is open until Mon 2026-11-30 02:00 UTC, and closed then for 27 days, until Mon 2026-12-28 01:00 UTC',
    ]);
    expect(found({ migrate, holidays: MONDAYS.slice(1) }, open)).toEqual([
      'warning windows.migrate: it is open until Mon 2026-11-30 02:00 UTC; after that, no window of "migrate" opens within 800 days: Mon 01:00-02:00',
    ]);
    // The copy begins in the window that is open.
    expect(found({ replicate: migrate, ...closedLater }, open)).toEqual([]);
    expect(found({ promote: ['daily 00:00-24:00'] }, open)).toEqual([]);
  });
});

/** So many dates, so many days apart. */
function daysFrom(first: string, apart: number, count: number): string[] {
  const from = Date.parse(`${first}T00:00:00Z`);
  return Array.from({ length: count }, (_, i) => new Date(from + i * apart * 86_400_000).toISOString().slice(0, 10));
}
