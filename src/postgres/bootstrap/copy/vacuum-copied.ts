import { formatTableName, type TableName } from '../../../plan/table-name.js';
import { sameTable, type TableInfo } from '../../catalog.js';
import { qualified } from '../../identifier.js';
import { inLanes } from '../../migrate/index-lanes.js';
import type { IndexSettings } from '../../migrate/index-settings.js';
import { cancellable, type StepContext } from '../../migrate/step-context.js';
import { closeSession, type Session } from '../../session.js';
import { together } from '../../../timing.js';
import { readParcel } from './copy-state.js';

/**
 * VACUUM (ANALYZE) of a table that has just been filled: a short pass, since there is nothing to remove, which marks its
 * pages as visible to all. Without it no index-only scan is one, for the foreign keys that are validated next and for
 * green's first users, until autovacuum comes by (5 M rows: 0.4 s, and 0.6 s instead of 2.4 s for a foreign key). Nothing
 * is done where all pages are known to be visible.
 */
export async function vacuumTable(context: StepContext, table: TableName): Promise<void> {
  const { session } = context;
  if ((await vacuumed(session, [table])).has(0)) return;
  // Not the indexes, which are new, and no truncation, whose lock would stop readers.
  await cancellable(context, session, () =>
    session.query(`VACUUM (ANALYZE, INDEX_CLEANUP OFF, TRUNCATE OFF) ${qualified(table)}`),
  );
}

/** Which of these tables have had it, by their places: one question for all of them. */
async function vacuumed(session: Session, tables: readonly TableName[]): Promise<ReadonlySet<number>> {
  const { rows } = await session.query<{ i: number }>(
    `SELECT t.i::int - 1 AS i FROM unnest($1::text[]) WITH ORDINALITY AS t (name, i) JOIN pg_class c ON c.oid = to_regclass(t.name)
      WHERE c.relpages > 0 AND c.relallvisible >= c.relpages AND c.reltuples >= 0`,
    [tables.map(qualified)],
  );
  return new Set(rows.map(({ i }) => i));
}

/** Of these tables those with rows of their own that have not had it: mostly those without an index. */
export async function notVacuumed(session: Session, tables: readonly TableInfo[]): Promise<TableInfo[]> {
  const leaves = tables.filter(({ kind }) => kind !== 'partitioned');
  const had = await vacuumed(
    session,
    leaves.map(({ name }) => name),
  );
  return leaves.filter((_, i) => !had.has(i));
}

/** The largest table that this run has copied, by its first parcel; undefined where its rows went into a partitioned one. */
export async function largestCopied({ session, runId }: StepContext): Promise<TableName | undefined> {
  const [piece] = (await readParcel(session, runId, 0))?.pieces ?? [];
  return piece !== undefined && sameTable(piece.source, piece.target) ? piece.target : undefined;
}

/** The vacuum of a table that is under way while it is found out what is to be built on it. */
export interface BegunVacuum {
  readonly table: TableName;
  /** Ends with it. */
  readonly over: Promise<void>;
}

/**
 * Does `work` while a table is vacuumed, on a session of its own: before anything is built blue's schema is read, which asks
 * nothing of green. Returns when both are over; where the work fails, the vacuum is ended.
 *
 * @param work may wait for the vacuum; it is given none without a table
 */
export async function whileVacuuming<T>(
  context: StepContext,
  table: TableName | undefined,
  work: (begun?: BegunVacuum) => Promise<T>,
): Promise<T> {
  if (table === undefined) return work();
  const session = await context.connect('vacuum');
  const stop = new AbortController();
  try {
    await context.join?.(session);
    await session.query(`SELECT set_config('lock_timeout', '0', false)`);
    const over = vacuumTable({ ...context, session, signal: AbortSignal.any([context.signal, stop.signal]) }, table);
    const working = work({ table, over }).catch((error: unknown) => {
      stop.abort(error);
      throw error;
    });
    const [done] = await together(working, over);
    return done;
  } finally {
    await closeSession(session);
  }
}

/** The same for each of these tables, the largest first. */
export async function vacuumCopied(
  context: StepContext,
  tables: readonly TableInfo[],
  settings: IndexSettings,
): Promise<void> {
  const leaves = [...tables].sort((a, b) => b.bytes - a.bytes);
  let done = 0;
  await inLanes(context, 'vacuum', settings, leaves, async (lane, table) => {
    const object = formatTableName(table.name);
    await vacuumTable(lane, table.name);
    done += 1;
    context.onProgress({ step: 'analyze', object, done, total: leaves.length, rowsPerSecond: 0, etaSeconds: null });
  });
}
