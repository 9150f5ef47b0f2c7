import { addDays, instantOf, localDate, weekday, type LocalDate } from './local-time.js';
import type { Windows } from './schema.js';
import { parseWindow, type WeeklyWindow } from './window-text.js';

/*
 * When the windows of a plan are open. A window is an interval: it begins when the clocks of the plan's time zone read
 * its first time, and ends when they read its last one for the first time after that. So it is an hour longer or shorter
 * in the night in which clocks are set, and one that lies wholly in the hour that is left out does not open that night.
 * Holidays are cut out of it, from their midnight to the next one.
 */

/** What begins in windows of its own. */
export type WindowOf = 'replicate' | 'migrate' | 'traffic' | 'promote';

/** Whether the windows are open, and the next change; milliseconds since 1970. */
export type WindowState =
  { readonly open: true; readonly closesAt: number } | { readonly open: false; readonly opensAt: number };

/** How far ahead the end of an open window is looked for; who waits for it looks again then. */
const AHEAD_DAYS = 9;
/** How far ahead an opening is looked for: longer than any row of holidays. */
const FURTHEST_DAYS = 800;

/** @throws RangeError when no window opens in the next two years. */
export function windowState(windows: Windows, what: WindowOf, at: number): WindowState {
  const texts = windows[what];
  const ahead = at + AHEAD_DAYS * 86_400_000;
  if (texts === undefined) return { open: true, closesAt: ahead };
  const weekly = texts.map(parseWindow);
  let closesAt: number | null = null;
  for (const [opens, closes] of openings(windows, weekly, at)) {
    if (closesAt === null) {
      if (opens > at) return { open: false, opensAt: opens };
      closesAt = closes;
    } else if (opens <= closesAt) closesAt = Math.max(closesAt, closes);
    else break;
    if (closesAt > ahead) break;
  }
  if (closesAt !== null) return { open: true, closesAt };
  throw new RangeError(`no window of "${what}" opens within ${FURTHEST_DAYS} days: ${texts.join(', ')}`);
}

const WEEK_MINUTES = 7 * 1_440;

/** How long windows are closed at the longest in an ordinary week, ms: without holidays, and nights in which clocks are set. */
export function longestClosed(texts: readonly string[]): number {
  const open = texts
    .map(parseWindow)
    .flatMap(({ days, from, to }) => [...days].map((day) => [day * 1_440 + from, day * 1_440 + to] as const))
    .sort(([a], [b]) => a - b);
  const [first] = open;
  if (first === undefined) return 0;
  // From the last end to the first beginning it goes over the end of the week.
  let [closedFrom, longest] = [Math.max(...open.map(([, to]) => to)) - WEEK_MINUTES, 0];
  for (const [from, to] of open) {
    longest = Math.max(longest, from - closedFrom);
    closedFrom = Math.max(closedFrom, to);
  }
  return longest * 60_000;
}

type Interval = readonly [opens: number, closes: number];

/** The intervals that are not over yet, by their beginning. */
function* openings(windows: Windows, weekly: readonly WeeklyWindow[], at: number): Iterable<Interval> {
  const zone = windows.timezone;
  const holidays = new Set(windows.holidays);
  // A window of the day before may still be open.
  const first = addDays(localDate(zone, at), -1);
  for (let i = 0; i <= FURTHEST_DAYS; i++) {
    const date = addDays(first, i);
    const ofDay = weekly
      .filter(({ days }) => days.has(weekday(date)))
      .flatMap((one) => parts(zone, holidays, date, one));
    yield* ofDay.filter(([opens, closes]) => closes > opens && closes > at).sort(([a], [b]) => a - b);
  }
}

/** One window as it begins on a day: what of that day and of the next one is no holiday. */
function parts(zone: string, holidays: ReadonlySet<string>, date: LocalDate, { from, to }: WeeklyWindow): Interval[] {
  const next = addDays(date, 1);
  const [work, workNext] = [!holidays.has(date), to > 1_440 && !holidays.has(next)];
  const midnight = instantOf(zone, next, 0);
  const last = to > 1_440 ? instantOf(zone, next, to - 1_440) : to === 1_440 ? midnight : instantOf(zone, date, to);
  const opens = instantOf(zone, date, from);
  if (work) return [[opens, to > 1_440 && !workNext ? midnight : last]];
  return workNext ? [[midnight, last]] : [];
}
