import type pg from 'pg';
import { firstWords, followSemicolon } from './first-words.js';
import { rememberingMisses } from './seen-texts.js';

/**
 * What a read-only transaction may do besides reading, and what counts on one side only: a notification that is sent from
 * green is heard by nobody on blue, and a lock that is taken there excludes nobody here.
 */
const FUNCTIONS = /\bpg_(?:notify|(?:try_)?advisory_\w+)\b/i;
const COMMAND = /notify\b/iy;

/** The same, found wherever it is. */
const COMMAND_ANYWHERE = /\bnotify\b/gi;

/** In a block of PL/pgSQL. A column of that name in a CASE is none, nor is a text that only begins so. */
const COMMAND_IN_BLOCK =
  /\b(?:(?:begin|then|else|loop)\s+|execute\s+(?:format\s*\(\s*)?'\s*)notify\s+(?!(?:end|else|when|and|or)\b)["\w%\u0080-\uffff]/i;

const isBesidesReading = rememberingMisses((text) => FUNCTIONS.test(text) || holdsCommand(text));

/** A column may be named so; a quoted `; notify` counts too. */
function holdsCommand(text: string): boolean {
  if (text.search(COMMAND_ANYWHERE) === -1) return false;
  return firstWords(COMMAND, text) !== null || followSemicolon(COMMAND_ANYWHERE, text) || COMMAND_IN_BLOCK.test(text);
}

/** Whether a statement says that it notifies or takes locks. A function that does so by itself is not seen. */
export function doesMoreThanRead(query: string | pg.QueryConfig): boolean {
  const text = typeof query === 'string' ? query : query.text;
  return typeof text === 'string' && isBesidesReading(text);
}
