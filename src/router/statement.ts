import type pg from 'pg';
import type { Side } from '../side.js';
import { POSITION } from './blue-position.js';
import { CommitOutcomeUnknownError, TransactionControlError } from './errors.js';
import { isLinkFailure, NothingSent, wasNeverSent } from './failure.js';
import { parseLsn, type Lsn } from './lsn.js';

/** A statement as node-postgres takes it. */
export interface Statement {
  readonly query: string | pg.QueryConfig;
  readonly values: unknown[] | undefined;
}

/**
 * Whether a text may commit in its middle: a procedure, a DO block, or several statements with a COMMIT among them. What
 * was committed before it met the fence would be done twice if it were run again.
 */
export function mayCommitByItself({ query, values }: Statement): boolean {
  const text = typeof query === 'string' ? query : query.text;
  const bound = values !== undefined || (typeof query !== 'string' && query.values !== undefined);
  if (/^\s*(call|do)\b/i.test(text)) return true;
  return !bound && /;\s*\S/.test(text) && /\b(commit|end)\b/i.test(text);
}

/** Where a commit is in the log; `unknown` when it is not sure to be flushed there. */
export type CommitPosition = Lsn | 'unknown';

/** Sends one statement outside a transaction. */
export async function sendStatement<R extends pg.QueryResultRow>(
  client: pg.PoolClient,
  { query, values }: Statement,
): Promise<pg.QueryResult<R>> {
  try {
    const result = await client.query<R>(query, values);
    if (client.getTransactionStatus() === 'T') throw new TransactionControlError('write');
    return result;
  } catch (error) {
    throw wasNeverSent(error) ? new NothingSent(error) : error;
  }
}

/**
 * Sends one write outside a transaction.
 *
 * @throws CommitOutcomeUnknownError when the connection is lost while the write is on its way.
 */
export async function sendWrite<R extends pg.QueryResultRow>(
  client: pg.PoolClient,
  side: Side,
  statement: Statement,
  wantsPosition: boolean,
): Promise<{ result: pg.QueryResult<R>; position: CommitPosition | undefined }> {
  let result: pg.QueryResult<R>;
  try {
    result = await sendStatement<R>(client, statement);
  } catch (error) {
    throw isLinkFailure(error) ? new CommitOutcomeUnknownError(side, error) : error;
  }
  return { result, position: wantsPosition ? await positionOf(client) : undefined };
}

/** The write is done: whatever happens here is no reason to report it as failed. */
async function positionOf(client: pg.PoolClient): Promise<CommitPosition> {
  try {
    const { rows } = await client.query<{ lsn: string; commit: string }>(POSITION);
    const row = rows[0];
    return row === undefined || row.commit === 'off' ? 'unknown' : (parseLsn(row.lsn) ?? 'unknown');
  } catch {
    return 'unknown';
  }
}
