import type pg from 'pg';
import type { Side } from '../side.js';
import { commit } from './commit.js';
import { TransactionAbortedError, TransactionControlError } from './errors.js';
import { FenceMet, FunctionFailure, isFence, isLinkFailure, NothingSent, timedOutAtFence } from './failure.js';
import { fencesMet } from './fence-notice.js';
import { firstWords } from './first-words.js';
import { hasSucceeded } from './recent-statements.js';
import { hasSeveralWithCommit, type CommitPosition } from './statement.js';
import { rememberingMisses } from './seen-texts.js';
import { answerOf } from './send.js';
import { refuseUnsupported } from './supported.js';

/** A transaction as the application's function sees it. */
export interface Transaction {
  /** The side that this run of the function is on. */
  readonly side: Side;
  /** Sends a statement; several at once are sent one after the other. */
  query<R extends pg.QueryResultRow = pg.QueryResultRow>(
    query: string | pg.QueryConfig,
    values?: unknown[],
  ): Promise<pg.QueryResult<R>>;
}

export type TransactionFunction<T> = (transaction: Transaction) => Promise<T>;

export interface TransactionMode {
  readonly readOnly: boolean;
  readonly isolation: IsolationLevel | undefined;
}

export type IsolationLevel = 'read committed' | 'repeatable read' | 'serializable';

const ISOLATION: Readonly<Record<IsolationLevel, string>> = {
  'read committed': 'ISOLATION LEVEL READ COMMITTED',
  'repeatable read': 'ISOLATION LEVEL REPEATABLE READ',
  serializable: 'ISOLATION LEVEL SERIALIZABLE',
};

/** Savepoints are the function's own; what begins or ends the transaction is not. */
const CONTROL =
  /(?:begin|start\s+transaction|commit|end|abort|prepare\s+transaction|rollback(?!\s+(?:(?:work|transaction)\s+)?to\b))\b/iy;

/** Whether a text begins or ends a transaction by its first words. */
const isControl = rememberingMisses((text) => firstWords(CONTROL, text) !== null);

/**
 * Runs the application's function in a transaction: BEGIN, the function, COMMIT; ROLLBACK when it throws.
 *
 * A statement that met the fence makes the whole transaction one that met it, even if its error was swallowed, by the
 * function or on the server: it must not commit on the side that writes have left.
 *
 * @throws FenceMet, NothingSent: nothing was done.
 * @throws TransactionAbortedError, TransactionControlError, CommitOutcomeUnknownError, and the errors of statements.
 * @throws FunctionFailure with what else the function throws.
 */
export async function runTransaction<T>(
  client: pg.PoolClient,
  side: Side,
  mode: TransactionMode,
  wantsPosition: boolean,
  work: TransactionFunction<T>,
): Promise<{ value: T; position: CommitPosition | undefined }> {
  await begin(client, mode);
  const transaction = new OpenTransaction(client, side);
  let value: T;
  try {
    value = await work(transaction);
    await transaction.finish();
  } catch (error) {
    await transaction.finish();
    // Without a statement that succeeded since, the transaction has failed.
    const waited = transaction.timeoutAtFence;
    await rollback(client, transaction.lastError);
    const { obstacle } = transaction;
    if (obstacle === undefined && waited !== undefined) throw new FenceMet(waited.error, 'waited', waited.since);
    if (obstacle === undefined || (obstacle instanceof TransactionAbortedError && !isLinkFailure(error)))
      throw transaction.failureBy(error);
    throw obstacle;
  }
  const { obstacle } = transaction;
  if (obstacle !== undefined) {
    await rollback(client);
    throw obstacle;
  }
  try {
    return { value, position: await commit(client, side, wantsPosition, transaction.lastError) };
  } catch (error) {
    await rollback(client, error);
    throw error;
  }
}

async function begin(client: pg.PoolClient, { isolation, readOnly }: TransactionMode): Promise<void> {
  const words = `BEGIN${isolation === undefined ? '' : ` ${ISOLATION[isolation]}`}${readOnly ? ' READ ONLY' : ''}`;
  try {
    await answerOf(client, words, undefined);
  } catch (error) {
    throw isLinkFailure(error) ? new NothingSent(error) : error;
  }
}

/**
 * Nobody waits for the outcome of a ROLLBACK: a connection on which it failed is not used again. Nor is one that has
 * failed before, whose server would have to be found silent a second time.
 */
async function rollback(client: pg.PoolClient, why?: unknown): Promise<void> {
  if (client.getTransactionStatus() === 'I' || isLinkFailure(why)) return;
  await client.query('ROLLBACK').catch(() => undefined);
}

class OpenTransaction implements Transaction {
  readonly side: Side;
  readonly #client: pg.PoolClient;
  readonly #fencesBefore: number;
  /** Until the statements that were sent are answered; undefined while there are none. */
  #tail: Promise<unknown> | undefined;
  #isOver = false;
  /** The fence's error, once a statement has met it. */
  #fence: unknown;
  /** A statement has ended the transaction, or may have: what it did before is not the router's to undo or repeat. */
  #hasEscaped = false;
  /** The last error of a statement. */
  lastError: unknown;
  /** The errors of statements, once there is one. */
  #errors: WeakSet<Error> | undefined;
  /** The statement that did not wait at the fence, and when it was sent; none once the function has gone on after it. */
  timeoutAtFence: { readonly error: Error; readonly since: number } | undefined;

  constructor(client: pg.PoolClient, side: Side) {
    this.#client = client;
    this.side = side;
    this.#fencesBefore = fencesMet(client);
  }

  /** Why this transaction can't be committed, whatever the function made of it. */
  get obstacle(): Error | undefined {
    // The connection is gone and so is the transaction, whether the function minded or not.
    if (isLinkFailure(this.lastError)) return new TransactionAbortedError(this.lastError);
    const metFence = this.#fence !== undefined || fencesMet(this.#client) !== this.#fencesBefore;
    if (this.#hasEscaped) return new TransactionControlError('transaction');
    return metFence ? new FenceMet(this.#fence ?? new Error('its error was swallowed on the server')) : undefined;
  }

  /**
   * What it means that the function has thrown this: the error of a statement is the server's, as is what the function has
   * wrapped it in; anything else is the function's own, and its connection is lost only if a statement has found it so.
   */
  failureBy(thrown: unknown): unknown {
    if (this.#isOfStatement(thrown)) return thrown;
    if (isLinkFailure(this.lastError)) return new FunctionFailure(thrown, this.lastError);
    const cause = thrown instanceof Error && this.#isOfStatement(thrown.cause) ? thrown.cause : undefined;
    return new FunctionFailure(thrown, cause);
  }

  #isOfStatement(error: unknown): boolean {
    return error instanceof Error && this.#errors?.has(error) === true;
  }

  query<R extends pg.QueryResultRow>(query: string | pg.QueryConfig, values?: unknown[]): Promise<pg.QueryResult<R>> {
    const before = this.#tail;
    const result =
      before === undefined ? this.#send<R>(query, values) : before.then(() => this.#send<R>(query, values));
    const settled = (): void => {
      if (this.#tail === tail) this.#tail = undefined;
    };
    const tail = result.then(settled, settled);
    this.#tail = tail;
    return result;
  }

  /** Waits for the statements that the function did not wait for, if there are any; later ones are refused. */
  finish(): Promise<void> | undefined {
    if (this.#tail !== undefined) return this.#tail.then(() => this.#close());
    this.#close();
    return undefined;
  }

  #close(): void {
    this.#isOver = true;
  }

  async #send<R extends pg.QueryResultRow>(
    query: string | pg.QueryConfig,
    values: unknown[] | undefined,
  ): Promise<pg.QueryResult<R>> {
    refuseUnsupported(query);
    const text = typeof query === 'string' ? query : query.text;
    if (this.#isOver) throw new TransactionControlError('over');
    if (this.#hasEscaped || isControl(text)) throw new TransactionControlError('transaction');
    const since = performance.now();
    try {
      const result = await answerOf<R>(this.#client, query, values);
      if (hasControl(result) || this.#client.getTransactionStatus() === 'I') {
        this.#hasEscaped = true;
        throw new TransactionControlError('transaction');
      }
      this.timeoutAtFence = undefined;
      hasSucceeded(this.#client, query, values);
      return result;
    } catch (error) {
      if (error instanceof Error) {
        Error.captureStackTrace(error);
        this.#errors ??= new WeakSet();
        this.#errors.add(error);
      }
      this.lastError = error;
      if (isFence(error)) this.#fence = error;
      if (error instanceof Error && timedOutAtFence(error)) this.timeoutAtFence = { error, since };
      // A COMMIT may have come before what failed, and a BEGIN between them.
      const isOut = this.#client.getTransactionStatus() === 'I' && !isLinkFailure(error);
      if (isOut || (isFence(error) && hasSeveralWithCommit({ query, values }))) this.#hasEscaped = true;
      throw error;
    }
  }
}

/** As node-postgres tells them: their first words. */
const CONTROL_TAGS = new Set(['BEGIN', 'START', 'COMMIT', 'PREPARE']);

/** Several statements in one text give several results; one of them may have ended the transaction, and begun another. */
function hasControl(result: pg.QueryResult | pg.QueryResult[]): boolean {
  return Array.isArray(result) && result.some(({ command }) => CONTROL_TAGS.has(command));
}
