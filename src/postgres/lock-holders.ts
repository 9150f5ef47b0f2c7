import { VerdigrisError } from '../errors.js';
import { whoHolds } from './locks.js';
import type { Session } from './session.js';
import { NO_RIGHT, sqlState } from './sqlstate.js';

/*
 * Locks of ours by which one worker at a time acts: whoever is given the work ends the session that holds one, since that of a
 * worker that is frozen does so for as long as it lives. Anybody who can log in may take such a lock, too, also as a role
 * whose sessions ours may not end.
 */

/** Between two tries to end a session that may not be ended: each is an error in the server's log. */
export const REFUSED_PAUSE_MS = 1_000;

/**
 * Tells every other session that holds a lock to end. By plain statements, since replication connections take no others; one by
 * one, since one that may not be ended must not keep the others from it.
 *
 * @param which of pg_locks `l` and pg_stat_activity `a`
 * @returns how many hold it, and whether one of them is of a role whose sessions this one may not end
 */
export async function endHolders(session: Session, which: string): Promise<{ holders: number; refused: boolean }> {
  const held = `FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
                 WHERE ${which} AND l.granted AND l.pid <> pg_catalog.pg_backend_pid()`;
  const { rows } = await session.query<{ pid: number | string }>(`SELECT DISTINCT l.pid ${held}`);
  let refused = false;
  for (const { pid } of rows) {
    try {
      await session.query(`SELECT pg_catalog.pg_terminate_backend(l.pid) ${held} AND l.pid = ${Number(pid)}`);
    } catch (error) {
      if (sqlState(error) !== NO_RIGHT) throw error;
      refused = true;
    }
  }
  return { holders: rows.length, refused };
}

/** For when nobody lets go of a lock: who holds it, and what can be done. */
export async function notLetGo(session: Session, what: string, which: string): Promise<VerdigrisError> {
  return new VerdigrisError({
    type: 'LockNotHad',
    message: `${what} is held by another session, which does not end: ${await whoHolds(session, which)}`,
    nextStep:
      "it is tried again. Where that is no session of a worker, end it as its own user or a superuser: SELECT pg_terminate_backend(pid); GRANT pg_signal_backend TO the connection's user lets a worker end any that is no superuser's",
    retryable: true,
  });
}
