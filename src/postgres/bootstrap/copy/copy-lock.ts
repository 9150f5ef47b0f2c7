import { setTimeout as sleep } from 'node:timers/promises';
import { endHolders, notLetGo, REFUSED_PAUSE_MS } from '../../lock-holders.js';
import { closeSession, type Session } from '../../session.js';

/*
 * Who copies holds an advisory lock, on each server that it uses, for as long as its session lives, and so does whoever
 * changes green's schema. A worker that is frozen holds it, too; the activity has been given to us, so the sessions that
 * still hold it are ended.
 */

/** First key of the locks: `verd` in ASCII. The second one is the number of the parcel, or one of those below. */
const SPACE = 0x76_65_72_64;
/** Parcels count from 0. */
export const HOLDER_LOCK = -1;
export const FOLLOW_LOCK = -2;
/** Shared: of whoever watches over snapshots that an earlier attempt holds. */
const WATCHER_LOCK = -3;
/** Of whoever changes green's schema for the run: see migrate/step-lock.ts. */
export const STEP_LOCK = -4;
/** Shared: of the sessions in which such a step builds indexes. */
export const BUILDER_LOCK = -5;
/** Of the replication connection of stream 1; -11 of stream 2 and so on. */
export const STREAM_LOCK = -10;

/**
 * Takes the lock for the session, from whoever has it. Sends plain statements only: replication connections take no others.
 *
 * @throws VerdigrisError LockNotHad (retryable) when a session holds it that may not be ended
 */
export async function takeOver(session: Session, number: number, signal: AbortSignal): Promise<void> {
  for (;;) {
    signal.throwIfAborted();
    const { rows } = await session.query<{ held: boolean }>(
      `SELECT pg_catalog.pg_try_advisory_lock(${SPACE}, ${number}) AS held`,
    );
    if (isTrue(rows[0]?.held)) return;
    await endOthers(session, isHeld(number));
    await sleep(50);
  }
}

/**
 * Tells all others to end that hold locks of this kind.
 *
 * @param which of pg_locks `l` and pg_stat_activity `a`
 * @returns how many they are
 * @throws VerdigrisError LockNotHad (retryable) when one of them may not be ended, and is there a second later
 */
export async function endOthers(session: Session, which: string): Promise<number> {
  const { holders, refused } = await endHolders(session, which);
  if (!refused) return holders;
  await sleep(REFUSED_PAUSE_MS);
  const again = await endHolders(session, which);
  if (again.refused)
    throw await notLetGo(session, 'a lock by which one worker at a time copies, or changes the schema,', which);
  return again.holders;
}

/** Takes the lock for the session, beside others that hold it in shared mode. */
export async function share(session: Session, number: number): Promise<void> {
  await session.query(`SELECT pg_advisory_lock_shared(${SPACE}, ${number})`);
}

/** Of pg_locks `l`: that lock, held by somebody. */
export function isHeld(number: number): string {
  return inOurSpace(`l.objid::bigint = ${number} & 4294967295`);
}

/** Shows whoever holds the snapshots, for as long as the session lives, that somebody goes on with them. */
export async function showWatching(session: Session): Promise<void> {
  await share(session, WATCHER_LOCK);
}

export async function isWatched(session: Session): Promise<boolean> {
  const { rowCount } = await session.query(`SELECT FROM pg_locks l WHERE ${isHeld(WATCHER_LOCK)}`);
  return rowCount !== 0;
}

/** Ends every session in this database that copies a parcel. One that may not be ended is nobody's who copies for this run. */
export async function endParcels(session: Session): Promise<void> {
  await endHolders(session, inOurSpace('l.objid::bigint < 2147483648'));
}

/** Closes a session and waits until the server has really ended it: what it had begun is rolled back then. */
export async function endSession(watch: Session, session: Session, pid: number): Promise<void> {
  await closeSession(session);
  await watch
    .query(
      `SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE pid = $1 AND application_name LIKE 'verdigris copy%'`,
      [pid],
    )
    .catch(() => undefined);
}

/** Of pg_locks `l`: held locks of a copy in this database. */
function inOurSpace(which: string): string {
  return `l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted
             AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
             AND l.classid::bigint = ${SPACE} AND ${which}`;
}

/** A replication connection gives everything as text. */
function isTrue(value: unknown): boolean {
  return value === true || value === 't';
}
