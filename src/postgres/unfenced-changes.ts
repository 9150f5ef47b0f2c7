import { ALL_TABLES, schemaFilter } from './catalog-pattern.js';
import { qualified } from './identifier.js';
import { isAdvisoryLock } from './locks.js';
import type { Promotion } from './promotion.js';
import type { Session } from './session.js';
import { FENCE_LOCK } from './state.js';

/*
 * Transactions that could write without passing the fence, and commit after the decision: what they wrote would stay
 * behind. They make a table and fill it before it is attached or renamed, or switch off triggers, load and switch them on
 * again. The fence's lock does not wait for them, and the catalog shows only what is committed. Their locks tell:
 *
 *   a fenced table held alone (AccessExclusive) or kept from other writers (ShareRowExclusive): it is altered
 *   another table held alone: it is new, and in a schema that the plan moves; or it is attached to a fenced one
 *
 * A LOCK TABLE ... IN SHARE ROW EXCLUSIVE MODE as a mutex is told from an ALTER TABLE by the transaction id that the latter
 * has. A temporary table that is new can't be seen either: its schema, which its maker has locked, tells. Who has passed
 * the fence is waited for by the fence's lock; who waits at it (a TRUNCATE has its table to itself by then) is refused. But
 * only the statement is refused where a savepoint or an EXCEPTION takes the error: one that waits at another table's fence
 * may have written already, or write afterwards.
 */

export interface UnfencedChange {
  /** Null for a prepared transaction. */
  readonly pid: number | null;
  /** By which pg_locks knows the transaction. */
  readonly transaction: string;
  /** A table that it changes. */
  readonly table: string;
}

export interface LockRow {
  readonly pid: number | null;
  readonly transaction: string;
  readonly locktype: 'relation' | 'object' | 'advisory' | 'transactionid';
  readonly mode: string;
  readonly granted: boolean;
  /** The schema that is locked, or that the relation is in; null for one that another transaction can't see. */
  readonly schema: string | null;
  /** Null for a relation that another transaction can't see. */
  readonly name: string | null;
  readonly relkind: string | null;
  readonly relpersistence: string | null;
}

/** The lock of a table that gets a partition or a child. */
const ATTACHED_TO = 'ShareUpdateExclusiveLock';
/** The lock of a table that is written. */
const WRITTEN = 'RowExclusiveLock';

/**
 * The locks of transactions that change tables. One look into pg_locks: it takes the locks of the lock tables each time.
 * Names are looked up for what is left, one by one: catalogs may be large.
 */
export const LOCKS_OF_CHANGES = `
  WITH locks AS MATERIALIZED (
    SELECT pid, virtualtransaction, locktype, mode, granted, relation, objid
      FROM pg_locks l
     WHERE pid IS DISTINCT FROM pg_backend_pid()
       AND (locktype = 'transactionid' AND granted AND mode = 'ExclusiveLock'
            OR database = (SELECT oid FROM pg_database WHERE datname = current_database())
               AND (locktype = 'relation' AND granted AND relation >= 16384
                      AND mode IN ('${WRITTEN}', '${ATTACHED_TO}', 'ShareRowExclusiveLock', 'AccessExclusiveLock')
                    OR locktype = 'object' AND granted AND classid = 'pg_namespace'::regclass
                    OR ${isAdvisoryLock(FENCE_LOCK)})))
  SELECT l.pid, l.virtualtransaction AS transaction, l.locktype, l.mode, l.granted,
         coalesce(c.nspname, n.nspname)::text AS schema, c.relname::text AS name, c.relkind, c.relpersistence
    FROM locks l
    LEFT JOIN LATERAL (
         SELECT c.relname, c.relkind, c.relpersistence, n.nspname
           FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
          WHERE l.locktype = 'relation' AND c.oid = l.relation OFFSET 0) c ON true
    LEFT JOIN LATERAL (
         SELECT n.nspname FROM pg_namespace n WHERE l.locktype = 'object' AND n.oid = l.objid OFFSET 0) n ON true
   WHERE l.virtualtransaction IN (SELECT virtualtransaction FROM locks WHERE locktype = 'transactionid')
     AND l.virtualtransaction IN (SELECT virtualtransaction FROM locks
                                   WHERE locktype = 'relation' AND mode NOT IN ('${WRITTEN}', '${ATTACHED_TO}'))`;

/** What the locks say: one change for each transaction that could write past the fence. */
export function unfencedChanges(
  rows: readonly LockRow[],
  { fenced, patterns = ALL_TABLES }: Pick<Promotion, 'fenced' | 'patterns'>,
): UnfencedChange[] {
  const isFenced = new Set(fenced.map(qualified));
  const mayBeMoved = schemaFilter(patterns);
  return [...byTransaction(rows).values()].flatMap((locks) => {
    const change = changeOf(locks, isFenced, mayBeMoved);
    return change === undefined ? [] : [change];
  });
}

function byTransaction(rows: readonly LockRow[]): Map<string, LockRow[]> {
  const transactions = new Map<string, LockRow[]>();
  for (const row of rows) {
    const key = `${row.pid ?? 'prepared'} ${row.transaction}`;
    transactions.set(key, [...(transactions.get(key) ?? []), row]);
  }
  return transactions;
}

function changeOf(
  locks: readonly LockRow[],
  isFenced: ReadonlySet<string>,
  mayBeMoved: (schema: string) => boolean,
): UnfencedChange | undefined {
  const atFence = locks.find(({ locktype }) => locktype === 'advisory');
  if (atFence?.granted === true) return undefined;
  const relations = locks.filter(({ locktype }) => locktype === 'relation');
  const [fenced, others] = [relations.filter(isOfFenced), relations.filter((lock) => !isOfFenced(lock))];
  const isRefused = atFence !== undefined && isAllOfOneStatement(fenced);
  // One whose rows are at stake is named rather than one that is emptied.
  const written = new Set(fenced.filter(({ mode }) => mode === WRITTEN).map(nameOf));
  const allAltered = fenced.filter(({ mode }) => isAltered(mode, isRefused));
  const isAtStake = (lock: LockRow): boolean => lock.mode === 'ShareRowExclusiveLock' || written.has(nameOf(lock));
  const altered = allAltered.find(isAtStake) ?? allAltered[0];
  const made = others.find(isTableAlone);
  const isComing = fenced.some(({ mode }) => mode === ATTACHED_TO) || locks.some(isOfMovedSchema);
  const table = altered ?? (isComing ? made : undefined);
  return table && { pid: table.pid, transaction: table.transaction, table: nameOf(table) };

  function isOfFenced({ schema, name }: LockRow): boolean {
    return schema !== null && name !== null && isFenced.has(qualified({ schema, name }));
  }

  /** A schema that can't be seen is new: its name may be any. */
  function isOfMovedSchema({ locktype, schema }: LockRow): boolean {
    return locktype === 'object' && (schema === null || (!SYSTEM_SCHEMA.test(schema) && mayBeMoved(schema)));
  }
}

const SYSTEM_SCHEMA = /^(pg_.*|information_schema|verdigris)$/s;

function isAltered(mode: string, isRefused: boolean): boolean {
  return mode === 'ShareRowExclusiveLock' || (mode === 'AccessExclusiveLock' && !isRefused);
}

/**
 * Whether the statement that waits at the fence explains the locks: a TRUNCATE, or a write, of the one table that its
 * transaction has locked. With several, one of them may have been altered, and be written when the statement is refused:
 * a TRUNCATE of several tables, or partitions, is taken for that, too, and costs a try.
 */
function isAllOfOneStatement(fenced: readonly LockRow[]): boolean {
  return new Set(fenced.map(nameOf)).size <= 1;
}

/** Not an index, a view or a materialized one, which has no rows of ours; nor a temporary table. */
function isTableAlone({ mode, relkind, relpersistence }: LockRow): boolean {
  if (mode !== 'AccessExclusiveLock') return false;
  return relkind === null || (['r', 'p'].includes(relkind) && relpersistence !== 't');
}

function nameOf({ schema, name }: LockRow): string {
  return schema === null || name === null ? 'a table that is new' : qualified({ schema, name });
}

/**
 * Leaves out the server's own workers: autovacuum has a table to itself while it gives pages back, and a feed that arrives
 * passes no fence. A process that is gone by now has committed meanwhile, perhaps: it counts.
 */
export async function byClients(session: Session, changes: readonly UnfencedChange[]): Promise<UnfencedChange[]> {
  const pids = changes.flatMap(({ pid }) => (pid === null ? [] : [pid]));
  if (pids.length === 0) return [...changes];
  const own = await serverWorkers(session, pids);
  return changes.filter(({ pid }) => pid === null || !own.has(pid));
}

/** Those of the processes that are autovacuum's or a feed's. A role that may not see their type sees that they have no user. */
export async function serverWorkers(session: Session, pids: readonly number[]): Promise<Set<number>> {
  // What a transaction has seen of the processes it sees again, unless it is told to look anew.
  const message = `SELECT pg_stat_clear_snapshot(); ${serverWorkersSql(pids)}`;
  const results = (await session.query(message)) as unknown as readonly { readonly rows: readonly { pid: number }[] }[];
  return new Set(results.at(-1)?.rows.map(({ pid }) => pid));
}

function serverWorkersSql(pids: readonly number[]): string {
  return `SELECT a.pid FROM unnest('{${pids.join(',')}}'::int[]) AS p (pid) CROSS JOIN LATERAL pg_stat_get_activity(p.pid) a
           WHERE a.usesysid IS NULL OR a.backend_type LIKE 'logical replication%'
              OR EXISTS (SELECT FROM pg_stat_subscription s WHERE s.pid = a.pid)`;
}

/** The changes that are under way now, for a look outside of the hold. */
export async function readUnfencedChanges(
  session: Session,
  promotion: Pick<Promotion, 'fenced' | 'patterns'>,
): Promise<UnfencedChange[]> {
  const { rows } = await session.query<LockRow>(LOCKS_OF_CHANGES);
  return byClients(session, unfencedChanges(rows, promotion));
}

export function describeChange({ from }: Pick<Promotion, 'from'>, { table }: UnfencedChange): string {
  return `${from}: a transaction that changes ${table} could write past the fence`;
}
