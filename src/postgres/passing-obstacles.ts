import pg from 'pg';
import { VerdigrisError } from '../errors.js';
import type { Side } from '../side.js';
import { SILENCE_EVENT_TRIGGERS } from './event-triggers.js';
import { ident } from './identifier.js';
import { messageOf } from './migrate/step-failed.js';
import { probePeer } from './peer-probe.js';
import { withoutSecrets } from './scrub.js';
import { BEGIN, SHORT_STATEMENTS, withSession, type Databases, type Session } from './session.js';
import { CANCELED, isConnectionLost, isOutOfRoom } from './sqlstate.js';

/*
 * What keeps a feed from going on, and passes: a full disk, a link that is down. PostgreSQL says it in green's log only, and
 * counts it like the error of a row. So it is tried whether green has room and reaches blue before anything else is blamed.
 */

/** Of 1,900 characters, so that none is compressed or moved out of line: a megabyte. */
const ROWS = 600;

/**
 * Writes a little into each tablespace of green that has tables of the database, and takes it back. Into files of its own,
 * that nothing is left in a table; and past the WAL, of which a full disk has none to spare.
 *
 * @throws VerdigrisError SqlError (retryable) when there is no room for it.
 */
export async function refuseNoRoom(green: Session): Promise<void> {
  const { rows } = await green.query<{ tablespace: string }>(TABLESPACES);
  for (const { tablespace } of rows) {
    try {
      await green.query(BEGIN);
      await green.query(SILENCE_EVENT_TRIGGERS);
      await green.query(`CREATE UNLOGGED TABLE verdigris.room (filler text) TABLESPACE ${ident(tablespace)}`);
      await green.query(`INSERT INTO verdigris.room SELECT repeat('x', 1900) FROM generate_series(1, ${ROWS})`);
    } catch (error) {
      if (isOutOfRoom(error)) throw ranOut('green', 'the feed', error);
      if (isConnectionLost(error)) throw error;
      // What the role may not do there says nothing about room.
    } finally {
      await green.query('ROLLBACK').catch(() => undefined);
    }
  }
}

const TABLESPACES = `
  SELECT DISTINCT t.spcname AS tablespace
    FROM pg_database d
    JOIN pg_class c ON c.relkind IN ('r', 'i', 't', 'm') AND NOT c.relisshared
    JOIN pg_tablespace t ON t.oid = coalesce(nullif(c.reltablespace, 0), d.dattablespace)
   WHERE d.datname = current_database()
     AND (t.oid = d.dattablespace OR has_tablespace_privilege(t.oid, 'CREATE'))`;

/** An address that swallows packets must not keep anybody waiting for minutes. */
const REACH_WITHIN_MS = 10_000;

/**
 * Has green log in on blue as the workers of a subscription do: they need a connection each, and a WAL sender.
 *
 * @throws VerdigrisError ConnectionFailed (retryable) when it does not get through.
 */
export async function refuseNoLink({ blue, green }: Databases, signal: AbortSignal): Promise<void> {
  const options = { purpose: 'link probe', statementTimeoutMs: REACH_WITHIN_MS, ...SHORT_STATEMENTS };
  await withSession(green, options, async (session) => {
    try {
      await probePeer(session, blue.peerConninfo, { signal });
    } catch (error) {
      // Of green itself: it is away, or the probe could not be made, which says nothing about the link.
      if (!(error instanceof pg.DatabaseError)) {
        if (isConnectionLost(error)) throw error;
        return;
      }
      if (isConnectionLost(error) || error.code === CANCELED) throw notReached(error, { blue, green });
    }
  });
}

function notReached(cause: pg.DatabaseError, { blue, green }: Databases): VerdigrisError {
  const why =
    cause.code === CANCELED ? `no answer within ${REACH_WITHIN_MS / 1_000} s` : withoutSecrets(cause, [blue, green]);
  return new VerdigrisError({
    type: 'ConnectionFailed',
    message: `green does not reach blue: ${why}`,
    nextStep:
      'see to the network, to pg_hba.conf and max_wal_senders of blue, and to the address and password by which green reaches it; it is tried again',
    retryable: true,
    cause,
  });
}

/** @param what of the side has run out of something: a full disk, no memory */
export function ranOut(side: Side, what: string, cause: unknown): VerdigrisError {
  return new VerdigrisError({
    type: 'SqlError',
    message: `${side}: ${what} ran out of something: ${messageOf(cause)}`,
    nextStep: `give ${side} more of it; it goes on by itself`,
    retryable: true,
    cause,
  });
}
