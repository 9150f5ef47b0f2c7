import { setTimeout as sleep } from 'node:timers/promises';
import { ident } from '../identifier.js';
import { markerArrived, writeMarker } from '../marker.js';
import { keyValue, type KeyValues } from '../migrate/key-range.js';
import { setOnlyTables } from '../only-tables.js';
import { closeSession, openSession, type Session } from '../session.js';
import type { RowDifference } from './difference.js';
import { OWN_PATH, type SideSessions } from './side-sessions.js';
import { fromTable, type TablePair } from './table-pair.js';

/*
 * Whether a row that looks different is different, while the application writes it and the target lags behind.
 *
 *   1. read the row on the source           B1
 *   2. write a marker, await it             whatever B1 has seen is on the target
 *   3. read the row on the target           T
 *   4. read the row on the source again     B2
 *
 * When B1 and B2 are the same version of the row, it has not been written in between, so T must be it. When they are
 * not, nothing can be said: try again. A version is the hash and xmin, since a row can be changed and changed back. A
 * difference counts when it has been seen twice, which covers a row that comes and goes (there is no version of a row
 * that is not there). A row that is written so fast that it is never the same twice is, in the end, locked on the
 * source for the few milliseconds of a marker.
 */

const ROUNDS = 30;
const SEEN = 2;
const KEYS_AT_ONCE = 500;
/** A row's writers wait at most so long. */
const HOLD_MS = 250;
const HOLDS = 5;

/** A row as it was at one moment; several where a key that nothing keeps unique is there more than once. */
export interface Version {
  readonly hash: string;
  readonly xmin: string;
  readonly rows: number;
}

/** The rows of one key as one version, in whatever order they were read. */
export function together(hashes: readonly string[]): string {
  return hashes.length === 1 ? (hashes[0] ?? '') : hashes.toSorted().join('+');
}

/** The versions of the rows with these keys, in the order of the keys; undefined for a row that is not there. */
export async function versions(
  session: Session,
  pair: TablePair,
  keys: readonly KeyValues[],
  lock = '',
): Promise<(Version | undefined)[]> {
  const names = pair.key.map((_, i) => `k${i}`);
  const where = pair.key.map((column, i) => `${ident(column.name)} = ${keyValue(column, `verdigris_wanted.k${i}`)}`);
  const { rows } = await session.query<{ n: number; xmin: string; hash: string }>(
    `SELECT verdigris_wanted.n::int AS n, found.xmin, found.hash
       FROM unnest(${names.map((_, i) => `$${i + 1}::text[]`).join(', ')}) WITH ORDINALITY AS verdigris_wanted (${names.join(', ')}, n)
      CROSS JOIN LATERAL (SELECT ${ident(pair.table.name)}.xmin::text AS xmin, ${pair.rowHash}::text AS hash
                            ${fromTable(pair)} WHERE ${where.join(' AND ')} ${lock}) found`,
    pair.key.map((_, i) => keys.map((key) => key[i] ?? '')),
  );
  const found = keys.map((): { xmin: string; hash: string }[] => []);
  for (const { n, ...row } of rows) found[n - 1]?.push(row);
  return found.map((same) =>
    same.length === 0
      ? undefined
      : {
          hash: together(same.map(({ hash }) => hash)),
          xmin: together(same.map(({ xmin }) => xmin)),
          rows: same.length,
        },
  );
}

/** Says which of the rows differ. Rows that agree by now are left out. */
export async function settleRows(
  sessions: SideSessions,
  pair: TablePair,
  keys: readonly KeyValues[],
): Promise<RowDifference[]> {
  const differences: RowDifference[] = [];
  for (let from = 0; from < keys.length; from += KEYS_AT_ONCE) {
    differences.push(...(await settleSome(sessions, pair, keys.slice(from, from + KEYS_AT_ONCE))));
  }
  return differences;
}

async function settleSome(
  sessions: SideSessions,
  pair: TablePair,
  keys: readonly KeyValues[],
): Promise<RowDifference[]> {
  const differences: RowDifference[] = [];
  let open = keys.map((key) => ({ key, seen: 0 }));
  for (let round = 1; round <= ROUNDS && open.length > 0; round++) {
    if (round > 1) await sleep(Math.random() * Math.min(50, 5 * round), undefined, { signal: sessions.sides.signal });
    const wanted = open.map(({ key }) => key);
    const before = await sessions.on('source', (session) => versions(session, pair, wanted));
    await sessions.catchUp();
    const there = await sessions.on('target', (session) => versions(session, pair, wanted));
    const after = await sessions.on('source', (session) => versions(session, pair, wanted));
    open = open.flatMap(({ key, seen }, i) => {
      const [b1, t, b2] = [before[i], there[i], after[i]];
      // Twice in a row: a row that comes and goes may not be there at both looks, and be there on the target.
      if (b1?.hash !== b2?.hash || b1?.xmin !== b2?.xmin) return [{ key, seen: 0 }];
      if (b1?.hash === t?.hash) return [];
      if (seen + 1 < SEEN) return [{ key, seen: seen + 1 }];
      differences.push({ key, kind: kindOf(b1, t) });
      return [];
    });
  }
  for (const { key } of open) {
    const difference = await settleHeld(sessions, pair, key);
    if (difference !== undefined) differences.push(difference);
  }
  return differences;
}

function kindOf(source: Version | undefined, target: Version | undefined): RowDifference['kind'] {
  const more = (target?.rows ?? 0) - (source?.rows ?? 0);
  if (more === 0) return 'different';
  return more < 0 ? 'missing' : 'extra';
}

/** The last resort for a row that is never the same twice: its writers wait for one marker. */
async function settleHeld(sessions: SideSessions, pair: TablePair, key: KeyValues): Promise<RowDifference | undefined> {
  const holder = await openSession(sessions.sides.source, { purpose: 'verify one row', lockTimeoutMs: HOLD_MS });
  try {
    // Should this process stop here, the server lets the row go.
    await holder.query(
      `SELECT set_config('idle_in_transaction_session_timeout', $1, false), set_config('search_path', $2, false),
              ${setOnlyTables(pair.searchPath === OWN_PATH)}`,
      [String(4 * HOLD_MS), pair.searchPath],
    );
    for (let attempt = 1; attempt <= HOLDS; attempt++) {
      const looked = await lookHeld(sessions, holder, pair, key).catch(() => undefined);
      if (looked !== undefined) {
        const [source, target] = looked;
        return source.hash === target?.hash ? undefined : { key, kind: kindOf(source, target) };
      }
      sessions.sides.signal.throwIfAborted();
      await sleep(100 * attempt, undefined, { signal: sessions.sides.signal });
    }
    return { key, kind: 'unsettled' };
  } finally {
    await closeSession(holder);
  }
}

async function lookHeld(
  sessions: SideSessions,
  holder: Session,
  pair: TablePair,
  key: KeyValues,
): Promise<[Version, Version | undefined] | undefined> {
  await holder.query('BEGIN');
  try {
    const [held] = await versions(holder, pair, [key], 'FOR SHARE');
    if (held === undefined) return undefined;
    const { direction } = sessions.sides;
    const token = await writeMarker(sessions.source, direction);
    const started = performance.now();
    while (!(await markerArrived(sessions.target, direction, token))) {
      if (performance.now() - started > HOLD_MS) return undefined;
    }
    const [there] = await versions(sessions.target, pair, [key]);
    return [held, there];
  } finally {
    await holder.query('ROLLBACK');
  }
}

/** Which columns of rows differ, as far as they can still be seen to. Names only. */
export async function differingColumns(
  sessions: SideSessions,
  pair: TablePair,
  key: KeyValues,
): Promise<readonly string[]> {
  const [source, target] = await sessions.each(async (session) => {
    const on = pair.key
      .map((column, i) => `${ident(column.name)} = ${keyValue(column, `$${i + 1}::text`)}`)
      .join(' AND ');
    const hashes = pair.columns.map((name) => `md5(ROW(${pair.values[name] ?? ident(name)})::text)`).join(', ');
    const { rows } = await session.query<{ hashes: string[] }>(
      `SELECT ARRAY[${hashes}] AS hashes ${fromTable(pair)} WHERE ${on}`,
      [...key],
    );
    return rows[0]?.hashes ?? [];
  });
  return pair.columns.filter((_, i) => source[i] !== target[i]);
}
