import type pg from 'pg';
import type { Registry } from 'prom-client';
import type { Route } from '../postgres/state.js';
import type { Side } from '../side.js';
import type { IsolationLevel, TransactionFunction } from './transaction.js';

/** A result, and the side that gave it. */
export type RoutedResult<R extends pg.QueryResultRow> = pg.QueryResult<R> & { readonly side: Side };

export interface RequestOptions {
  /** Label of the metrics: a route or a use case, one of a bounded set. Default `default`. */
  readonly endpoint?: string;
}

export interface TransactionOptions extends RequestOptions {
  /** A transaction that only reads is routed as reads are. */
  readonly readOnly?: boolean;
  /** Default: the server's. */
  readonly isolation?: IsolationLevel;
}

/** Routes an application's statements to blue and green while a migration runs. */
export interface Router {
  /** Resolves when the route has been read from one side at least; both sides are given a second to answer. */
  ready(): Promise<void>;
  /** The route in force in this process. */
  route(): Route;
  /** The metrics' registry. */
  readonly metrics: Registry;
  /** Name of this router in `verdigris.router`: begins with the one that it was given. */
  readonly instance: string;
  /**
   * Runs one statement that reads, for a user; undefined, or an empty id, is nobody in particular, who reads where writes are.
   *
   * @throws what the statement throws on the side that has writes.
   */
  read<R extends pg.QueryResultRow = pg.QueryResultRow>(
    user: string | undefined,
    query: string | pg.QueryConfig,
    values?: unknown[],
    options?: RequestOptions,
  ): Promise<RoutedResult<R>>;
  /**
   * Runs one statement that may write.
   *
   * @throws CommitOutcomeUnknownError, WriteTimeoutError, and what the statement throws.
   */
  write<R extends pg.QueryResultRow = pg.QueryResultRow>(
    user: string | undefined,
    query: string | pg.QueryConfig,
    values?: unknown[],
    options?: RequestOptions,
  ): Promise<RoutedResult<R>>;
  /**
   * Runs a function in a transaction. The function may run more than once, as with serialization failures: it must
   * change nothing but the database.
   *
   * @throws CommitOutcomeUnknownError, WriteTimeoutError, WriteMovedError, TransactionAbortedError, and what the
   * function throws.
   */
  transaction<T>(user: string | undefined, options: TransactionOptions, work: TransactionFunction<T>): Promise<T>;
  /** Where the user's last write is, to be carried to another process; undefined when nothing is known. */
  exportToken(user: string): string | undefined;
  /** Takes over a token from another process. @returns false, having taken nothing, for text that is no token and for nobody. */
  importToken(user: string, token: string): boolean;
  /** Ends the connections, once those in use are free. */
  close(): Promise<void>;
}
