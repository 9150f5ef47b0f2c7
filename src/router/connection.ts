import type pg from 'pg';
import { send } from './send.js';
import type { Awaited } from './while-alive.js';

/**
 * A connection may lie idle for days, until a promotion. Networks forget one that is silent for some minutes, without a
 * word to either end, and the system's own default is to ask after two hours. The application may say otherwise.
 */
export const KEEP_ALIVE = { keepAlive: true, keepAliveInitialDelayMillis: 30_000 } as const;

/** A reader's connection refuses writes: `nextval` and the like are not stopped by the fence. */
export type Role = 'reader' | 'writer';

/** A connection of a pool, with what the router knows of it. */
export class Connection implements Awaited {
  readonly client: pg.PoolClient;
  #role: Role = 'writer';
  /** The sweep in which it was taken out of pg.Pool. */
  takenIn = 0;
  /** See WhileAlive. */
  since = 0;
  #isLost = false;

  constructor(client: pg.PoolClient) {
    this.client = client;
  }

  /** It has failed, or was closed by either end: of no use any more. */
  get isLost(): boolean {
    return this.#isLost || this.client.connection.stream.destroyed;
  }

  lose(): void {
    this.#isLost = true;
  }

  is(role: Role): boolean {
    return this.#role === role;
  }

  get isInTransaction(): boolean {
    const status = this.client.getTransactionStatus();
    return status === 'T' || status === 'E';
  }

  /** Whoever waits for an answer on it gets this error. */
  giveUp(error: Error): void {
    this.client.connection.stream.destroy(error);
  }

  /** @param answerMs how long to wait for the server. Default: as the pool's configuration says. */
  async become(role: Role, answerMs?: number): Promise<void> {
    const text = role === 'reader' ? READ_ONLY : READ_WRITE;
    const limited: LimitedQuery | undefined = answerMs === undefined ? undefined : { text, query_timeout: answerMs };
    await send(this.client, limited ?? text, undefined);
    this.#role = role;
  }
}

/** What node-postgres takes and its types do not tell. */
export interface LimitedQuery extends pg.QueryConfig {
  readonly query_timeout: number;
}

/** The same: by the extended protocol a server takes one statement only, and refuses a text of several before it runs any. */
export interface AloneQuery extends pg.QueryConfig {
  readonly queryMode: 'extended';
}

const READ_ONLY = 'SET default_transaction_read_only = on';
const READ_WRITE = 'RESET default_transaction_read_only';
