import type pg from 'pg';
import type { Side } from '../../src/side.js';
import { sideOf, type TestHaproxy } from './haproxy.js';

/** One new connection of the load, with one read. */
export interface Read {
  readonly begunAt: number;
  readonly side: Side | 'failed';
}

/**
 * An application that opens a connection for each read, through a HAProxy, several at a time. The database must have the
 * same name and password on both sides.
 */
export class ReadLoad {
  readonly reads: Read[] = [];
  #stopped = false;
  readonly #running: Promise<void>[];

  constructor(haproxy: TestHaproxy, database: pg.ClientConfig, clients = 3) {
    this.#running = Array.from({ length: clients }, () => this.#run(haproxy, database));
  }

  /** Reads of connections that were begun at or after this moment (performance.now()). */
  since(moment: number): Read[] {
    return this.reads.filter(({ begunAt }) => begunAt >= moment);
  }

  /** Waits until so many reads have been begun since that moment, and returns them. */
  async until(reads: number, moment: number): Promise<Read[]> {
    while (this.since(moment).length < reads) await new Promise((resolve) => setTimeout(resolve, 10));
    return this.since(moment);
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await Promise.all(this.#running);
  }

  async #run(haproxy: TestHaproxy, database: pg.ClientConfig): Promise<void> {
    while (!this.#stopped) {
      const begunAt = performance.now();
      let side: Read['side'] = 'failed';
      let client: pg.Client | undefined;
      try {
        client = await haproxy.connect(database);
        side = await sideOf(client);
      } catch {
        // Counted as failed.
      }
      this.reads.push({ begunAt, side });
      await client?.end().catch(() => undefined);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }
}
