/** A window as a plan writes it: `Mon-Fri 01:00-05:00`. Days and times are those of the plan's time zone. */
export interface WeeklyWindow {
  /** The days on which it begins; 0 is Sunday. */
  readonly days: ReadonlySet<number>;
  /** Minutes after midnight. */
  readonly from: number;
  /** Minutes after the midnight with which the first day began: above 1440 when it goes past midnight. */
  readonly to: number;
}

const DAYS = ['Sun', 'Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat'];
const DAY = `(?:${DAYS.join('|')})`;
const RANGE = `${DAY}(?:-${DAY})?`;

export const WINDOW_PATTERN = new RegExp(
  `^(daily|${RANGE}(?:,${RANGE})*) ([01][0-9]|2[0-3]):([0-5][0-9])-(24:00|(?:[01][0-9]|2[0-3]):[0-5][0-9])$`,
);

const DAY_MINUTES = 1_440;

/** @throws RangeError when the text is not a window. */
export function parseWindow(text: string): WeeklyWindow {
  const match = WINDOW_PATTERN.exec(text);
  const [, days, hour, minute, end] = match ?? [];
  if (days === undefined || hour === undefined || minute === undefined || end === undefined) {
    throw new RangeError(`"${text}" is not a window: write days and times, such as "Mon-Fri 01:00-05:00"`);
  }
  const from = Number(hour) * 60 + Number(minute);
  const to = Number(end.slice(0, 2)) * 60 + Number(end.slice(3));
  return { days: new Set(daysOf(days)), from, to: to <= from ? to + DAY_MINUTES : to };
}

function daysOf(text: string): number[] {
  if (text === 'daily') return [0, 1, 2, 3, 4, 5, 6];
  return text.split(',').flatMap((range) => {
    const [first, last] = range.split('-').map((day) => DAYS.indexOf(day));
    if (first === undefined) return [];
    // Sat-Mon goes over the end of the week.
    const length = last === undefined ? 1 : ((last - first + 7) % 7) + 1;
    return Array.from({ length }, (_, i) => (first + i) % 7);
  });
}

/** Whether this machine knows a time zone of that name; offsets such as +01:00 know no daylight saving and are none. */
export function isTimeZone(name: string): boolean {
  if (!/^[A-Za-z]/.test(name)) return false;
  try {
    new Intl.DateTimeFormat('en', { timeZone: name });
    return true;
  } catch {
    return false;
  }
}
