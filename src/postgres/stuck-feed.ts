import { VerdigrisError } from '../errors.js';
import { formatTableName, type TableName } from '../plan/table-name.js';
import type { Plan } from '../plan/schema.js';
import { computedTable } from './bootstrap/copy/computed-table.js';
import { copyQuery, withDomains, type CopyQuery } from './bootstrap/copy/copy-query.js';
import { findNames, openSnapshotSession, whileWatched } from './bootstrap/copy/copy-sessions.js';
import { RowSearch } from './bootstrap/copy/piece-failed.js';
import { leavesOf, readTables, sameTable, type TableInfo } from './catalog.js';
import { ALL_TABLES } from './catalog-pattern.js';
import { ident } from './identifier.js';
import { describeKey, keyInRow, keyTexts } from './migrate/key-range.js';
import { changedTables, planWork, type TableWork } from './migrate/plan-work.js';
import { writeProgress } from './migrate/progress-row.js';
import { messageOf } from './migrate/step-failed.js';
import type { Run } from './ownership.js';
import { refuseNoRoom } from './passing-obstacles.js';
import { refusedTruncates } from './refused-truncates.js';
import { closeSession, type Databases, type Session } from './session.js';
import { SlotReaders } from './slot-readers.js';
import { readStreams, streamNames } from './streams.js';
import { readSubscription } from './subscription.js';

/*
 * A row of blue that green refuses stops the apply worker: PostgreSQL tries the same transaction again and again, says
 * why in green's log only, and the feed looks as if it were late. So errors are counted; when they grow and nothing is
 * applied, the row is looked for on blue, named, and the run holds.
 *
 * To correct the row on blue is not enough: the version that green refuses stays in the stream, and nothing behind it is
 * applied. So its table is written down, and what goes on after the resume copies it anew (see copy-anew.ts): green
 * passes over its old changes, and copies it as it is then.
 */

/** What the feed to green is watched for. */
export interface FeedContext {
  readonly databases: Databases;
  readonly run: Run;
  readonly plan: Plan;
  readonly signal: AbortSignal;
}

/** So many errors at one position: a deadlock or a lock that was not to be had passes. The last one is met with room enough. */
const STUCK_ERRORS = 4;

/** Where a stream was first seen to be, and the errors that it had met. */
interface Standstill {
  readonly position: string;
  readonly errors: number;
  /** The errors when green was seen to have room. */
  readonly hadRoomAt?: number;
}

/** Step of verdigris.progress on green: the tables to be copied anew. */
export const COPY_ANEW = 'copy anew';

/** Its state: the table, and the stream that carries it, whose publication a try that dies may leave without it. */
export interface StuckTable extends TableName {
  readonly stream: string;
}

/** Tells a feed that meets the same error again and again from one that is late. */
export class FeedErrors {
  private readonly seen = new Map<string, Standstill>();
  private readonly names: readonly string[];
  private readonly readers: SlotReaders;

  constructor(
    private readonly context: FeedContext,
    private readonly blue: Session,
    private readonly green: Session,
    private readonly stuckErrors = STUCK_ERRORS,
  ) {
    this.names = streamNames(context.run.migration, 'to_green', context.plan.replicate.streams);
    this.readers = new SlotReaders(blue, green, this.names);
  }

  /**
   * A look, while green is late; the first one only counts.
   *
   * @throws VerdigrisError BackfillFailed that names the row, or the tables, that green can't take; SqlError (retryable)
   *   when it has no room; LockNotHad (retryable) when they could not be looked for now; ReplicationBroken when somebody
   *   else reads from a slot.
   */
  async refuse(): Promise<void> {
    if (await this.isStuck()) throw await stuck(this.context, this.blue, this.green);
  }

  /**
   * The same look, for whoever acts on it: green moves while it is only late, and meets no errors while it is slow.
   *
   * @throws VerdigrisError SqlError (retryable) when green has no room; ReplicationBroken when somebody else reads from a slot.
   */
  async isStuck(): Promise<boolean> {
    const { blue, green } = this;
    await this.readers.refuseOthers();
    for (const name of this.names) {
      const state = await readSubscription(green, name);
      const { rows } = await blue.query<{ position: string }>(
        'SELECT confirmed_flush_lsn::text AS position FROM pg_replication_slots WHERE slot_name = $1',
        [name],
      );
      const now = { position: rows[0]?.position ?? '', errors: state?.errors ?? 0 };
      const before = this.seen.get(name);
      if (before?.position !== now.position) this.seen.set(name, now);
      else if (await this.standsStill(name, before, now.errors)) return true;
    }
    return false;
  }

  private async standsStill(name: string, before: Standstill, errors: number): Promise<boolean> {
    if (errors < Math.max(before.errors, before.hadRoomAt ?? 0)) {
      // The counters have begun anew.
      this.seen.set(name, { position: before.position, errors: 0 });
      return false;
    }
    const met = errors - before.errors;
    if (before.hadRoomAt !== undefined) return met >= this.stuckErrors && errors > before.hadRoomAt;
    if (met < this.stuckErrors - 1) return false;
    await refuseNoRoom(this.green);
    this.seen.set(name, { ...before, hadRoomAt: errors });
    return false;
  }
}

/**
 * What green can't apply, written down to be copied anew after a resume. Where no row is to blame: also the tables of which
 * green refuses a TRUNCATE.
 *
 * @param tables that are known to be stuck; default: those that the plan changes.
 * @throws VerdigrisError LockNotHad (retryable) when it could not be looked for now
 */
export async function stuck(
  context: FeedContext,
  blue: Session,
  green: Session,
  tables?: readonly TableName[],
): Promise<VerdigrisError> {
  const found = await badRow(context, blue, green);
  const truncated = found === undefined ? await refusedTruncates(blue, green, await oldestOnItsWay(context, blue)) : [];
  const changed = found === undefined ? (tables ?? changedTables(await planWork(context.plan))) : [found.table];
  const suspects = [...changed, ...truncated.filter((table) => !changed.some((one) => sameTable(one, table)))];
  const { run, plan } = context;
  for (const { name, tables: carried } of await readStreams(blue, run.migration, 'to_green', plan.replicate.streams)) {
    for (const table of suspects) {
      if (!carried.some((one) => sameTable(one, table))) continue;
      const state: StuckTable = { ...table, stream: name };
      await writeProgress(green, { runId: run.runId, step: COPY_ANEW, object: formatTableName(table) }, state, false);
    }
  }
  if (found !== undefined) return cantBeApplied(found);
  const names = suspects.map(formatTableName).join(', ');
  const hint =
    truncated.length === 0
      ? ''
      : `; a TRUNCATE of ${truncated.map(formatTableName).join(' or ')} alone would be such a change, since foreign keys that only green has refer to it`;
  return new VerdigrisError({
    type: 'BackfillFailed',
    message: `green can't apply a change of blue: it meets the same error again and again, and no row that is on blue now is to blame${hint}`,
    nextStep: `read the reason in green's server log and mend it, then resume: ${suspects.length === 0 ? 'green tries again by itself' : `if green still can't go on, ${names} will be copied anew, without the changes that it refuses`}; or roll back`,
  });
}

/** A row on which green's trigger or a NOT NULL fails. */
export interface BadRow {
  /** The topmost parent. */
  readonly table: TableName;
  readonly key: string;
  readonly why: string;
}

export function cantBeApplied({ table, key, why }: BadRow): VerdigrisError {
  return new VerdigrisError({
    type: 'BackfillFailed',
    message: `green can't apply the row of table ${formatTableName(table)} with ${key}, which was written on blue: ${why}`,
    nextStep:
      'correct the row on blue, then resume: since the change that green refuses is on its way already, the table is copied anew; or roll back and make the "up" expression accept such rows',
  });
}

/**
 * Looks through the rows that have been written on blue since green stopped.
 *
 * @throws VerdigrisError LockNotHad (retryable) when the application has waited for that: no row is known to be to blame
 */
export async function badRow(context: FeedContext, blue: Session, green: Session): Promise<BadRow | undefined> {
  const { tables } = await planWork(context.plan);
  const since = await oldestOnItsWay(context, blue);
  const only =
    since === undefined ? 'true' : `pg_catalog.age(xmin) <= pg_catalog.age('${BigInt(since)}'::pg_catalog.xid)`;
  for (const work of tables) {
    context.signal.throwIfAborted();
    if (work.derived.every(({ up }) => up === undefined)) continue;
    const found = await badRowOf(context, blue, green, work, only);
    if (found !== undefined) return found;
  }
  return undefined;
}

/** No transaction that the slots have still to send is older; undefined when that is not known. */
async function oldestOnItsWay({ run, plan }: FeedContext, blue: Session): Promise<string | undefined> {
  const { rows } = await blue.query<{ xid: string | null }>(
    `SELECT catalog_xmin::text AS xid FROM pg_replication_slots WHERE slot_name = ANY ($1)
      ORDER BY age(catalog_xmin) DESC LIMIT 1`,
    [streamNames(run.migration, 'to_green', plan.replicate.streams)],
  );
  return rows[0]?.xid ?? undefined;
}

async function badRowOf(
  { databases, signal }: FeedContext,
  blue: Session,
  green: Session,
  work: TableWork,
  only: string,
): Promise<BadRow | undefined> {
  const onGreen = (await readTables(green, ALL_TABLES, [work.table])).find(({ name }) => sameTable(name, work.table));
  // Before the new columns are there, nothing is computed.
  const missing = work.columns.some(({ name }) => onGreen?.columns.every((column) => column.name !== name) ?? true);
  const computed = missing ? undefined : await computedTable(blue, green, work);
  if (onGreen === undefined || computed === undefined) return undefined;
  const session = await openSnapshotSession(databases.blue, 'find refused row', undefined);
  if (session === undefined) return undefined;
  try {
    await findNames(session, computed.searchPath);
    const what = `the search for a row of table ${formatTableName(work.table)} that green refuses`;
    return await whileWatched({ database: databases.blue, session, signal, what }, async () => {
      for (const leaf of await leavesOf(session, work.table)) {
        const query = copyQuery(leaf, work.table.name, onGreen, withDomains(computed.columns));
        const piece = { source: leaf.name, fromBlock: 0, toBlock: null };
        const search = new RowSearch(session, signal, piece, leaf, query, only);
        const failing = await search.onBlue();
        if (failing !== undefined) return { table: work.table, key: failing.key, why: messageOf(failing.error) };
        const empty = await nullRow(session, leaf, onGreen, work, query, only);
        if (empty !== undefined) return { table: work.table, ...empty };
      }
      return undefined;
    });
  } finally {
    await closeSession(session);
  }
}

/** A row whose computed column is NULL where green has NOT NULL. */
async function nullRow(
  session: Session,
  leaf: TableInfo,
  onGreen: TableInfo,
  work: TableWork,
  query: CopyQuery,
  only: string,
): Promise<{ key: string; why: string } | undefined> {
  const key = leaf.key?.columns ?? [];
  const columns = onGreen.columns.filter(
    ({ name, notNull }) => notNull && work.derived.some(({ column, up }) => column === name && up !== undefined),
  );
  for (const { name } of key.length === 0 ? [] : columns) {
    const { rows } = await session.query<Record<string, unknown>>(
      `SELECT ${keyTexts(key)} FROM (${query.select(only)}) r WHERE ${ident(name)} IS NULL LIMIT 1`,
    );
    if (rows[0] !== undefined) {
      return {
        key: describeKey(key, keyInRow(key, rows[0])),
        why: `its column "${name}" is NULL, which green refuses`,
      };
    }
  }
  return undefined;
}
