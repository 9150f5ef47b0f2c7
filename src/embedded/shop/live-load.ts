import pg from 'pg';
import { sqlState } from '../../postgres/sqlstate.js';
import type { Side } from '../../side.js';
import { listOrders, readBalance, readTransaction } from './browse.js';
import { checkOut, newCheckout } from './checkout.js';
import { KnownSchema } from './known-schema.js';
import type { Measurements, RequestResult } from './measurements.js';
import type { ShopDatabase } from './shop-database.js';
import { SHOP_USERS } from './shop-schema.js';
import type { WriteLedger } from './write-ledger.js';

/** Share of the requests that write, as in the seed's case: 300 of 1,000 a second. */
const WRITE_SHARE = 0.3;
const TICK_MS = 2;
const WARM_UP_MS = 3_000;
/** A process that was suspended does not send at once what it missed in hours. */
const MAX_BACKLOG_MS = 1_000;

/**
 * Requests of many users, at a rate that does not depend on how fast they are answered (an open loop): a database that
 * stalls meets a crowd, as in reality.
 */
export class LiveLoad {
  readonly #inFlight = new Set<Promise<void>>();
  readonly #schema = new KnownSchema();
  #timer: NodeJS.Timeout | undefined;
  #ratePerSecond = 0;

  constructor(
    private readonly database: ShopDatabase,
    private readonly ledger: WriteLedger,
    private readonly measurements: Measurements,
  ) {}

  start(ratePerSecond: number): void {
    this.#ratePerSecond = ratePerSecond;
    const startedAt = performance.now();
    let last = startedAt;
    let due = 0;
    this.#timer = setInterval(() => {
      const now = performance.now();
      // Connections are opened a few at a time, as when an application is deployed.
      const warmth = Math.min(1, (now - startedAt) / WARM_UP_MS);
      due += (Math.min(now - last, MAX_BACKLOG_MS) / 1_000) * this.#ratePerSecond * warmth;
      last = now;
      for (; due >= 1; due--) this.#send();
    }, TICK_MS);
  }

  setRate(ratePerSecond: number): void {
    this.#ratePerSecond = ratePerSecond;
  }

  /** Sends no more and waits for the answers that are still to come. */
  async stop(): Promise<void> {
    clearInterval(this.#timer);
    await Promise.all(this.#inFlight);
  }

  #send(): void {
    const userId = 1 + Math.floor(Math.random() * SHOP_USERS);
    const request = Math.random() < WRITE_SHARE ? this.#write(userId) : this.#read(userId);
    this.#inFlight.add(request);
    void request.finally(() => this.#inFlight.delete(request));
  }

  async #write(userId: number): Promise<void> {
    const checkout = newCheckout(userId);
    this.ledger.intend(checkout);
    await this.#measure('write', async () => {
      try {
        const written = await checkOut(this.database, this.#schema, checkout);
        this.ledger.acknowledge(written);
        return written.side;
      } catch (error) {
        this.ledger.fail(checkout, failureOf(error));
        throw error;
      }
    });
  }

  async #read(userId: number): Promise<void> {
    const kind = Math.random();
    await this.#measure('read', () => {
      if (kind < 0.4) return readTransaction(this.database, userId, this.ledger.lastOf(userId));
      return kind < 0.7 ? listOrders(this.database, userId) : readBalance(this.database, userId);
    });
  }

  async #measure(kind: RequestResult['kind'], request: () => Promise<Side>): Promise<void> {
    const startedAt = performance.now();
    try {
      const side = await request();
      this.measurements.record({ kind, side, startedAt, finishedAt: performance.now() });
    } catch (error) {
      const failure = failureOf(error);
      this.measurements.record({ kind, side: null, startedAt, finishedAt: performance.now(), failure });
    }
  }
}

/** A name for a kind of failure: long numbers in a message differ from time to time. */
function failureOf(error: unknown): string {
  const state = sqlState(error);
  if (error instanceof pg.DatabaseError) return `${state} ${error.message}`.replaceAll(/\d{3,}/g, 'N').slice(0, 120);
  if (state !== undefined) return state;
  return error instanceof Error ? `${error.name}: ${error.message}`.replaceAll(/\d+/g, 'N').slice(0, 120) : 'unknown';
}
