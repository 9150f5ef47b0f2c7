import { VerdigrisError } from '../errors.js';
import type { Session } from './session.js';

/**
 * A publication that is not there is a warning to PostgreSQL: the subscription is made all the same, with no table. So it is
 * where an address leads to another server than the publisher, such as `localhost`.
 *
 * @param name of a subscription that has been made to a publication with tables
 * @throws VerdigrisError ConnectionFailed (retryable)
 */
export async function refuseOtherPublisher(session: Session, name: string): Promise<void> {
  const { rowCount } = await session.query(
    `SELECT FROM pg_subscription_rel r JOIN pg_subscription s ON s.oid = r.srsubid
      WHERE s.subname = $1 AND s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()) LIMIT 1`,
    [name],
  );
  if (rowCount === 1) return;
  throw new VerdigrisError({
    type: 'ConnectionFailed',
    message:
      "what is published has no table where the subscriber's server looks for it: the address by which that server reaches the other one leads to another server, or to another database",
    nextStep:
      'set the VERDIGRIS_CONNECTION_..._PEER of the database that is published from (docs/connections.md) where the worker runs, and restart the worker',
    retryable: true,
  });
}
