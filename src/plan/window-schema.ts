import { z } from 'zod';
import { isTimeZone, WINDOW_PATTERN } from './window-text.js';

/** The windows of a plan: when heavy or risky work may begin. */

const window = z
  .string()
  .regex(
    WINDOW_PATTERN,
    'write days and times, such as "Mon-Fri 01:00-05:00", "Sat,Sun 22:00-04:00" or "daily 00:00-24:00"',
  )
  .refine(
    (text) => !/ (\d\d:\d\d)-\1$/.test(text),
    'a window that ends when it begins is empty: write 00:00-24:00 for a whole day',
  )
  .describe('Days and times by the clock of the time zone: "Mon-Fri 01:00-05:00"; it may go past midnight');

const date = z
  .string()
  .regex(/^[0-9]{4}-[0-9]{2}-[0-9]{2}$/, 'write a date such as 2026-12-25')
  .refine((text) => isDate(text), 'there is no such day');

/** 2026-02-30 is none: a parser takes it for 2 March. */
function isDate(text: string): boolean {
  const time = Date.parse(`${text}T00:00:00Z`);
  return !Number.isNaN(time) && new Date(time).toISOString().startsWith(text);
}

/** Each opening and each end is some twenty events of a history that must not become full. */
const MOST_WINDOWS = 24;

const opening = z.array(window).min(1).max(MOST_WINDOWS).optional();

export const windows = z.strictObject({
  timezone: z
    .string()
    .refine(isTimeZone, 'write the name of a time zone, such as Europe/Berlin or UTC')
    .default('UTC')
    .describe('The IANA time zone of the windows and the holidays'),
  replicate: opening.describe('The copy begins only inside; it is not broken off'),
  migrate: opening.describe('The backfill, indexes and constraints run only inside, and stop when the window ends'),
  traffic: opening.describe('A stage begins only inside; one that has begun goes on'),
  promote: opening.describe('A promotion begins only inside'),
  holidays: z.array(date).default([]).describe('Dates without work: no window is open on them'),
  below: z
    .strictObject({
      transactionsPerSecond: z.int().min(1).describe('Transactions of others a second on blue'),
    })
    .optional()
    .describe('Whatever begins in a window, or is named above, also waits until blue is less busy than this'),
});
