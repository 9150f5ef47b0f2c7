import { compareChanged } from './compare-changed.js';
import { compareRows, type Rows } from './compare-rows.js';
import type { RowDifference } from './difference.js';
import type { Since } from './last-pass.js';
import type { SideSessions } from './side-sessions.js';
import { fromTable, type TablePair } from './table-pair.js';
import { wrongIn } from './wrong-rows.js';

/** What was found in a part of a table. */
export interface PartOutcome {
  /** Rows of the source. */
  readonly rows: number;
  /** Values of derived columns that were checked. */
  readonly derivedChecked: number;
  readonly differences: readonly RowDifference[];
  /** Differences beyond those that are listed. */
  readonly unlisted: number;
}

/** What one side has of some rows. */
interface Sum {
  readonly rows: string;
  /** Sum of the hashes: it has no order, and any change of any row changes it. */
  readonly hash: string;
  /** Rows for which each check of the pair is true. */
  readonly wrong: readonly string[];
}

/** Compares a part of a table: all of it, or what was written since an earlier pass. */
export async function comparePart(
  sessions: SideSessions,
  pair: TablePair,
  rows: Rows,
  since: Since | undefined,
): Promise<PartOutcome> {
  await sessions.prepare(pair.searchPath, rows.read);
  if (since !== undefined) {
    const changed = await compareChanged(sessions, pair, rows, since);
    if (changed !== 'too many') return changed;
  }
  return compareAll(sessions, pair, rows);
}

/** Compares the sums; then again behind a marker, since the target may only be late; then row by row. */
async function compareAll(sessions: SideSessions, pair: TablePair, rows: Rows): Promise<PartOutcome> {
  let [source, target] = await sums(sessions, pair, rows);
  if (!agree(source, target)) {
    await sessions.catchUp();
    [source, target] = await sums(sessions, pair, rows);
  }
  const count = Math.max(Number(source.rows), Number(target.rows));
  const differences = agree(source, target) ? [] : await compareRows(sessions, pair, rows, count);
  const wrong = await wrongIn(sessions, pair, target.wrong, rows);
  return {
    rows: Number(source.rows),
    derivedChecked: Number(source.rows) * pair.checks.length,
    differences: [...differences, ...wrong.listed],
    unlisted: wrong.unlisted,
  };
}

async function sums(sessions: SideSessions, pair: TablePair, rows: Rows): Promise<[Sum, Sum]> {
  return sessions.each(async (session, side) => {
    const checks = side === 'target' ? pair.checks : [];
    const wrong = checks.map(({ condition }) => `count(*) FILTER (WHERE ${condition})`);
    const found = await session.query<Sum>(
      `SELECT count(*)::text AS rows, coalesce(sum(${pair.rowHash}), 0)::text AS hash,
              ARRAY[${wrong.join(', ')}]::bigint[]::text[] AS wrong
         ${fromTable(pair)} WHERE ${rows.where}`,
      [...rows.values],
    );
    return found.rows[0] ?? { rows: '0', hash: '0', wrong: [] };
  });
}

function agree(source: Sum, target: Sum): boolean {
  return source.rows === target.rows && source.hash === target.hash;
}
