import { VerdigrisError } from '../errors.js';
import type { Side } from '../side.js';
import type { Session } from './session.js';
import { findSyncSlots } from './sync-slots.js';

/** What the slots of a feed hold back on their server. */
export interface RetainedWal {
  /** Of the slot that is furthest behind: slots share the WAL, so their amounts do not add up. */
  readonly bytes: number;
  /**
   * How many transactions ago the oldest begun that a slot, or the snapshot that was exported with it, still wants to see:
   * no vacuum of the server takes away what is younger, nor does it freeze it.
   */
  readonly transactions: number;
  /** The worst of the slots: `lost`, `unreserved`, `extended` or `reserved`; null where there is none. */
  readonly walStatus: string | null;
  /** How many of the slots are there. */
  readonly slots: number;
}

/** Reads what the slots of these names hold back in this database. Those of the first copy of their tables hold WAL, too. */
export async function readRetainedWal(session: Session, names: readonly string[]): Promise<RetainedWal> {
  const { rows } = await session.query<{
    bytes: string;
    transactions: number;
    wal_status: string | null;
    slots: number;
  }>(
    `SELECT coalesce(max(pg_wal_lsn_diff(pg_current_wal_insert_lsn(), restart_lsn)), 0)::bigint::text AS bytes,
            coalesce(max(greatest(age(xmin), age(catalog_xmin))), 0) AS transactions,
            (array_agg(wal_status ORDER BY array_position('{lost,unreserved,extended,reserved}', wal_status))
               FILTER (WHERE slot_name = ANY ($1::name[])))[1] AS wal_status,
            count(*) FILTER (WHERE slot_name = ANY ($1::name[]))::int AS slots
       FROM pg_replication_slots WHERE slot_name = ANY ($1::name[] || $2::name[]) AND database = current_database()`,
    [names, await findSyncSlots(session)],
  );
  const { bytes = '0', transactions = 0, wal_status: walStatus = null, slots = 0 } = rows[0] ?? {};
  return { bytes: Number(bytes), transactions, walStatus, slots };
}

/**
 * Whether a feed that has slots can never go on: one is gone, or the server has invalidated it. Before all are made the
 * answer is the same.
 */
export function lacksSlots({ slots, walStatus }: RetainedWal, names: readonly string[]): boolean {
  return slots < names.length || walStatus === 'lost';
}

/** What a run says whose slots on blue are gone. */
export function slotsGone(feed: string, { walStatus }: RetainedWal): VerdigrisError {
  const how = walStatus === 'lost' ? 'was invalidated by its server' : 'was dropped';
  return new VerdigrisError({
    type: 'ReplicationBroken',
    message: `a slot of the feed ${feed} ${how}: what it had still to send is lost, and green can't catch up any more`,
    nextStep:
      'find out why (max_slot_wal_keep_size, idle_replication_slot_timeout, or somebody who dropped it); start again after the rollback',
  });
}

/** What retained WAL asks for, by the plan's limit. */
export type RetainedWalVerdict =
  /** Nothing. */
  | 'fine'
  /** People are told: from half of the limit on. */
  | 'warn'
  /** What makes WAL, or slows the feed down, pauses until it is less: from four fifths on. */
  | 'hold'
  /** The run is given up, before the disk of its server fills. */
  | 'abort';

const WARN_FROM = 0.5;
const HOLD_FROM = 0.8;

/** @param limit `replicate.maxRetainedWal` of the plan, bytes */
export function judgeRetainedWal(
  { bytes, transactions }: Pick<RetainedWal, 'bytes' | 'transactions'>,
  limit: number,
): RetainedWalVerdict {
  if (bytes >= limit || transactions >= TRANSACTIONS.abort) return 'abort';
  if (bytes >= limit * HOLD_FROM) return 'hold';
  return bytes >= limit * WARN_FROM || transactions >= TRANSACTIONS.warn ? 'warn' : 'fine';
}

/**
 * A server takes no writes any more some three million transactions before the oldest that it has not frozen is 2^31 ago
 * ("Preventing Transaction ID Wraparound Failures"). What is left at the limit has to do for the vacuum of the whole server.
 */
const TRANSACTIONS = { warn: 1_000_000_000, abort: 1_800_000_000 } as const;

/**
 * What is told from the first warning on.
 *
 * @param side whose slots they are
 * @param limit `replicate.maxRetainedWal` of the plan, bytes
 * @returns undefined where it is the WAL of which people are to be told
 */
export function describeHeldTransactions(
  side: Side,
  wal: RetainedWal,
  limit: number,
  atLimit: string,
): string | undefined {
  const { bytes, transactions } = wal;
  if (transactions < TRANSACTIONS.warn || bytes >= limit * WARN_FROM) return undefined;
  return `keeps vacuum on ${side} from freezing the rows of the last ${millions(transactions)} million transactions; at ${millions(TRANSACTIONS.abort)} million ${atLimit}, since at 2,147 million ${side} takes no writes any more`;
}

function millions(transactions: number): string {
  return Math.floor(transactions / 1_000_000).toLocaleString('en-US');
}

/** What a run that is given up for it says. */
export function retainedWalExceeded(feed: string, { bytes, transactions }: RetainedWal, limit: number): VerdigrisError {
  if (bytes < limit) {
    return new VerdigrisError({
      type: 'RetainedWalExceeded',
      message: `the feed ${feed} keeps vacuum from freezing the rows of the last ${millions(transactions)} million transactions: at 2,147 million its server would take no writes any more`,
      nextStep:
        'let autovacuum, or vacuumdb --all --freeze, bring down age(datfrozenxid) of that server; then start again with a copy that takes less time (bootstrap.parallel, pace), or with the bootstrap "standby", which holds no snapshot',
    });
  }
  return new VerdigrisError({
    type: 'RetainedWalExceeded',
    message: `the feed ${feed} holds back ${gigabytes(bytes)} of WAL; the plan allows ${gigabytes(limit)}`,
    nextStep: 'find out why the other side does not keep up; raise replicate.maxRetainedWal only if the disk has room',
  });
}

export function gigabytes(bytes: number): string {
  return `${(bytes / 2 ** 30).toFixed(1)} GB`;
}
