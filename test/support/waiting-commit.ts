import type pg from 'pg';
import { untilRow } from './wait-for-row.js';

const WAITS = 'test lets commits wait';

/**
 * Has the transaction that moves the writes wait in its COMMIT on this side, for as long as the session lives: what it has done
 * beside MVCC, as to the flag of the fence, is there. In schema verdigris, so that nothing of it stays.
 */
export async function letCommitWait(session: pg.Client): Promise<void> {
  await session.query(`
    SET application_name = '${WAITS}';
    CREATE FUNCTION verdigris.test_wait() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      IF EXISTS (SELECT FROM pg_stat_activity WHERE application_name = '${WAITS}') THEN PERFORM pg_sleep(60); END IF;
      RETURN NULL;
    END $$;
    CREATE CONSTRAINT TRIGGER test_wait AFTER UPDATE OF writes_on ON verdigris.route
      DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION verdigris.test_wait()`);
}

/** Until a transaction waits there; what it has done so far is on the disk then, and a crash would keep its WAL. */
export async function untilCommitWaits(session: pg.Client): Promise<void> {
  await untilRow(
    session,
    `SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'verdigris promotion'
                                    AND wait_event = 'PgSleep'`,
  );
  // A COMMIT flushes whatever was written before it.
  await session.query("SELECT pg_logical_emit_message(true, 'test', 'flush')");
}
