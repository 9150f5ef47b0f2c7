import pg from 'pg';
import { isFatal, rememberAsLost } from './failure.js';

/**
 * Sends a statement by callback: node-postgres makes two promises of its own for each one otherwise. The stack of an
 * error leads back to the application, as it does with node-postgres.
 */
export async function send<R extends pg.QueryResultRow>(
  client: pg.Client,
  query: string | pg.QueryConfig,
  values: unknown[] | undefined,
): Promise<pg.QueryResult<R>> {
  try {
    return await answerOf<R>(client, query, values);
  } catch (error) {
    if (error instanceof Error) Error.captureStackTrace(error);
    throw error;
  }
}

/**
 * The same, for callers that see to the stack themselves. After an error of the server's it waits until the server is
 * ready for the next statement, since only that tells whether a transaction is open now; for 2 s at most, then the
 * connection is ended.
 */
export function answerOf<R extends pg.QueryResultRow>(
  client: pg.Client,
  query: string | pg.QueryConfig,
  values: unknown[] | undefined,
): Promise<pg.QueryResult<R>> {
  return new Promise((resolve, reject) => {
    const answered = (error: Error | null | undefined, result: pg.QueryResult<R>): void => {
      if (!error) resolve(result);
      else rejectWhenReady(client, error, reject);
    };
    if (values === undefined) client.query<R>(query, answered);
    else if (typeof query === 'string') client.query<R>(query, values, answered);
    else client.query<R>({ ...query, values }, answered);
  });
}

/** Rejects with what a statement has failed with: see {@link answerOf}. */
export function rejectWhenReady(client: pg.Client, error: Error, reject: (error: Error) => void): void {
  if (!(error instanceof pg.DatabaseError) || isFatal(error)) return reject(error);
  whenReady(client, (isReady) => {
    // FATAL and PANIC have names of their own in other languages.
    if (!isReady && error.severity !== 'ERROR') rememberAsLost(error);
    reject(error);
  });
}

/**
 * How long a server may take from its error until it is ready. It rolls back between them, which is quick; but a link may
 * swallow packets from there on, and the query_timeout of node-postgres is over with the error.
 */
const READY_MS = 2_000;

/**
 * Calls back when the server says that it is ready, which may come in a later packet than its error; or is gone. One that
 * says neither is not asked again: its connection is ended.
 */
function whenReady({ connection }: pg.Client, callback: (isReady: boolean) => void): void {
  const silent = setTimeout(() => connection.stream.destroy(), READY_MS).unref();
  const ready = (): void => settle(true);
  const ended = (): void => settle(false);
  const settle = (isReady: boolean): void => {
    clearTimeout(silent);
    connection.off('readyForQuery', ready);
    connection.off('end', ended);
    callback(isReady);
  };
  connection.on('readyForQuery', ready);
  connection.on('end', ended);
}
