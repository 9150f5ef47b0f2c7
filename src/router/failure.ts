import pg from 'pg';
import { FENCE_ERROR } from '../postgres/state.js';
import {
  CANCELED,
  COMPLETION_UNKNOWN,
  isConnectionLost,
  isRaisedByStatement,
  LOCK_NOT_AVAILABLE,
  READ_ONLY,
  sqlState,
  TOO_MANY_CONNECTIONS,
} from '../postgres/sqlstate.js';
import { TransactionAbortedError } from './errors.js';

/*
 * What an error means to the router. The SQLSTATE decides, or node-postgres' wording where it gives no code.
 */

/** The write met the fence: nothing of it was done, and it belongs to the other side. */
export function isFence(error: unknown): boolean {
  return (
    error instanceof pg.DatabaseError &&
    (error.code === READ_ONLY || error.code === CANCELED) &&
    error.schema === FENCE_ERROR.schema &&
    error.constraint === FENCE_ERROR.constraint
  );
}

/**
 * The application's own lock_timeout or statement_timeout ended the wait at the fence, while a promotion held it: nothing
 * of the statement was done, and its transaction has written nothing, since one that has written does not wait there.
 *
 * PostgreSQL names the functions in which an error came up, in any language; that a statement_timeout ended it, and
 * nobody by hand, it says in English only.
 */
export function timedOutAtFence(error: unknown): boolean {
  if (!(error instanceof pg.DatabaseError) || error.where?.includes(`${FENCE_ERROR.schema}.fence_check()`) !== true)
    return false;
  return error.code === LOCK_NOT_AVAILABLE || (error.code === CANCELED && error.message.includes('statement timeout'));
}

/** The connection is of no use any more, and what was in flight on it may have been done or not. */
export function isLinkFailure(error: unknown): boolean {
  return hasLostConnection(error) || saysLinkIsDown(error);
}

/** Whether code or wording say so. */
function saysLinkIsDown(error: unknown): boolean {
  if (isRaisedByStatement(error)) return false;
  if (error instanceof LinkDownError || isConnectionLost(error) || sqlState(error) === COMPLETION_UNKNOWN) return true;
  return isOfClient(error) && /Query read timeout|Client was closed and is not queryable/.test(error.message);
}

/** What was seen to end its connection, or to keep it from being opened. */
const LOST = new WeakSet<object>();

/** Remembers that an error has cost its connection: of TLS, of a socket, of a server; no list knows all of them. */
export function rememberAsLost(error: unknown): void {
  if (error instanceof Error) LOST.add(error);
}

/**
 * A server that can't flush the record of a COMMIT, say, panics with the SQLSTATE of its disk, and may find the record
 * when it recovers.
 */
function hasLostConnection(error: unknown): boolean {
  return error instanceof Error && (isFatal(error) || LOST.has(error));
}

const FATAL: ReadonlySet<string | undefined> = new Set(['FATAL', 'PANIC']);

/** Whether the server ends the connection after this error, as far as its words tell: they are in the server's language. */
export function isFatal(error: Error): boolean {
  return error instanceof pg.DatabaseError && FATAL.has(error.severity);
}

/** The statement never left this process. */
export function wasNeverSent(error: unknown): boolean {
  return isOfClient(error) && /is not queryable/.test(error.message);
}

/** Whether node-postgres itself may have worded it, and not the server or a RAISE there. */
function isOfClient(error: unknown): error is Error {
  return error instanceof Error && !(error instanceof pg.DatabaseError);
}

/** The connection could not be opened, and trying again can help: not for a wrong password. */
export function canConnectLater(error: unknown): boolean {
  // Whatever a server says to a login is FATAL.
  return saysLinkIsDown(error) || isOfConnect(error) || sqlState(error) === TOO_MANY_CONNECTIONS;
}

/** Whether the system could not open a connection, for whatever reason: of a Unix socket's server that is down, ENOENT. */
function isOfConnect(error: unknown): boolean {
  return error instanceof Error && 'syscall' in error && error.syscall === 'connect';
}

/** SQLSTATE classes of errors that a statement's own data causes as a rule: data, constraints, RAISE. */
const OWN_CLASSES = new Set(['22', '23', 'P0']);

/**
 * Whether the application's own statement caused the error, as far as one side can tell. A view, a function or a cast
 * that is broken on one side raises the same classes: of a read on green only blue's answer tells.
 */
export function isStatementsOwn(error: unknown): boolean {
  return error instanceof pg.DatabaseError && OWN_CLASSES.has((error.code ?? '').slice(0, 2));
}

/** Whether the error counts against the side: not what the statement or the application's own code caused. */
export function countsAgainstSide(error: unknown): boolean {
  if (error instanceof FunctionFailure) return countsAgainstSide(error.cause);
  if (error instanceof pg.DatabaseError) return !isStatementsOwn(error);
  return isLinkFailure(error) || error instanceof NothingSent;
}

/** Whether a read that failed so on green may do better on blue: whatever a server says of a statement, and its silence. */
export function mayBeGreens(error: unknown): boolean {
  return error instanceof pg.DatabaseError || countsAgainstSide(error);
}

/** Whether two errors are the same one on two sides: then the statement is wrong, not a side. */
export function isSameFailure(one: unknown, other: unknown): boolean {
  if (isLinkFailure(saidBySide(one)) || isLinkFailure(saidBySide(other))) return false;
  const [mine, yours] = [originOf(one), originOf(other)];
  const state = sqlState(mine);
  if (state !== undefined) return state === sqlState(yours);
  return mine instanceof Error && yours instanceof Error && mine.message === yours.message;
}

/** What the server or its connection said; undefined for what the application's function has made up by itself. */
export function saidBySide(error: unknown): unknown {
  // Of a transaction that went on after an error, that error.
  return error instanceof TransactionAbortedError || error instanceof FunctionFailure ? error.cause : error;
}

function originOf(error: unknown): unknown {
  return saidBySide(error) ?? thrownOf(error);
}

/** What the caller gets: of a function's failure, what the function has thrown. */
export function thrownOf(error: unknown): unknown {
  return error instanceof FunctionFailure ? error.thrown : error;
}

/** A side didn't answer in time, or there is no connection to it. */
export class LinkDownError extends Error {
  override readonly name = 'LinkDownError';
}

/**
 * The function of a transaction has thrown something of its own. Whatever that looks like (the code of a network error, an
 * error of another database), it says nothing of this connection and of this side; only `cause` does.
 */
export class FunctionFailure extends Error {
  override readonly name = 'FunctionFailure';

  /**
   * @param thrown what the caller gets.
   * @param cause what a statement of the transaction had failed with, if that is behind it.
   */
  constructor(
    readonly thrown: unknown,
    cause: unknown,
  ) {
    super('the function of a transaction has failed', { cause });
  }
}

/** A read failed on green for a reason that may be green's: blue answers it. */
export class SideFailure extends Error {
  override readonly name = 'SideFailure';

  /** @param thrown what the whole read failed with: the application's function may have made another error of the server's. */
  constructor(
    cause: unknown,
    readonly thrown: unknown = cause,
  ) {
    super('the read failed on this side', { cause });
  }
}

/** A read asked green for what counts only where writes are: it does not say anything about green. */
export class NotForGreen extends Error {
  override readonly name = 'NotForGreen';

  constructor() {
    super('a notification or a lock belongs where writes are');
  }
}

/**
 * The request met the fence; `cause` is the server's error. Nothing of it was done.
 *
 * `swallowed`: a single statement met it, and succeeded all the same. Its transaction has written nothing, since one that
 * has written keeps the fence from closing; unless the fence was opened again while the statement still ran.
 *
 * `waited`: it did not wait for the fence to open or close, as it had been told: which side has writes is not known yet.
 * `since` is when the statement was sent of which that is known: what its transaction had done before was work.
 */
export class FenceMet extends Error {
  override readonly name = 'FenceMet';

  constructor(
    cause: unknown,
    readonly how: 'refused' | 'swallowed' | 'waited' = 'refused',
    readonly since?: number,
  ) {
    super('writes are closed on this side', { cause });
  }
}

/** The connection was lost before anything was sent that could have an effect. */
export class NothingSent extends Error {
  override readonly name = 'NothingSent';

  constructor(cause: unknown) {
    super('the connection was lost before the request was sent', { cause });
  }
}

/** All connections to a side were in use for as long as a request may wait for one: the side itself is not away. */
export class AllInUse extends NothingSent {
  /** @param isStuck none was given back meanwhile: whoever has them waits for this side, or for more of them */
  constructor(
    forMs: number,
    readonly isStuck: boolean,
  ) {
    super(new Error(`all connections were in use for ${Math.round(forMs)} ms`));
  }
}
