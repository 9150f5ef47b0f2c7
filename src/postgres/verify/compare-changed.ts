import { ident } from '../identifier.js';
import { keyInRow, keyTexts, type KeyValues } from '../migrate/key-range.js';
import type { PartOutcome } from './compare-part.js';
import { compareRows, withColumns, type Rows } from './compare-rows.js';
import type { Moment, Since } from './last-pass.js';
import { settleRows, versions } from './settle-rows.js';
import type { SideSessions } from './side-sessions.js';
import { fromTable, type TablePair } from './table-pair.js';
import { wrongIn } from './wrong-rows.js';

/*
 * What an earlier pass has found equal is equal still, unless it was written since. So of a part only three things are
 * read, which takes a third of the time:
 *
 *   1. the sum of the hashes of its keys, on both sides: a row that was deleted leaves no trace, and one that should
 *      have been deleted was not written. Not just their number, since one row too many and one too few are as many
 *   2. the keys of the rows that were written since, on either side: their xmin says so
 *   3. the derived columns of those rows
 *
 * A row version's xmin stays what it was when VACUUM freezes it, so one of billions of transactions ago may look new:
 * it is compared for nothing. A new one never looks old, as long as the earlier pass is not that far back.
 */

/** Beyond this share of a part, the whole part is compared. */
const MANY = 0.2;
const AT_LEAST = 1_000;
/** And in no case more than so many: a part of a table that is cut by hash has millions of rows, and keys are held in memory. */
const AT_MOST = 50_000;
const KEYS_AT_ONCE = 5_000;

interface Changes {
  readonly rows: string;
  readonly hash: string;
  readonly changed: string;
  readonly wrong: readonly string[];
}

/** Compares the rows of a part that were written since; `too many` when all of it should be compared. */
export async function compareChanged(
  sessions: SideSessions,
  pair: TablePair,
  rows: Rows,
  since: Since,
): Promise<PartOutcome | 'too many'> {
  let [source, target] = await changes(sessions, pair, rows, since);
  const count = Number(source.rows);
  const limit = Math.min(AT_MOST, Math.max(AT_LEAST, Math.floor(count * MANY)));
  if (!agree(source, target)) {
    await sessions.catchUp();
    [source, target] = await changes(sessions, pair, rows, since);
  }
  if (Number(source.changed) > limit || Number(target.changed) > limit) return 'too many';
  const none = source.changed === '0' && target.changed === '0';
  const wanted = none ? [] : await changedKeys(sessions, pair, rows, since, limit);
  if (wanted === 'too many') return wanted;
  const differences = agree(source, target)
    ? await compareKeys(sessions, pair, wanted, rows)
    : await compareRows(sessions, pair, rows, Math.max(count, Number(target.rows)));
  const moment = since[sessions.sides.target.side];
  const newRows = { ...rows, where: `(${rows.where}) AND ${isChanged(pair, moment)}` };
  const wrong = await wrongIn(sessions, pair, target.wrong, newRows);
  return {
    rows: count,
    derivedChecked: Number(target.changed) * pair.checks.length,
    differences: [...differences, ...wrong.listed],
    unlisted: wrong.unlisted,
  };
}

async function changes(sessions: SideSessions, pair: TablePair, rows: Rows, since: Since): Promise<[Changes, Changes]> {
  return sessions.each(async (session, side) => {
    const isNew = isChanged(pair, since[sessions.sides[side].side]);
    const wrong = (side === 'target' ? pair.checks : []).map(
      // In this order: the condition may be an expensive one.
      ({ condition }) => `count(*) FILTER (WHERE CASE WHEN ${isNew} THEN (${condition}) ELSE false END)`,
    );
    const found = await session.query<Changes>(
      `SELECT count(*)::text AS rows, coalesce(sum(${pair.keyHash}), 0)::text AS hash,
              (count(*) FILTER (WHERE ${isNew}))::text AS changed,
              ARRAY[${wrong.join(', ')}]::bigint[]::text[] AS wrong
         ${fromTable(pair)} WHERE ${rows.where}`,
      [...rows.values],
    );
    return found.rows[0] ?? { rows: '0', hash: '0', changed: '0', wrong: [] };
  });
}

/**
 * True for row versions of transactions from the moment on. Ages are counted back from now, so a transaction that
 * began later than the statement has a negative one. The moment's age is computed once.
 */
function isChanged(pair: TablePair, moment: Moment): string {
  return `age(${ident(pair.table.name)}.xmin) <= (SELECT age('${BigInt(moment.xid)}'::xid8::xid))`;
}

function agree(source: Changes, target: Changes): boolean {
  return source.rows === target.rows && source.hash === target.hash;
}

/** Counted before they are fetched: a part may have millions of them. More may have been written since. */
async function changedKeys(
  sessions: SideSessions,
  pair: TablePair,
  rows: Rows,
  since: Since,
  limit: number,
): Promise<readonly KeyValues[] | 'too many'> {
  const sides = await sessions.each(async (session, side) => {
    const found = await session.query<Record<string, unknown>>(
      `SELECT ${keyTexts(pair.key)} ${fromTable(pair)}
        WHERE (${rows.where}) AND ${isChanged(pair, since[sessions.sides[side].side])} LIMIT ${limit + 1}`,
      [...rows.values],
    );
    return found.rows.map((row) => keyInRow(pair.key, row));
  });
  if (sides.some((keys) => keys.length > limit)) return 'too many';
  return [...new Map(sides.flat().map((key) => [JSON.stringify(key), key])).values()];
}

async function compareKeys(
  sessions: SideSessions,
  pair: TablePair,
  keys: readonly KeyValues[],
  rows: Rows,
): Promise<PartOutcome['differences']> {
  if (keys.length === 0) return [];
  await sessions.prepare(pair.searchPath, 'by key');
  const candidates: KeyValues[] = [];
  for (let from = 0; from < keys.length; from += KEYS_AT_ONCE) {
    const some = keys.slice(from, from + KEYS_AT_ONCE);
    const [source, target] = await sessions.each((session) => versions(session, pair, some));
    candidates.push(...some.filter((_, i) => source[i]?.hash !== target[i]?.hash));
  }
  const differences = await withColumns(sessions, pair, await settleRows(sessions, pair, candidates));
  await sessions.prepare(pair.searchPath, rows.read);
  return differences;
}
