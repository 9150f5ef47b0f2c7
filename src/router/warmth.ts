import type pg from 'pg';

/**
 * Connections opened at a time: each costs both ends a few milliseconds of computing (SCRAM), which the requests of the
 * moment should not have to wait for.
 */
const AT_A_TIME = 4;

/** Keeps connections of a pool open before they are needed. */
export class Warmth {
  readonly #pool: pg.Pool;
  /** How many the application has its pool keep. */
  readonly #ownMin: number;
  #wanted = 0;
  #isOpening = false;

  constructor(pool: pg.Pool) {
    this.#pool = pool;
    this.#ownMin = pool.options.min ?? 0;
  }

  /** Opens connections until there are `count`, within the pool's `max`, and keeps that many open while idle, or its own `min`. */
  async keep(count: number): Promise<void> {
    const pool = this.#pool;
    const { min: before = 0, max } = pool.options;
    this.#wanted = Math.min(count, max);
    pool.options.min = Math.max(this.#wanted, this.#ownMin);
    // What a pool was given back while it had no more than `min` would lie there for ever.
    if (pool.options.min < before) await this.#open(0);
    if (this.#isOpening) return;
    this.#isOpening = true;
    try {
      while (!pool.ending && pool.totalCount < this.#wanted) {
        const open = pool.totalCount;
        await this.#open(Math.min(this.#wanted - open, AT_A_TIME));
        // The server refuses, or is away: the next look at it tries again.
        if (pool.totalCount <= open) return;
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
