import { VerdigrisError } from '../../errors.js';
import { formatTableName, type TableName } from '../../plan/table-name.js';
import { leavesOf, readTables, sameTable, type TableInfo } from '../catalog.js';
import { ALL_TABLES } from '../catalog-pattern.js';
import { mayBeARow } from '../migrate/failing-row.js';
import { messageOf } from '../migrate/step-failed.js';
import { ranOut } from '../passing-obstacles.js';
import { closeSession, type Databases, type Session } from '../session.js';
import { isNameInFunction, mendFunction } from '../name-in-function.js';
import { isConnectionLost, isOutOfRoom } from '../sqlstate.js';
import { isCheckByFunction, TABLES_MAY_BE_MISSING } from './check-by-function.js';
import { copyFormat } from './copy/copy-format.js';
import { copyInto, copyOut, copyQuery, NOTHING_COMPUTED } from './copy/copy-query.js';
import {
  openSnapshotSession,
  openTargetSession,
  rawEncoding,
  whileWatched,
  type WatchedReading,
} from './copy/copy-sessions.js';
import { CopyFailure, streamRows } from './copy/copy-stream.js';
import { lineOf, RowSearch } from './copy/piece-failed.js';

/*
 * Why PostgreSQL's own synchronization of a table fails is written in green's log only. So its rows are copied as it
 * would copy them, through green's trigger and against green's constraints, in a transaction that is rolled back:
 * whatever green refuses, PostgreSQL tells us, and the line of it.
 */

/**
 * Finds the first row of blue that green refuses.
 *
 * @returns BackfillFailed that names it; undefined when there is none, or when it can't be told now.
 * @throws VerdigrisError SqlError (retryable) when a side has no room for the trial; LockNotHad (retryable) when the
 *   application has waited for it; the error of a connection that is lost.
 */
export async function refusedRow(
  databases: Databases,
  table: TableName,
  signal: AbortSignal,
): Promise<VerdigrisError | undefined> {
  const holder = await openSnapshotSession(databases.blue, 'copy for trial', undefined);
  if (holder === undefined) return undefined;
  try {
    const { rows } = await holder.query<{ snapshot: string }>('SELECT pg_export_snapshot() AS snapshot');
    for (const leaf of await leavesOf(holder, table)) {
      signal.throwIfAborted();
      const refused = await refusedOf(databases, leaf, table, rows[0]?.snapshot, signal);
      if (refused !== undefined) return refused;
    }
    return undefined;
  } finally {
    await closeSession(holder);
  }
}

async function refusedOf(
  databases: Databases,
  leaf: TableInfo,
  table: TableName,
  snapshot: string | undefined,
  signal: AbortSignal,
): Promise<VerdigrisError | undefined> {
  const failure = await tryToCopy(databases, leaf, table, snapshot, signal);
  if (failure !== undefined) refusePassing(failure, leaf);
  // What blue can't read is not green's to refuse; and a lock that was not to be had says nothing of a row.
  if (failure?.side !== 'green' || !mayBeARow(failure.cause)) return undefined;
  if (isNameInFunction(failure.cause)) {
    return new VerdigrisError({
      type: 'BackfillFailed',
      message: `green refuses the rows of table ${formatTableName(leaf.name)}: ${messageOf(failure.cause)}`,
      nextStep: mendFunction(failure.cause),
      cause: failure.cause,
    });
  }
  const byFunction = await isCheckByFunction(databases.green, failure.cause);
  const key = await keyOf(databases, leaf, snapshot, lineOf(failure.cause), signal);
  return new VerdigrisError({
    type: 'BackfillFailed',
    message: `green refuses the row of table ${formatTableName(leaf.name)} with ${key}: ${messageOf(failure.cause)}`,
    nextStep: `${byFunction ? TABLES_MAY_BE_MISSING : ''}correct the row on blue, then resume: the table is copied again by itself; or roll back and make the "up" expression or the constraint accept it`,
    cause: failure.cause,
  });
}

/** What the trial has met so, PostgreSQL's own synchronization has met, too. */
function refusePassing({ side, cause }: CopyFailure, { name }: TableInfo): void {
  if (isOutOfRoom(cause)) throw ranOut(side, `the copy of table ${formatTableName(name)}`, cause);
  if (isConnectionLost(cause)) throw cause;
}

async function tryToCopy(
  databases: Databases,
  leaf: TableInfo,
  table: TableName,
  snapshot: string | undefined,
  signal: AbortSignal,
): Promise<CopyFailure | undefined> {
  const source = await openSnapshotSession(databases.blue, 'copy for trial', snapshot);
  if (source === undefined) return undefined;
  let target: Session | undefined;
  try {
    target = await openTargetSession(databases.green, 'copy for trial', source);
    const onGreen = (await readTables(target, ALL_TABLES, [table])).find(({ name }) => sameTable(name, table));
    if (onGreen === undefined) return undefined;
    const { select, columns } = copyQuery(leaf, table.name, onGreen, NOTHING_COMPUTED);
    if (columns.length === 0) return undefined;
    const encoding = rawEncoding(source);
    const format = copyFormat(leaf, onGreen, columns, NOTHING_COMPUTED, encoding);
    await target.query('BEGIN');
    const [out, into] = [copyOut(select('true'), format, encoding), copyInto(table, columns, format, encoding)];
    const [from, to] = [source, target];
    await whileWatched(watchedIn(databases, source, leaf, signal), () =>
      streamRows(from, out, to, into, { signal, onBytes: () => 0 }),
    );
    return undefined;
  } catch (error) {
    if (error instanceof CopyFailure) return error;
    throw error;
  } finally {
    // Ends the transaction, which has not been committed.
    await Promise.all([source, ...(target === undefined ? [] : [target])].map(closeSession));
  }
}

async function keyOf(
  databases: Databases,
  leaf: TableInfo,
  snapshot: string | undefined,
  line: number | undefined,
  signal: AbortSignal,
): Promise<string> {
  const session =
    line === undefined ? undefined : await openSnapshotSession(databases.blue, 'copy for trial', snapshot);
  if (session === undefined || line === undefined) return 'an unknown key';
  try {
    const query = { select: () => '', columns: [], swift: false };
    const piece = { source: leaf.name, fromBlock: 0, toBlock: null };
    const search = new RowSearch(session, signal, piece, leaf, query);
    return await whileWatched(watchedIn(databases, session, leaf, signal), () => search.atLine(line));
  } finally {
    await closeSession(session);
  }
}

function watchedIn({ blue }: Databases, session: Session, { name }: TableInfo, signal: AbortSignal): WatchedReading {
  const what = `the trial copy of table ${formatTableName(name)}, by which a row that green refuses is looked for`;
  return { database: blue, session, signal, what };
}
