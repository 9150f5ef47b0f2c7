/*
 * The clock of a time zone, from the data that Node brings along. Two workers may have different data: so workflow code
 * never asks here, an activity does, and its answer is in the history.
 */

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/** A day of the calendar: `2026-03-29`. */
export type LocalDate = string;

/** The day that it is in a time zone. */
export function localDate(zone: string, at: number): LocalDate {
  return new Date(at + offsetAt(zone, at)).toISOString().slice(0, 10);
}

export function addDays(date: LocalDate, days: number): LocalDate {
  return new Date(Date.parse(`${date}T00:00:00Z`) + days * DAY).toISOString().slice(0, 10);
}

/** 0 is Sunday. */
export function weekday(date: LocalDate): number {
  return new Date(`${date}T00:00:00Z`).getUTCDay();
}

/**
 * The instant at which the clocks of a time zone read so many minutes after the midnight of a day. A time that they read
 * twice, as clocks are set back, is the first of the two; one that they never read, as they are set forward, is the
 * moment in which they are.
 */
export function instantOf(zone: string, date: LocalDate, minutes: number): number {
  const wall = Date.parse(`${date}T00:00:00Z`) + minutes * MINUTE;
  // The offsets before and after whatever change there may be near that time.
  const offsets = [offsetAt(zone, wall - 36 * HOUR), offsetAt(zone, wall + 36 * HOUR)];
  const candidates = offsets.map((offset) => wall - offset).filter((at) => at + offsetAt(zone, at) === wall);
  if (candidates.length > 0) return Math.min(...candidates);
  const [before = 0, after = 0] = offsets;
  return changeBetween(zone, wall - after, wall - before);
}

/** The first instant after `from` that has the offset of `to`. */
function changeBetween(zone: string, from: number, to: number): number {
  const after = offsetAt(zone, to);
  let [low, high] = [from, to];
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    if (offsetAt(zone, middle) === after) high = middle;
    else low = middle;
  }
  return high;
}

/** What the clocks of a time zone are ahead of UTC, in milliseconds. */
function offsetAt(zone: string, at: number): number {
  const parts = new Map(
    formatOf(zone)
      .formatToParts(at)
      .map(({ type, value }) => [type, Number(value)]),
  );
  const [year = 0, month = 1, day = 1] = [parts.get('year'), parts.get('month'), parts.get('day')];
  const wall = Date.UTC(year, month - 1, day, parts.get('hour'), parts.get('minute'), parts.get('second'));
  return wall - Math.floor(at / 1_000) * 1_000;
}

const formats = new Map<string, Intl.DateTimeFormat>();

function formatOf(zone: string): Intl.DateTimeFormat {
  const known = formats.get(zone);
  if (known !== undefined) return known;
  const format = new Intl.DateTimeFormat('en-US', {
    ...{ timeZone: zone, hourCycle: 'h23', calendar: 'gregory', numberingSystem: 'latn' },
    ...{ year: 'numeric', month: 'numeric', day: 'numeric', hour: 'numeric', minute: 'numeric', second: 'numeric' },
  });
  formats.set(zone, format);
  return format;
}

/** An instant for people: `Tue 2026-11-24 01:00 Europe/Berlin (00:00 UTC)`. */
export function formatInstant(zone: string, at: number): string {
  const local = new Date(at + offsetAt(zone, at));
  const day = local.toUTCString().slice(0, 3);
  const text = `${day} ${local.toISOString().slice(0, 16).replace('T', ' ')} ${zone}`;
  return zone === 'UTC' ? text : `${text} (${new Date(at).toISOString().slice(11, 16)} UTC)`;
}
