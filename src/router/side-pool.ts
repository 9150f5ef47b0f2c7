import pg from 'pg';
import type { Side } from '../side.js';
import { sqlState } from '../postgres/sqlstate.js';
import { canConnectLater, isLinkFailure, NothingSent } from './failure.js';
import type { RouterLogger } from './logger.js';
import { Turns } from './turns.js';

/** A reader's connection refuses writes: `nextval` and the like are not stopped by the fence. */
export type Role = 'reader' | 'writer';

/** Waits for a promise, or gives up earlier: how a caller keeps from waiting for a dead side. */
export type Guard = <T>(promise: Promise<T>) => Promise<T>;

/** Opening a connection takes no longer unless the application says otherwise. */
const CONNECT_MS = 1_000;

/** The application's connections to one side. */
export class SidePool {
  readonly side: Side;
  readonly #pool: pg.Pool;
  readonly #turns: Turns;
  readonly #readers = new WeakSet<pg.PoolClient>();
  #warming = false;

  constructor(side: Side, config: pg.PoolConfig, logger: RouterLogger) {
    this.side = side;
    this.#pool = new pg.Pool({ connectionTimeoutMillis: CONNECT_MS, keepAlive: true, ...config });
    this.#turns = new Turns(this.#pool.options.max);
    // Without listeners, the loss of an idle or of a borrowed connection would end the process.
    this.#pool.on('error', (error) =>
      logger.debug({ side, code: sqlState(error) }, 'router: an idle connection was lost'),
    );
    this.#pool.on('connect', (client) => client.on('error', () => undefined));
  }

  get connections(): number {
    return this.#pool.totalCount;
  }

  /**
   * Runs work on a connection, which is not used again when the work leaves it in doubt.
   *
   * @throws NothingSent when no connection is to be had and trying later can help.
   */
  async use<T>(role: Role, work: (client: pg.PoolClient) => Promise<T>, guard: Guard = (p) => p): Promise<T> {
    const turn = this.#turns.take();
    try {
      await guard(turn.granted);
      return await this.#useConnection(await this.#acquire(role, guard), work);
    } finally {
      turn.giveBack();
    }
  }

  async #useConnection<T>(client: pg.PoolClient, work: (client: pg.PoolClient) => Promise<T>): Promise<T> {
    let failed = false;
    try {
      return await work(client);
    } catch (error) {
      failed = isLinkFailure(error) || (error instanceof Error && isLinkFailure(error.cause));
      throw error;
    } finally {
      client.release(failed || isInTransaction(client));
    }
  }

  /**
   * Opens connections until there are `count`, and keeps as many open while idle, so that a promotion finds them. Never
   * fails: it is only a preparation.
   */
  async keepWarm(count: number): Promise<void> {
    const target = Math.min(count, this.#pool.options.max);
    this.#pool.options.min = target;
    const missing = target - this.#pool.totalCount;
    if (missing <= 0 || this.#warming || this.#pool.ending) return;
    this.#warming = true;
    // The pool hands out idle connections first, so these are borrowed too, for the moment that the others take to open.
    const borrowed = Array.from({ length: missing + this.#pool.idleCount }, () => this.#pool.connect());
    const opened = await Promise.allSettled(borrowed);
    for (const one of opened) if (one.status === 'fulfilled') one.value.release();
    this.#warming = false;
  }

  async close(): Promise<void> {
    if (!this.#pool.ending) await this.#pool.end();
  }

  async #acquire(role: Role, guard: Guard): Promise<pg.PoolClient> {
    for (;;) {
      const client = await this.#connect(guard);
      if (isInTransaction(client)) {
        client.release(true);
        continue;
      }
      try {
        await guard(this.#setRole(client, role));
        return client;
      } catch (error) {
        client.release(true);
        throw isLinkFailure(error) ? new NothingSent(error) : error;
      }
    }
  }

  async #connect(guard: Guard): Promise<pg.PoolClient> {
    const connecting = this.#pool.connect();
    try {
      return await guard(connecting);
    } catch (error) {
      connecting.then(
        (client) => client.release(),
        () => undefined,
      );
      throw canConnectLater(error) ? new NothingSent(error) : error;
    }
  }

  async #setRole(client: pg.PoolClient, role: Role): Promise<void> {
    if (role === 'reader' && !this.#readers.has(client)) {
      await client.query('SET default_transaction_read_only = on');
      this.#readers.add(client);
    } else if (role === 'writer' && this.#readers.has(client)) {
      await client.query('RESET default_transaction_read_only');
      this.#readers.delete(client);
    }
  }
}

function isInTransaction(client: pg.PoolClient): boolean {
  const status = client.getTransactionStatus();
  return status === 'T' || status === 'E';
}
