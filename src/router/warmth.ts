import type pg from 'pg';

/**
 * Connections opened at a time: each costs both ends a few milliseconds of computing (SCRAM), which the requests of the
 * moment should not have to wait for.
 */
const AT_A_TIME = 4;

/** Keeps connections of a pool open before they are needed. */
export class Warmth {
  readonly #pool: pg.Pool;
  #isOpening = false;

  constructor(pool: pg.Pool) {
    this.#pool = pool;
  }

  /** Opens connections until there are `count`, within the pool's `max`, and keeps that many open while idle. */
  async keep(count: number): Promise<void> {
    const pool = this.#pool;
    pool.options.min = Math.min(count, pool.options.max);
    if (this.#isOpening) return;
    this.#isOpening = true;
    try {
      while (!pool.ending && pool.totalCount < pool.options.min) {
        const before = pool.totalCount;
        await this.#open(Math.min(pool.options.min - before, AT_A_TIME));
        // The server refuses, or is away: the next look at it tries again.
        if (pool.totalCount <= before) return;
      }
    } finally {
      this.#isOpening = false;
    }
  }

  /** The pool hands out idle connections first, so these are borrowed too, while the others open. */
  async #open(missing: number): Promise<void> {
    const borrowed = Array.from({ length: missing + this.#pool.idleCount }, () => this.#pool.connect());
    for (const one of await Promise.allSettled(borrowed)) {
      if (one.status === 'fulfilled') one.value.release();
    }
  }
}
