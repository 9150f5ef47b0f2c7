import type { Session } from '../session.js';
import { readSubscription, type SubscriptionState } from '../subscription.js';
import { findSyncSlots } from '../sync-slots.js';
import type { Subscriber } from './inventory.js';

export interface SlotFound {
  readonly name: string;
  readonly active: boolean;
  /** WAL that it holds back on its server. */
  readonly retainedBytes: number;
  readonly walStatus: string | null;
  /** `tablesync`: made by PostgreSQL itself for the first synchronization of a table of our subscription. */
  readonly origin: 'run' | 'tablesync';
}

export interface SubscriptionFound extends SubscriptionState {
  readonly name: string;
}

/** What replication needs, by the prefix `verdigris_` that every object of a feed has, whatever its number of streams. */
export interface ReplicationObjects {
  readonly publications: readonly { readonly name: string; readonly tables: number }[];
  readonly slots: readonly SlotFound[];
  readonly subscriptions: readonly SubscriptionFound[];
  /** Replication origins of our subscriptions: how far each has applied since it was made. PostgreSQL drops them with the subscription. */
  readonly origins: readonly { readonly name: string; readonly subscription: string; readonly position: string }[];
}

export async function readReplication(
  session: Session,
  otherSystem: () => Promise<Subscriber | null>,
): Promise<ReplicationObjects> {
  const publications = await session.query<{ name: string; tables: number }>(
    `SELECT p.pubname AS name, (SELECT count(*)::int FROM pg_publication_rel r WHERE r.prpubid = p.oid) AS tables
       FROM pg_publication p WHERE p.pubname LIKE 'verdigris\\_%' ORDER BY 1`,
  );
  const origins = await session.query<{ name: string; subscription: string; position: string }>(
    `SELECT o.roname AS name, s.subname AS subscription,
            coalesce(pg_replication_origin_progress(o.roname, false)::text, 'the beginning') AS position
       FROM pg_subscription s JOIN pg_replication_origin o ON o.roname ~ ('^pg_' || s.oid || '(_|$)')
      WHERE s.subname LIKE 'verdigris\\_%' AND s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
      ORDER BY 2, 1`,
  );
  return {
    publications: publications.rows,
    slots: await readSlots(session, otherSystem),
    subscriptions: await readSubscriptions(session),
    origins: origins.rows,
  };
}

async function readSubscriptions(session: Session): Promise<SubscriptionFound[]> {
  const { rows } = await session.query<{ name: string }>(
    `SELECT subname AS name FROM pg_subscription
      WHERE subname LIKE 'verdigris\\_%' AND subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
      ORDER BY 1`,
  );
  const found: SubscriptionFound[] = [];
  for (const { name } of rows) {
    const state = await readSubscription(session, name);
    if (state !== undefined) found.push({ name, ...state });
  }
  return found;
}

/** pg_<oid of the subscription>_sync_<oid of the table>_<system identifier of the subscriber>. */
const SYNC_SLOT = /^pg_(\d+)_sync_\d+_(\d+)$/;

async function readSlots(session: Session, otherSystem: () => Promise<Subscriber | null>): Promise<SlotFound[]> {
  const { rows } = await session.query<{ name: string; active: boolean; retained: string; wal_status: string | null }>(
    `SELECT slot_name AS name, active, wal_status,
            coalesce(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                                          ELSE pg_current_wal_insert_lsn() END, restart_lsn), 0)::bigint::text AS retained
       FROM pg_replication_slots
      WHERE database = current_database() AND (slot_name LIKE 'verdigris\\_%' OR slot_name ~ '^pg_[0-9]+_sync_')
      ORDER BY 1`,
  );
  const hasSyncs = rows.some(({ name }) => SYNC_SLOT.test(name));
  const syncs = hasSyncs ? await otherSystem() : null;
  const writtenDown = new Set(hasSyncs ? await findSyncSlots(session) : []);
  return rows.flatMap((row) => {
    const sync = SYNC_SLOT.exec(row.name);
    if (sync !== null && !isOurs(sync, syncs) && !writtenDown.has(row.name)) return [];
    const origin = sync === null ? ('run' as const) : ('tablesync' as const);
    const { name, active, retained, wal_status: walStatus } = row;
    return [{ name, active, retainedBytes: Number(retained), walStatus, origin }];
  });
}

/** Of a subscription of ours on the other side, or of one that is gone from its server. */
function isOurs(sync: RegExpExecArray, subscriber: Subscriber | null): boolean {
  if (subscriber === null || sync[2] !== subscriber.system) return false;
  const subscription = Number(sync[1]);
  return subscriber.ours.includes(subscription) || !subscriber.all.includes(subscription);
}
