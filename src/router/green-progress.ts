import { formatLsn, LSN_ZERO, parseLsn, type Lsn } from './lsn.js';
import type { SideLink } from './side-link.js';
import { pause } from '../timing.js';

interface Waiter {
  readonly epoch: number;
  readonly lsn: Lsn;
  readonly answer: (reached: boolean) => void;
}

/** More positions than this are asked for in the next round. */
const POSITIONS_A_ROUND = 32;

/**
 * How far green has come. All who wait share one question at a time, every 1-2 ms; what green is known to have applied
 * is remembered, so most reads ask nothing.
 */
export class GreenProgress {
  readonly #link: SideLink;
  #applied: { epoch: number; lsn: Lsn } = { epoch: 0, lsn: LSN_ZERO };
  #waiters = new Set<Waiter>();
  #isAsking = false;

  constructor(link: SideLink) {
    this.#link = link;
  }

  /** Green may have lost what it had applied (a crash before its flush) or belong to another run: ask again. */
  forget(): void {
    this.#applied = { epoch: 0, lsn: LSN_ZERO };
  }

  /** Whether green is known to have applied everything up to `lsn` of this epoch, without asking it. */
  hasReached(epoch: number, lsn: Lsn): boolean {
    return this.#applied.epoch === epoch && lsn <= this.#applied.lsn;
  }

  /** Whether green has applied everything up to `lsn` of this epoch; waits for it up to `budgetMs`. Never throws. */
  reached(epoch: number, lsn: Lsn, budgetMs: number): Promise<boolean> {
    if (this.hasReached(epoch, lsn)) return Promise.resolve(true);
    return new Promise((resolve) => {
      const timer = setTimeout(() => waiter.answer(false), Math.max(budgetMs, 0));
      const waiter: Waiter = {
        epoch,
        lsn,
        answer: (reached) => {
          clearTimeout(timer);
          this.#waiters.delete(waiter);
          resolve(reached);
        },
      };
      this.#waiters.add(waiter);
      if (!this.#isAsking) void this.#askUntilAnswered();
    });
  }

  async #askUntilAnswered(): Promise<void> {
    this.#isAsking = true;
    try {
      while (this.#waiters.size > 0) {
        const epoch = Math.max(...[...this.#waiters].map((waiter) => waiter.epoch));
        await this.#ask(epoch);
        for (const waiter of [...this.#waiters]) {
          if (waiter.epoch !== epoch) waiter.answer(false);
          else if (this.hasReached(waiter.epoch, waiter.lsn)) waiter.answer(true);
        }
        if (this.#waiters.size > 0) await pause(1, 2);
      }
    } catch {
      // Green is away, or has no such function: none of them can read there.
      for (const waiter of [...this.#waiters]) waiter.answer(false);
    } finally {
      this.#isAsking = false;
    }
  }

  async #ask(epoch: number): Promise<void> {
    const wanted = [...this.#waiters].filter((waiter) => waiter.epoch === epoch).map((waiter) => waiter.lsn);
    const positions = [...new Set(wanted)].sort((a, b) => (a < b ? -1 : 1)).slice(0, POSITIONS_A_ROUND);
    const rows = await this.#link.query<{ lsn: string }>(REACHED, [epoch, positions.map(formatLsn)]);
    for (const row of rows) {
      const lsn = parseLsn(row.lsn);
      if (lsn !== undefined && !this.hasReached(epoch, lsn)) this.#applied = { epoch, lsn };
    }
  }
}

const REACHED = `
  SELECT p.lsn::text AS lsn FROM pg_catalog.unnest($2::pg_catalog.pg_lsn[]) AS p (lsn)
   WHERE verdigris.caught_up($1::bigint, p.lsn)`;
