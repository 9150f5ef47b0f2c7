import type { Side } from '../side.js';

/** What happened, in a word that stays the same from version to version. */
export type RouterErrorCode =
  'OutcomeUnknown' | 'WriteMoved' | 'WriteTimeout' | 'TransactionAborted' | 'TransactionControl' | 'NotSupported';

/** An error of the router itself. Its message never holds a value, a statement or an address. */
export abstract class RouterError extends Error {
  abstract readonly code: RouterErrorCode;
}

/**
 * The connection was lost while a COMMIT or a single write was on its way: it may have been done or not. The router
 * never runs such a write again. Look whether it is there (on the side that has writes then), or make the write
 * idempotent and repeat it.
 */
export class CommitOutcomeUnknownError extends RouterError {
  override readonly name = 'CommitOutcomeUnknownError';
  readonly code = 'OutcomeUnknown';
  /** The side on which it was on its way. */
  readonly side: Side;
  /** The transaction's id there, if the server had told it: `SELECT pg_xact_status(id)` on that side knows the outcome. */
  readonly transactionId: string | undefined;

  constructor(side: Side, cause: unknown, transactionId?: string) {
    super(
      `the answer of ${side} to a commit was lost: it may have been done or not; look for what it wrote before you write it again`,
      { cause },
    );
    this.side = side;
    this.transactionId = transactionId;
  }
}

/**
 * A request met the fence and the router may not run it again by itself: a transaction with `retryTransactions: false`,
 * or a statement that may have committed parts of its work before (CALL, DO, several statements with a COMMIT).
 */
export class WriteMovedError extends RouterError {
  override readonly name = 'WriteMovedError';
  readonly code = 'WriteMoved';
  /** The side that writes have left. */
  readonly from: Side;
  /** False when earlier parts may have been committed: look what is there before the rest is done. */
  readonly nothingWasDone: boolean;

  constructor(from: Side, nothingWasDone: boolean, cause: unknown) {
    super(
      nothingWasDone
        ? `writes have left ${from}, and nothing of this transaction was done: run it again`
        : `writes have left ${from}; what this statement had committed by itself stays, the rest was not done: look, then run the rest`,
      { cause },
    );
    this.from = from;
    this.nothingWasDone = nothingWasDone;
  }
}

/** A request was held for `writeTimeoutMs` and no side took it. Nothing of it was done. */
export class WriteTimeoutError extends RouterError {
  override readonly name = 'WriteTimeoutError';
  readonly code = 'WriteTimeout';
  readonly heldMs: number;

  constructor(heldMs: number, cause: unknown) {
    super(`no side took the request within ${Math.round(heldMs)} ms; nothing was done, try again later`, { cause });
    this.heldMs = heldMs;
  }
}

/** COMMIT was answered by ROLLBACK: a statement inside the transaction had failed and its error was swallowed. */
export class TransactionAbortedError extends RouterError {
  override readonly name = 'TransactionAbortedError';
  readonly code = 'TransactionAborted';

  constructor(cause: unknown) {
    super('a statement of the transaction had failed, so the server rolled it back instead of committing it', {
      cause,
    });
  }
}

/** The transaction's control statements belong to the router. */
export class TransactionControlError extends RouterError {
  override readonly name = 'TransactionControlError';
  readonly code = 'TransactionControl';

  constructor(where: keyof typeof CONTROL) {
    super(CONTROL[where]);
  }
}

const CONTROL = {
  write: 'read() and write() take one statement that leaves no transaction open: use transaction()',
  transaction:
    "BEGIN, COMMIT and ROLLBACK of a transaction are the router's: return to commit, throw to roll back (savepoints are fine)",
  over: 'the transaction is over, its function has returned or thrown: await each statement in it',
};

/** What can't be moved from one side to the other, or needs a session of its own, is refused before it is sent. */
export class NotSupportedError extends RouterError {
  override readonly name = 'NotSupportedError';
  readonly code = 'NotSupported';

  constructor(what: string, instead: string) {
    super(`${what} can't go through the router: ${instead}`);
  }
}
