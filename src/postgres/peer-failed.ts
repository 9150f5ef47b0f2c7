import pg from 'pg';
import { VerdigrisError } from '../errors.js';
import { otherSide } from '../side.js';
import { withoutSecrets } from './scrub.js';
import { connectionVariable, type Database } from './session.js';

/**
 * What a server says of a statement with which it logs in to the other one, fit for histories and logs: libpq quotes hosts,
 * addresses and users. It is tried again, also after a refused login: by its SQLSTATE it is a connection that failed.
 *
 * @param peer the database that was to be reached
 */
export function peerFailed(error: unknown, peer: Database): unknown {
  if (!(error instanceof pg.DatabaseError)) return error;
  const why = withoutSecrets(error, [peer]).replace(/^subscription "[^"]*" /, '');
  if (!isConnectionFailure(error)) {
    error.message = why;
    return error;
  }
  const variable = `VERDIGRIS_CONNECTION_${connectionVariable(peer.connection)}`;
  return new VerdigrisError({
    type: 'ConnectionFailed',
    message: `the server of ${otherSide(peer.side)} can't reach ${peer.side} by the connection "${peer.connection}": ${why} (${error.code})`,
    nextStep: `let ${peer.side}'s pg_hba.conf and firewall admit it; if host, user or password have changed, mend ${variable} or ${variable}_PEER where the worker runs, and restart it`,
    retryable: true,
    cause: error,
  });
}

/** Whether a server has told that it could not reach another one: it may be away, or somebody must let it in. */
export function isPeerFailure(error: unknown): boolean {
  return error instanceof VerdigrisError && error.type === 'ConnectionFailed' && isConnectionFailure(error.cause);
}

function isConnectionFailure(error: unknown): error is pg.DatabaseError & { readonly code: string } {
  return error instanceof pg.DatabaseError && error.code?.startsWith('08') === true;
}
