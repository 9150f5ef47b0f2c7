import type pg from 'pg';
import type { Side } from '../side.js';

/** One PgBouncer process, as the worker reaches it. */
export interface PgBouncer {
  /** The plan's name of the connection to its admin console: all that logs and errors may show. */
  readonly connection: string;
  /** How its admin console is reached; the database is `pgbouncer`, whatever stands here. */
  readonly config: pg.ClientConfig;
  /** The file that its configuration includes, by the path that the worker sees. Several may share one. */
  readonly file: string;
}

/** The PgBouncers of one migration and the entries of their `[databases]` that are moved. */
export interface PgBouncers {
  readonly migration: string;
  readonly instances: readonly PgBouncer[];
  /** Entries that applications connect to. */
  readonly databases: readonly string[];
  /** Entries that say where blue and green are, as PgBouncer reaches them. */
  readonly aliases: Readonly<Record<Side, string>>;
  /** How long running transactions may take to end before a PAUSE is given up, ms. */
  readonly pauseTimeoutMs: number;
}
