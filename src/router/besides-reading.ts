import type pg from 'pg';
import { firstWords } from './first-words.js';
import { rememberingMisses } from './seen-texts.js';

/**
 * What a read-only transaction may do besides reading, and what counts on one side only: a notification that is sent from
 * green is heard by nobody on blue, and a lock that is taken there excludes nobody here.
 */
const FUNCTIONS = /\bpg_(?:notify|(?:try_)?advisory_\w+)\b/i;
const COMMAND = /notify\b/iy;

const isBesidesReading = rememberingMisses((text) => FUNCTIONS.test(text) || firstWords(COMMAND, text) !== null);

/** Whether a statement says that it notifies or takes locks. A function that does so by itself is not seen. */
export function doesMoreThanRead(query: string | pg.QueryConfig): boolean {
  const text = typeof query === 'string' ? query : query.text;
  return typeof text === 'string' && isBesidesReading(text);
}
