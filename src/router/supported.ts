import type pg from 'pg';
import { NotSupportedError } from './errors.js';
import { firstWords } from './first-words.js';
import { rememberingMisses } from './seen-texts.js';

/** What leaves something behind in a session that the next request, of another user or side, would not have. */
const OF_A_SESSION =
  /(?:(listen|unlisten)|(prepare(?!\s+transaction)|deallocate)|(discard)|(declare\b[^;]*?\bwith\s+hold)|(copy\b[^]*\b(?:from\s+stdin|to\s+stdout)))\b/iy;

const REFUSALS: readonly (readonly [what: string, instead: string])[] = [
  [
    'LISTEN',
    'use connections of your own, to both sides for as long as the run lasts, and look once at what there is after a move',
  ],
  ['PREPARE', 'give the statement a name: { name, text, values }'],
  ['DISCARD', "the session's state is the router's"],
  ['A cursor WITH HOLD', 'declare it without, and fetch inside transaction()'],
  ['COPY of a stream', 'use a connection of your own to the side of route().writesOn'],
];

const isOfASession = rememberingMisses((text) => firstWords(OF_A_SESSION, text) !== null);

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
  const found = firstWords(OF_A_SESSION, text) ?? [];
  const refusal = REFUSALS[found.slice(1).findIndex((group) => group !== undefined)];
  if (refusal !== undefined) throw new NotSupportedError(...refusal);
}
