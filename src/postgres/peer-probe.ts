import { randomBytes } from 'node:crypto';
import { briefLock } from './brief-lock.js';
import { ident, literal } from './identifier.js';
import type { LockRetryOptions } from './retry.js';
import { inTransaction, type Session } from './session.js';

/** A superuser may switch the logging of statements off for a transaction; others are not asked. */
export const KEEP_STATEMENT_OUT_OF_LOG = `
  SELECT set_config(name, value, true)
    FROM (VALUES ('log_statement', 'none'), ('log_min_duration_statement', '-1'), ('log_min_error_statement', 'panic')) v (name, value)
   WHERE (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)`;

/**
 * Whether the session's server reaches another one, tried with the very statement that the run uses: CREATE SUBSCRIPTION
 * logs in for replication while it runs. It makes no slot, the publication need not be there (that is a warning), and
 * its transaction is rolled back, so nothing is left behind.
 *
 * @throws the server's error when it does not; VerdigrisError LockNotHad (retryable) when it could not be tried
 */
export async function probePeer(session: Session, conninfo: string, patience?: LockRetryOptions): Promise<void> {
  const probe = 'a subscription for a trial';
  await briefLock(session, probe, () => tryToReach(session, conninfo), patience);
}

async function tryToReach(session: Session, conninfo: string): Promise<void> {
  const name = `verdigris_probe_${randomBytes(6).toString('hex')}`;
  const probed = inTransaction(session, async () => {
    await session.query(KEEP_STATEMENT_OUT_OF_LOG);
    await session.query(
      `CREATE SUBSCRIPTION ${ident(name)} CONNECTION ${literal(conninfo)} PUBLICATION ${ident(name)}
         WITH (connect = true, enabled = false, create_slot = false, slot_name = NONE, copy_data = false)`,
    );
    throw new Reached();
  });
  await probed.catch((error: unknown) => {
    if (!(error instanceof Reached)) throw error;
  });
}

/** Ends the transaction of a probe that has succeeded. */
class Reached extends Error {}
