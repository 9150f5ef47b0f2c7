import { briefLock } from './brief-lock.js';
import { literal } from './identifier.js';
import { dropPublication } from './publication.js';
import { dropSlot } from './replication-slot.js';
import type { LockRetryOptions } from './retry.js';
import type { Session } from './session.js';
import { dropSubscription } from './subscription.js';

/*
 * What is there of a feed in a database, found by name: whatever ends a feed must find all of its streams, also those
 * that a run with another number of them has left.
 */

/** The subscriptions of a feed in this database. */
export function findSubscriptions(session: Session, feed: string): Promise<string[]> {
  return find(
    session,
    feed,
    `SELECT subname::text AS name FROM pg_subscription
      WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())`,
  );
}

/** A statement without parameters: the subscriptions of a feed in this database that are enabled. */
export function enabledSubscriptionsSql(feed: string): string {
  return `SELECT subname::text AS name FROM pg_subscription
           WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND subenabled
             AND (subname = ${literal(feed)} OR subname ~ ${literal(`^${feed}_[0-9]+$`)})`;
}

/** The slots of a feed in this database. */
export function findSlots(session: Session, feed: string): Promise<string[]> {
  return find(
    session,
    feed,
    'SELECT slot_name::text AS name FROM pg_replication_slots WHERE database = current_database()',
  );
}

/** The publications of a feed in this database. */
export function findPublications(session: Session, feed: string): Promise<string[]> {
  return find(session, feed, 'SELECT pubname::text AS name FROM pg_publication');
}

/** The feed's own name, or with the number of a further stream behind it: nothing of another migration. */
async function find(session: Session, feed: string, names: string): Promise<string[]> {
  const { rows } = await session.query<{ name: string }>(
    `SELECT name FROM (${names}) found WHERE name = $1 OR name ~ ('^' || $1 || '_[0-9]+$') ORDER BY length(name), name`,
    [feed],
  );
  return rows.map((row) => row.name);
}

/** @param patience for the locks of each. Default: 60 s */
export async function dropSubscriptions(session: Session, feed: string, patience?: LockRetryOptions): Promise<void> {
  for (const name of await findSubscriptions(session, feed)) await dropSubscription(session, name, patience);
}

/** @param patienceMs how long a walsender may hold a slot before it is ended. */
export async function dropSlots(session: Session, feed: string, patienceMs?: number): Promise<void> {
  for (const name of await findSlots(session, feed)) await dropSlot(session, name, patienceMs);
}

export async function dropPublications(session: Session, feed: string): Promise<void> {
  for (const name of await findPublications(session, feed)) {
    await briefLock(session, `DROP PUBLICATION ${name}`, () => dropPublication(session, name));
  }
}
