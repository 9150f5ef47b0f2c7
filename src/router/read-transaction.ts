import type pg from 'pg';
import { doesMoreThanRead } from './besides-reading.js';
import { CommitOutcomeUnknownError } from './errors.js';
import { countsAgainstSide, isLinkFailure, mayBeGreens, NotForGreen, saidBySide, SideFailure } from './failure.js';
import { runTransaction, type IsolationLevel, type TransactionFunction } from './transaction.js';

/**
 * A transaction on green that fails after an error of the server's is run again by blue, which shows whose fault it was.
 * Nothing was written, so that is as safe as the function is to run twice. What fails without any is the function's own.
 * One that notifies or takes a lock is run again there too, whatever its function makes of that.
 */
export async function readTransactionOnGreen<T>(
  client: pg.PoolClient,
  isolation: IsolationLevel | undefined,
  work: TransactionFunction<T>,
): Promise<T> {
  let sideError: unknown;
  let notForGreen: NotForGreen | undefined;
  const watched: TransactionFunction<T> = (transaction) =>
    work({
      side: transaction.side,
      query: async (query, values) => {
        if (notForGreen === undefined && doesMoreThanRead(query)) notForGreen = new NotForGreen();
        if (notForGreen !== undefined) throw notForGreen;
        try {
          return await transaction.query(query, values);
        } catch (error) {
          if (mayBeGreens(error)) sideError = error;
          throw error;
        }
      },
    });
  try {
    const { value } = await runTransaction(client, 'green', { readOnly: true, isolation }, false, watched);
    if (notForGreen === undefined) return value;
  } catch (error) {
    if (notForGreen !== undefined && !isLinkFailure(saidBySide(error))) throw new SideFailure(notForGreen);
    // Nothing was written, so a COMMIT whose outcome is unknown is only one more failure of green.
    const said = saidBySide(error);
    const isGreens = countsAgainstSide(said) || error instanceof CommitOutcomeUnknownError;
    const cause = sideError ?? (isGreens ? said : undefined);
    throw cause === undefined ? error : new SideFailure(cause, error);
  }
  throw new SideFailure(notForGreen);
}
