import pg from 'pg';
import type { Side } from '../side.js';
import { IN_FAILED_TRANSACTION, sqlState } from '../postgres/sqlstate.js';
import { AS_TEXT } from './as-text.js';
import { CommitOutcomeUnknownError, TransactionAbortedError } from './errors.js';
import { isLinkFailure, wasNeverSent } from './failure.js';
import { parseLsn } from './lsn.js';
import { answerOf, rejectWhenReady } from './send.js';
import type { CommitPosition } from './statement.js';

/**
 * Commits, and says where the commit is in the log when that is wanted.
 *
 * @param cause the last error of a statement, if any: what aborted the transaction when the server rolls it back.
 * @throws TransactionAbortedError when the server answers COMMIT with ROLLBACK, or the connection was gone before it.
 * @throws CommitOutcomeUnknownError when the connection is lost while COMMIT is on its way.
 */
export async function commit(
  client: pg.PoolClient,
  side: Side,
  wantsPosition: boolean,
  cause: unknown,
): Promise<CommitPosition | undefined> {
  const facts: CommitFacts = {};
  try {
    if (wantsPosition) return await commitWithPosition(client, facts);
    const { command } = await answerOf(client, 'COMMIT', undefined);
    if (command !== 'COMMIT') throw new TransactionAbortedError(cause);
    return undefined;
  } catch (error) {
    if (sqlState(error) === IN_FAILED_TRANSACTION) throw new TransactionAbortedError(cause ?? error);
    // The connection was known to be dead, and the transaction with it: there is no doubt about a COMMIT that was not sent.
    if (wasNeverSent(error)) throw new TransactionAbortedError(cause ?? error);
    throw isLinkFailure(error) ? new CommitOutcomeUnknownError(side, error, facts.xid ?? undefined) : error;
  }
}

/**
 * One message, one round trip. The setting is asked for before COMMIT, which ends a SET LOCAL; the position after it,
 * when the commit is flushed; the transaction's id, for a caller who has to find out what happened.
 */
const COMMIT = `
  SELECT pg_catalog.current_setting('synchronous_commit') AS commit, pg_catalog.txid_current_if_assigned()::text AS xid;
  COMMIT;
  SELECT pg_catalog.pg_current_wal_flush_lsn()::text AS lsn`;

/** What the server has said so far. */
interface CommitFacts {
  commit?: string;
  xid?: string | null;
  lsn?: string;
  isDone?: boolean;
}

async function commitWithPosition(client: pg.PoolClient, facts: CommitFacts): Promise<CommitPosition> {
  try {
    await sendCommit(client, facts);
  } catch (error) {
    // What becomes of the statement after COMMIT must not make a committed transaction look like a failed one.
    if (facts.isDone === true) return 'unknown';
    throw error;
  }
  const lsn = facts.lsn === undefined ? undefined : parseLsn(facts.lsn);
  return facts.commit === 'off' || lsn === undefined ? 'unknown' : lsn;
}

/** Takes in each row and each answer as it comes, also those before an error; all as texts. */
function sendCommit(client: pg.PoolClient, facts: CommitFacts): Promise<void> {
  const { connection } = client;
  const completed = ({ text }: { readonly text: string }): void => {
    if (text === 'COMMIT') facts.isDone = true;
  };
  connection.on('commandComplete', completed);
  return new Promise((resolve, reject) => {
    const query = new pg.Query({ text: COMMIT, types: AS_TEXT }, (error) => {
      connection.off('commandComplete', completed);
      if (error) rejectWhenReady(client, error, reject);
      else resolve();
    });
    query.on('row', (row: object) => Object.assign(facts, row));
    client.query(query);
  });
}
