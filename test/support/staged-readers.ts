import { setTimeout as sleep } from 'node:timers/promises';
import { createRouter, type Router, type RouterOptions } from '../../src/router/index.js';
import type { Migration } from './migration.js';

/** Endpoints of the application: nine read a balance, the tenth reads a view of its own. */
const ENDPOINTS = 10;

/** Many users of an application that reads through the router, and when one of them was last sent to green. */
export class StagedReaders {
  readonly failures: string[] = [];
  reads = 0;
  readsOnGreen = 0;
  /** When the last read that green has answered was begun, ms since the epoch. */
  lastSentToGreenAt = 0;
  #stopped = false;
  readonly #loops: Promise<void>[];

  private constructor(
    private readonly router: Router,
    private readonly restMs: number,
  ) {
    this.#loops = Array.from({ length: 8 }, () => this.#loop());
  }

  /** @param restMs how long each of the eight users at a time waits before the next read. Default: 2. */
  static async start(
    migration: Migration,
    { restMs = 2, ...options }: Partial<RouterOptions> & { restMs?: number } = {},
  ): Promise<StagedReaders> {
    const router = createRouter({
      migration: migration.plan.name,
      blue: { ...migration.blue.config, max: 10 },
      green: { ...migration.green.config, max: 10 },
      ...options,
    });
    await router.ready();
    return new StagedReaders(router, restMs);
  }

  async #loop(): Promise<void> {
    while (!this.#stopped) {
      const at = Date.now();
      const user = String(Math.floor(Math.random() * 1e6));
      const endpoint = Math.floor(Math.random() * ENDPOINTS);
      const account = 1 + Math.floor(Math.random() * 200);
      const sql =
        endpoint === ENDPOINTS - 1
          ? 'SELECT latest FROM recent WHERE account = $1'
          : 'SELECT balance FROM balances WHERE id = $1';
      try {
        const { side } = await this.router.read(user, sql, [account], { endpoint: `endpoint-${endpoint}` });
        this.reads += 1;
        if (side === 'green') {
          this.readsOnGreen += 1;
          this.lastSentToGreenAt = Math.max(this.lastSentToGreenAt, at);
        }
      } catch (error) {
        this.failures.push(error instanceof Error ? error.message : String(error));
      }
      await sleep(this.restMs);
    }
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await Promise.all(this.#loops);
    await this.router.close();
  }
}
