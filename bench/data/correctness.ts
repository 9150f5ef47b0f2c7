import type { DataResult } from './result.js';
import type { Rounds } from './rounds.js';

/**
 * Pure: what Verdigris has done wrong in a run, a line each. Unlike a speed it depends on no machine, so the command
 * fails for it. What other contestants do wrong is in the tables.
 */
export function wrongIn({ copy, change, backfill, application }: DataResult): readonly string[] {
  const filled = backfill?.standings.find(({ contestant }) => contestant === 'Verdigris');
  return [
    ...wrongInRounds('copy', copy),
    ...wrongInRounds('schema change', change),
    ...some('backfill', filled?.failedWrites, 'failed writes'),
    ...some('backfill', filled?.rowsLeft, 'rows without a value'),
    ...(filled?.notNull === false ? ['backfill: the column is nullable at the end'] : []),
    ...(application?.standings ?? [])
      .filter(({ contestant }) => contestant.startsWith('Verdigris'))
      .flatMap(({ contestant, failed }) => some(`application, ${contestant}`, failed, 'failed writes')),
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
