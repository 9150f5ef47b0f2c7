import { isOwn } from '../backfill/contenders.js';
import type { BackfillPart } from './backfill.js';
import type { DataResult } from './result.js';
import type { Rounds } from './rounds.js';

/**
 * Pure: what Verdigris has done wrong in a run, a line each. Unlike a speed it depends on no machine, so the command
 * fails for it. What other contestants do wrong is in the tables.
 */
export function wrongIn({ copy, change, backfill, application, verification }: DataResult): readonly string[] {
  return [
    ...wrongInRounds('copy', copy),
    ...wrongInRounds('schema change', change),
    ...(verification?.failed ?? []).map((what) => `verification: ${what}`),
    ...(backfill === undefined ? [] : wrongInBackfill(backfill)),
    ...(application?.standings ?? [])
      .filter(({ contestant }) => contestant.startsWith('Verdigris'))
      .flatMap(({ contestant, failed, missing }) => [
        ...some(`application, ${contestant}`, failed, 'failed writes'),
        ...(missing === undefined ? [] : [`application, ${contestant}: ${missing}`]),
      ]),
  ];
}

/** Pure: the same of the backfill alone. */
export function wrongInBackfill({ standings, failed }: BackfillPart): readonly string[] {
  return [
    ...failed.map((who) => `backfill, ${who}`),
    ...standings
      .filter(({ contestant }) => isOwn(contestant))
      .flatMap(({ contestant, failedWrites, rowsLeft, notNull }) => [
        ...some(`backfill, ${contestant}`, failedWrites, 'failed writes'),
        ...some(`backfill, ${contestant}`, rowsLeft, 'rows without a value'),
        ...(notNull ? [] : [`backfill, ${contestant}: the column is nullable at the end`]),
      ]),
  ];
}

/** A run of its own that brings too few rows, or rows that differ, is left out of the times, and says why. */
function wrongInRounds(title: string, rounds: Rounds | undefined): string[] {
  const missing = rounds?.standings.find(({ contestant }) => contestant === 'Verdigris')?.missing;
  return missing === undefined ? [] : [`${title}: ${missing}`];
}

function some(title: string, count: number | null | undefined, what: string): string[] {
  return count === null || count === undefined || count === 0 ? [] : [`${title}: ${count} ${what}`];
}
