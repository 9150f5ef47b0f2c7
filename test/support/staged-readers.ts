import { setTimeout as sleep } from 'node:timers/promises';
import { inCohort } from '../../src/router/cohort.js';
import { createRouter, type Router, type RouterOptions } from '../../src/router/index.js';
import type { Migration } from './migration.js';

/** Endpoints of the application: nine read a balance, the tenth reads a view of its own. */
const ENDPOINTS = 10;

/** The users by their turn: of each thousand reads ten are of users who belong to a stage of 1 %. */
const USERS = usersOfStage(1_000, 10);

/** Many users of an application that reads through the router, and when one of them was last sent to green. */
export class StagedReaders {
  readonly failures: string[] = [];
  readsOnGreen = 0;
  #firstOnGreen: number | undefined;
  #lastOnGreen = 0;
  #turn = 0;
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

  /** Reads of all users that were begun from the first to the last one that green has answered. */
  get readsMeanwhile(): number {
    return this.#firstOnGreen === undefined ? 0 : this.#lastOnGreen - this.#firstOnGreen + 1;
  }

  async #loop(): Promise<void> {
    while (!this.#stopped) {
      const at = Date.now();
      const turn = this.#turn++;
      const user = USERS[turn % USERS.length];
      const endpoint = Math.floor(Math.random() * ENDPOINTS);
      const account = 1 + Math.floor(Math.random() * 200);
      const sql =
        endpoint === ENDPOINTS - 1
          ? 'SELECT latest FROM recent WHERE account = $1'
          : 'SELECT balance FROM balances WHERE id = $1';
      try {
        const { side } = await this.router.read(user, sql, [account], { endpoint: `endpoint-${endpoint}` });
        if (side === 'green') {
          this.readsOnGreen += 1;
          this.#firstOnGreen = Math.min(this.#firstOnGreen ?? turn, turn);
          this.#lastOnGreen = Math.max(this.#lastOnGreen, turn);
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

/** So many users of whom `ofStage` belong to a stage of 1 %, spread evenly. */
function usersOfStage(count: number, ofStage: number): string[] {
  const every = count / ofStage;
  const users: string[] = [];
  for (let id = 0; users.length < count; id++) {
    const belongs = users.length % every === 0;
    if (inCohort('use-green-db', String(id), 1) === belongs) users.push(String(id));
  }
  return users;
}
