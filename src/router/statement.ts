import type pg from 'pg';
import type { Side } from '../side.js';
import { AS_TEXT } from './as-text.js';
import { POSITION } from './blue-position.js';
import { CommitOutcomeUnknownError, TransactionControlError } from './errors.js';
import { FenceMet, isLinkFailure, NothingSent, wasNeverSent } from './failure.js';
import { fencesMet } from './fence-notice.js';
import { firstWords, followSemicolon } from './first-words.js';
import { parseLsn, type Lsn } from './lsn.js';
import { hasSucceeded } from './recent-statements.js';
import type { RoutedResult } from './router.js';
import { answerOf } from './send.js';
import { refuseUnsupported } from './supported.js';

/** A statement as node-postgres takes it. */
export interface Statement {
  readonly query: string | pg.QueryConfig;
  readonly values: unknown[] | undefined;
}

const COMMITS = /(?:commit|end|prepare\s+transaction)\b/iy;

/** The same, found wherever it is. */
const COMMITS_ANYWHERE = /\b(?:commit|end|prepare\s+transaction)\b/gi;

const COMMITS_BY_ITSELF = /(?:call|do)\b/iy;

/**
 * Whether a text may commit in its middle: a procedure, a DO block, or several statements with a COMMIT among them. What
 * was committed before it met the fence would be done twice if it were run again.
 */
export function mayCommitByItself(statement: Statement): boolean {
  return firstWords(COMMITS_BY_ITSELF, textOf(statement.query)) !== null || hasSeveralWithCommit(statement);
}

/** Only a text without values can be several statements: the others are sent by the extended protocol. */
export function hasSeveralWithCommit(statement: Statement): boolean {
  return !hasValues(statement) && holdsCommit(textOf(statement.query));
}

/** Whether a statement has values to be bound. */
export function hasValues({ query, values }: Statement): boolean {
  const bound = values ?? (typeof query === 'string' ? undefined : query.values);
  return bound !== undefined && bound.length > 0;
}

/** A quoted `; commit` counts too: then something is not run again that could have been. */
function holdsCommit(text: string): boolean {
  return firstWords(COMMITS, text) !== null || followSemicolon(COMMITS_ANYWHERE, text);
}

/** Where a commit is in the log; `unknown` when it is not sure to be flushed there. */
export type CommitPosition = Lsn | 'unknown';

/**
 * Sends one statement outside a transaction.
 *
 * @throws NotSupportedError, TransactionControlError.
 * @throws FenceMet when the fence had refused its write, though a function swallowed that, or made another error of it.
 */
export async function sendStatement<R extends pg.QueryResultRow>(
  client: pg.PoolClient,
  side: Side,
  { query, values }: Statement,
): Promise<RoutedResult<R>> {
  refuseUnsupported(query);
  const fences = fencesMet(client);
  let result: pg.QueryResult<R>;
  try {
    result = await answerOf<R>(client, query, values);
  } catch (error) {
    if (error instanceof Error) Error.captureStackTrace(error);
    if (wasNeverSent(error)) throw new NothingSent(error);
    // It has failed as a whole, whatever a function has made of the fence's error.
    throw fencesMet(client) !== fences && !isLinkFailure(error) ? new FenceMet(error) : error;
  }
  if (client.getTransactionStatus() === 'T') throw new TransactionControlError('write');
  if (fencesMet(client) !== fences) throw new FenceMet(new Error('its error was swallowed on the server'), 'swallowed');
  hasSucceeded(client, query, values);
  return Object.assign(result, { side });
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
): Promise<{ value: RoutedResult<R>; position: CommitPosition | undefined }> {
  try {
    const value = await sendStatement<R>(client, side, statement);
    return { value, position: wantsPosition ? await positionOf(client) : undefined };
  } catch (error) {
    throw isLinkFailure(error) ? new CommitOutcomeUnknownError(side, error) : error;
  }
}

const POSITION_AS_TEXT = { text: POSITION, types: AS_TEXT };

/** The write is done: whatever happens here is no reason to report it as failed. */
async function positionOf(client: pg.PoolClient): Promise<CommitPosition> {
  try {
    const { rows } = await client.query<{ lsn: string; commit: string }>(POSITION_AS_TEXT);
    const row = rows[0];
    return row === undefined || row.commit === 'off' ? 'unknown' : (parseLsn(row.lsn) ?? 'unknown');
  } catch (error) {
    // The next statement on it would wait behind this one, and its outcome would be unknown.
    if (isLinkFailure(error)) client.connection.stream.destroy();
    return 'unknown';
  }
}

/** The text of a statement. */
export function textOf(query: string | pg.QueryConfig): string {
  return typeof query === 'string' ? query : query.text;
}
