import type { Session } from './session.js';
import { hasState } from './state.js';
import { systemIdentifier } from './system-identifier.js';

/*
 * PostgreSQL's own synchronization makes a slot of its own for each table, on the side that the feed reads. DROP
 * SUBSCRIPTION drops them where it reaches that server, and leaves them without a word where it does not and the
 * subscription has no slot name, as ours has not by then. They hold back WAL for good. So what they are named after is
 * written down on their side, before a subscription works: they are found there whatever has become of the subscriber.
 */

/** What the slots of one subscription's synchronization are named after. */
interface Subscriber {
  /** System identifier of the subscriber's server. */
  readonly system: string;
  /** Oid of the subscription. */
  readonly subscription: string;
}

/** Step of verdigris.progress: one row for each subscription that has been made on the other side. */
const STEP = 'subscriber';

/**
 * Writes down on the publisher which subscriptions there are on the subscriber, also one whose transaction goes on. Nothing
 * where no run owns the publisher, or where the role may not ask for the subscriber's identifier: by the rest of their
 * names others' slots would be taken for ours.
 *
 * @param names of the subscriptions
 */
export async function noteSubscribers(
  publisher: Session,
  subscriber: Session,
  names: readonly string[],
): Promise<void> {
  const system = await systemIdentifier(subscriber);
  if (system === null) return;
  const { rows } = await subscriber.query<Pick<Subscriber, 'subscription'>>(
    `SELECT oid::text AS subscription FROM pg_subscription
      WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND subname = ANY ($1)`,
    [names],
  );
  if (rows.length === 0 || !(await hasState(publisher))) return;
  await publisher.query(
    `INSERT INTO verdigris.progress (run_id, step, object, state, done)
     SELECT o.run_id, $1, s.subscription || ' of ' || s.system, to_jsonb(s), true
       FROM verdigris.owner o, jsonb_to_recordset($2::jsonb) AS s (system text, subscription text)
     ON CONFLICT DO NOTHING`,
    [STEP, JSON.stringify(rows.map((row): Subscriber => ({ system, ...row })))],
  );
}

/**
 * The slots in this database of the subscriptions that have been written down.
 *
 * @param runId that has made them. Default: any run
 */
export async function findSyncSlots(publisher: Session, runId?: string): Promise<string[]> {
  if (!(await hasState(publisher))) return [];
  const { rows } = await publisher.query<{ name: string }>(
    `SELECT slot_name::text AS name FROM pg_replication_slots s
      WHERE database = current_database()
        AND EXISTS (SELECT FROM verdigris.progress p WHERE p.step = $1 AND p.run_id = coalesce($2, p.run_id)
                       AND s.slot_name ~ format('^pg_%s_sync_[0-9]+_%s$', p.state ->> 'subscription', p.state ->> 'system'))
      ORDER BY 1`,
    [STEP, runId],
  );
  return rows.map(({ name }) => name);
}
