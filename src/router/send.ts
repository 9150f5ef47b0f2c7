import type pg from 'pg';

/**
 * Sends a statement by callback: node-postgres makes two promises of its own for each one otherwise. The stack of an
 * error leads back to the application, as it does with node-postgres.
 */
export async function send<R extends pg.QueryResultRow>(
  client: pg.ClientBase,
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

/** The same, for callers that see to the stack themselves. */
export function answerOf<R extends pg.QueryResultRow>(
  client: pg.ClientBase,
  query: string | pg.QueryConfig,
  values: unknown[] | undefined,
): Promise<pg.QueryResult<R>> {
  return new Promise((resolve, reject) => {
    const answered = (error: Error | null | undefined, result: pg.QueryResult<R>): void => {
      if (error) reject(error);
      else resolve(result);
    };
    if (values === undefined) client.query<R>(query, answered);
    else if (typeof query === 'string') client.query<R>(query, values, answered);
    else client.query<R>({ ...query, values }, answered);
  });
}
