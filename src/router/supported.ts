import type pg from 'pg';
import { NotSupportedError } from './errors.js';
import { rememberingMisses } from './seen-texts.js';

/** White space and comments. */
export const LEADING = String.raw`(?:\s|--[^\n]*\n|/\*[^]*?\*/)*`;

/** What leaves something behind in a session that the next request, of another user or side, would not have. */
const OF_A_SESSION = new RegExp(
  `^${LEADING}(?:(listen|unlisten)|(prepare(?!\\s+transaction)|deallocate)|(discard)|(declare\\b[^;]*?\\bwith\\s+hold)|(copy\\b[^]*\\b(?:from\\s+stdin|to\\s+stdout)))\\b`,
  'i',
);

const REFUSALS: readonly (readonly [what: string, instead: string])[] = [
  ['LISTEN', 'use a connection of your own to the side of route().writesOn, and listen again when that changes'],
  ['PREPARE', 'give the statement a name: { name, text, values }'],
  ['DISCARD', "the session's state is the router's"],
  ['A cursor WITH HOLD', 'declare it without, and fetch inside transaction()'],
  ['COPY of a stream', 'use a connection of your own to the side of route().writesOn'],
];

const isOfASession = rememberingMisses((text) => OF_A_SESSION.test(text));

/** @throws NotSupportedError for what can't go through a pool that may change sides. */
export function refuseUnsupported(query: string | pg.QueryConfig): void {
  if (typeof query !== 'string' && 'submit' in query) {
    throw new NotSupportedError(
      'A cursor or stream object',
      'DECLARE and FETCH inside transaction(), or use a connection of your own',
    );
  }
  const text = typeof query === 'string' ? query : query.text;
  if (!isOfASession(text)) return;
  const found = OF_A_SESSION.exec(text) ?? [];
  const refusal = REFUSALS[found.slice(1).findIndex((group) => group !== undefined)];
  if (refusal !== undefined) throw new NotSupportedError(...refusal);
}
