import { formatTableName, type TableName } from '../plan/table-name.js';
import { replicatedRoots, type TableInfo } from './catalog.js';
import { qualified } from './identifier.js';
import { readProgress, writeProgress, type Noted, type ProgressKey } from './migrate/progress-row.js';
import { inTransaction, type Session } from './session.js';
import { CANCELED, NO_RIGHT, sqlState } from './sqlstate.js';
import { hasState } from './state.js';
import { OLDEST_TOLD_AGE } from './transaction-age.js';

/*
 * Tables of what the plan moves that green alone has, such as those that the plan's SQL makes: nothing brings to blue what
 * is written there, so a rollback leaves it behind. What is made on green once it serves is told as DDL is
 * (ddl/schema-watch.ts).
 */

/** As it was before writes moved; kept on green. */
interface OnlyOnGreen {
  readonly tables: readonly TableName[];
  /** A transaction id of 64 bits: the rows of older ones were there. */
  readonly since: string;
}

/** All of them have been looked through: what was written from `since` to `upTo` is known. */
interface LookedThrough {
  readonly since: string;
  readonly upTo: string;
}

function onlyKey(runId: string): ProgressKey {
  return { runId, step: 'tables of green alone', object: 'green' };
}

function writtenKey(runId: string): ProgressKey {
  return { runId, step: 'written since the promotion', object: 'green' };
}

function lookedKey(runId: string): ProgressKey {
  return { runId, step: 'tables of green alone looked through', object: 'green' };
}

/** Ordinary tables and topmost parents that green has and blue has not. Pure. */
export function onlyOnGreen(blue: readonly TableInfo[], green: readonly TableInfo[]): TableName[] {
  const there = new Set(replicatedRoots(blue).map(({ name }) => qualified(name)));
  return replicatedRoots(green)
    .map(({ name }) => name)
    .filter((name) => !there.has(qualified(name)));
}

/** What is to be written down of them while green is closed. */
export async function readOnlyOnGreen(green: Session, runId: string, tables: readonly TableName[]): Promise<Noted> {
  return { key: onlyKey(runId), state: { tables, since: await oldestRunning(green) } satisfies OnlyOnGreen };
}

/** What is older than it is over. */
async function oldestRunning(green: Session): Promise<string> {
  const { rows } = await green.query<{ xid: string }>('SELECT pg_snapshot_xmin(pg_current_snapshot())::text AS xid');
  return rows[0]?.xid ?? '0';
}

/** Whoever looks. */
export interface Look {
  /** Tables that were made since, of which nobody has been told yet. Default: none */
  readonly untold?: readonly TableName[];
  /** How long all tables together may take to look through, ms. Default 3 s */
  readonly withinMs?: number;
  /**
   * What becomes of those that are left then. `count`: they count as written, since whoever decides has no other answer.
   * Default: `wait`, for another look, which begins with any
   */
  readonly rest?: 'count' | 'wait';
}

/**
 * The tables of green alone into which rows were written since writes moved. One that was counted stays until it is dropped:
 * a queue is empty now and then, and a loss is accepted as it was named.
 *
 * @returns their names, in order; none where an earlier version has promoted
 */
export async function writtenOnlyOnGreen(
  green: Session,
  runId: string,
  { untold = [], withinMs = 3_000, rest = 'wait' }: Look = {},
): Promise<string[]> {
  if (!(await hasState(green))) return [];
  const before = (await readProgress<OnlyOnGreen>(green, onlyKey(runId)))?.state;
  if (before === undefined) return [];
  const known = (await readProgress<readonly TableName[]>(green, writtenKey(runId)))?.state ?? [];
  const isKnown = new Set(known.map(qualified));
  const tables = await readThose(green, [...before.tables, ...known, ...untold]);
  const written = new Set(tables.filter((table) => isKnown.has(qualified(table))));
  const unknown = tables.filter((table) => !written.has(table));
  const first = Math.floor(Math.random() * unknown.length);
  const deadline = performance.now() + withinMs;
  const now = await oldestRunning(green);
  const since = await sinceWhen(green, runId, before, now);
  const isUntold = new Set(untold.map(qualified));
  let isWhole = true;
  for (const table of [...unknown.slice(first), ...unknown.slice(0, first)]) {
    const isLate = performance.now() > deadline;
    if (isLate) isWhole = false;
    if (isLate && rest === 'wait') break;
    const from = isUntold.has(qualified(table)) ? since.ofUntold : since.ofKnown;
    if (isLate || (await isWrittenSince(green, table, from))) written.add(table);
  }
  if (isWhole && since.isToMoveOn) {
    const looked: LookedThrough = { since: before.since, upTo: now };
    await writeProgress(green, lookedKey(runId), looked, false);
  }
  const names = tables.filter((table) => written.has(table)).map(({ schema, name }) => ({ schema, name }));
  if (names.length > tables.length - unknown.length) await writeProgress(green, writtenKey(runId), names, false);
  return names.map(formatTableName);
}

/** Behind what a table is looked through; undefined: each row counts, since nothing tells the old from the new. */
interface SinceWhen {
  readonly ofKnown: string | undefined;
  /** What was made since may have been there, unknown, at an earlier look. */
  readonly ofUntold: string | undefined;
  /** Whether a look through all of them is to be written down. */
  readonly isToMoveOn: boolean;
}

/** How many transactions go by until what has been looked through is written down again. */
const WRITTEN_DOWN_EACH = 100_000_000n;

/**
 * The age of a row is known for two billion transactions, which a busy server has in some days: from half of that on, the
 * last look through all tables takes the place of the promotion.
 */
async function sinceWhen(green: Session, runId: string, { since }: OnlyOnGreen, now: string): Promise<SinceWhen> {
  const age = (xid: string): bigint => BigInt(now) - BigInt(xid);
  if (age(since) < WRITTEN_DOWN_EACH) return { ofKnown: since, ofUntold: since, isToMoveOn: false };
  const looked = (await readProgress<LookedThrough>(green, lookedKey(runId)))?.state;
  const upTo = looked?.since === since ? looked.upTo : since;
  const ifTold = (xid: string): string | undefined => (age(xid) < OLDEST_TOLD_AGE ? xid : undefined);
  return {
    ofKnown: ifTold(since) ?? ifTold(upTo),
    ofUntold: ifTold(since),
    isToMoveOn: age(upTo) >= WRITTEN_DOWN_EACH,
  };
}

interface Table extends TableName {
  readonly partitioned: boolean;
}

/** Those that are there still, each once, in order. */
async function readThose(green: Session, tables: readonly TableName[]): Promise<Table[]> {
  if (tables.length === 0) return [];
  const { rows } = await green.query<Table>(
    `SELECT n.nspname AS schema, c.relname AS name, c.relkind = 'p' AS partitioned
       FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE c.relkind IN ('r', 'p')
        AND (n.nspname, c.relname) IN (SELECT * FROM unnest($1::name[], $2::name[]))
      ORDER BY n.nspname, c.relname`,
    [tables.map(({ schema }) => schema), tables.map(({ name }) => name)],
  );
  return rows;
}

/** So long one table is looked through, ms: one that had more rows than that before counts as written, and is not looked at again. */
const LOOKED_AT_MS = 2_000;
/** Less than that: a table that is locked is to be told from a large one. */
const LOCKED_MS = 1_000;

/**
 * Whether a table has a row that was written since, or any row where no time is given; also where that can't be seen.
 * Counters of the server would not tell: they are lost by a crash, and by a failover.
 */
async function isWrittenSince(green: Session, table: Table, since: string | undefined): Promise<boolean> {
  // What inherits from it is a table of its own.
  const from = `${table.partitioned ? '' : 'ONLY '}${qualified(table)}`;
  try {
    return await inTransaction(green, async () => {
      await green.query(`SET LOCAL statement_timeout = ${LOOKED_AT_MS}`);
      await green.query(`SET LOCAL lock_timeout = ${LOCKED_MS}`);
      const { rows } = await green.query<{ some: boolean }>(
        `SELECT EXISTS (SELECT FROM ${from} WHERE $1::text IS NULL OR age(xmin) <= age($1::text::xid8::xid)) AS some`,
        [since],
      );
      return rows[0]?.some === true;
    });
  } catch (error) {
    if (sqlState(error) === CANCELED || sqlState(error) === NO_RIGHT) return true;
    throw error;
  }
}
