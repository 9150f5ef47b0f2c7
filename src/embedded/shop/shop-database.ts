import type { QueryConfig, QueryResultRow } from 'pg';
import type { Side } from '../../side.js';

/** A statement with a name is planned once a connection. */
export type Statement = QueryConfig & { readonly name: string; readonly values: unknown[] };

export interface ShopTransaction {
  readonly side: Side;
  query<R extends QueryResultRow>(statement: Statement): Promise<readonly R[]>;
}

/** The databases as the shop sees them: it names the user, and the router knows where to go. */
export interface ShopDatabase {
  /** Reads rows for a user, and says which side answered. */
  read<R extends QueryResultRow>(
    user: string,
    endpoint: string,
    statement: Statement,
  ): Promise<{ readonly rows: readonly R[]; readonly side: Side }>;
  /** Runs a transaction that writes; `work` may run again on the other side, so it changes nothing but the database. */
  transaction<T>(
    user: string,
    endpoint: string,
    work: (transaction: ShopTransaction) => Promise<T>,
  ): Promise<{ readonly value: T; readonly side: Side }>;
  /** Metrics in Prometheus' text form. */
  metrics(): Promise<string>;
  close(): Promise<void>;
}
