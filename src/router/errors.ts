import type { Side } from '../side.js';

/** An error of the router itself. Its message never holds a value, a statement or an address. */
export class RouterError extends Error {
  override readonly name: string = 'RouterError';
}

/**
 * The connection was lost while a COMMIT or a single write was on its way: it may have been done or not. The router
 * never runs such a write again. Look whether it is there, or make the write idempotent and repeat it.
 */
export class CommitOutcomeUnknownError extends RouterError {
  override readonly name = 'CommitOutcomeUnknownError';

  constructor(
    readonly side: Side,
    cause: unknown,
  ) {
    super(
      `the connection to ${side} was lost while a commit was on its way: it may have been done or not; look for the row before you write it again`,
      { cause },
    );
  }
}

/** The transaction met the fence and `retryTransactions: false` forbids to run it again: run it again yourself. */
export class WriteMovedError extends RouterError {
  override readonly name = 'WriteMovedError';

  constructor(
    readonly from: Side,
    cause: unknown,
  ) {
    super(`writes have left ${from}, and nothing of this transaction was done: run it again`, { cause });
  }
}

/** A write was held for `writeTimeoutMs` and no side took it. Nothing of it was done. */
export class WriteTimeoutError extends RouterError {
  override readonly name = 'WriteTimeoutError';

  constructor(heldMs: number, cause: unknown) {
    super(`no side took the request within ${Math.round(heldMs)} ms; nothing was done, try again later`, { cause });
  }
}

/** COMMIT was answered by ROLLBACK: a statement inside the transaction had failed and its error was swallowed. */
export class TransactionAbortedError extends RouterError {
  override readonly name = 'TransactionAbortedError';

  constructor(cause: unknown) {
    super('a statement of the transaction had failed, so the server rolled it back instead of committing it', {
      cause,
    });
  }
}

/** The transaction's control statements belong to the router. */
export class TransactionControlError extends RouterError {
  override readonly name = 'TransactionControlError';

  constructor(where: 'write' | 'transaction') {
    super(
      where === 'write'
        ? 'read() and write() take one statement that leaves no transaction open: use transaction()'
        : "BEGIN, COMMIT and ROLLBACK of a transaction are the router's: return to commit, throw to roll back (savepoints are fine)",
    );
  }
}
