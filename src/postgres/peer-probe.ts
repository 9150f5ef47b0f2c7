import { randomBytes } from 'node:crypto';
import { briefLock } from './brief-lock.js';
import { ident, literal } from './identifier.js';
import type { LockRetryOptions } from './retry.js';
import { runSecretStatement } from './secret-statement.js';
import { inTransaction, type Session } from './session.js';
import { refuseOtherPublisher } from './subscription.js';

/**
 * Whether the session's server reaches another one, tried with the very statement that the run uses: CREATE SUBSCRIPTION
 * logs in for replication while it runs. It makes no slot, the publication need not be there (that is a warning), and
 * its transaction is rolled back, so nothing is left behind.
 *
 * @param publication of the other one, with tables: then it is that one which must be reached. Default: any server
 * @throws the server's error when it does not; VerdigrisError LockNotHad (retryable) when it could not be tried;
 * ConnectionFailed (retryable) where another server is reached
 */
export async function probePeer(
  session: Session,
  conninfo: string,
  patience?: LockRetryOptions,
  publication?: string,
): Promise<void> {
  const probe = 'a subscription for a trial';
  await briefLock(session, probe, () => tryToReach(session, conninfo, publication), patience);
}

async function tryToReach(session: Session, conninfo: string, publication: string | undefined): Promise<void> {
  const name = `verdigris_probe_${randomBytes(6).toString('hex')}`;
  const probed = inTransaction(session, async () => {
    await runSecretStatement(
      session,
      `CREATE SUBSCRIPTION ${ident(name)} CONNECTION ${literal(conninfo)} PUBLICATION ${ident(publication ?? name)}
         WITH (connect = true, enabled = false, create_slot = false, slot_name = NONE, copy_data = false)`,
    );
    if (publication !== undefined) await refuseOtherPublisher(session, name);
    throw new Reached();
  });
  await probed.catch((error: unknown) => {
    if (!(error instanceof Reached)) throw error;
  });
}

/** Ends the transaction of a probe that has succeeded. */
class Reached extends Error {}
