import { MARKER_EVERY_MS } from '../../src/gates/decide-lag.js';
import type { Chance } from './chance.js';

/** Now and then green applies nothing for a while: a checkpoint, a large transaction; then it catches up. */
const STALL_EVERY_SECONDS = 300;
const MEAN_STALL_MS = 2_000;
const LONGEST_STALL_MS = 30_000;
/** How much faster than it is written green applies what has piled up. */
const CATCH_UP = 3;

/** The markers that arrive while a stage lasts, one sent after the other as in the real measurement. */
export class Markers {
  #sentAtMs = 0;
  #stall: { readonly atMs: number; readonly lastsMs: number } | undefined;
  #untilMs = 0;

  constructor(
    private readonly chance: Chance,
    /** How far green is always behind. */
    private readonly behindMs: number,
  ) {}

  /** The lags of those that arrive within the next so many seconds, oldest first. */
  next(seconds: number): number[] {
    const { chance } = this;
    if (chance.next() < seconds / STALL_EVERY_SECONDS) {
      const lastsMs = Math.min(LONGEST_STALL_MS, -MEAN_STALL_MS * Math.log(1 - chance.next()));
      this.#stall = { atMs: this.#untilMs + chance.next() * seconds * 1_000, lastsMs };
    }
    this.#untilMs += seconds * 1_000;
    const arrived: number[] = [];
    for (;;) {
      const lag = this.#lagAt(this.#sentAtMs);
      if (this.#sentAtMs + lag > this.#untilMs) return arrived;
      arrived.push(lag);
      this.#sentAtMs += lag + MARKER_EVERY_MS;
    }
  }

  #lagAt(atMs: number): number {
    const usual = this.behindMs + 5 + 60 * this.chance.next();
    const stall = this.#stall;
    if (stall === undefined || atMs < stall.atMs) return usual;
    // What was written since the stall began waits for its end, and is then applied faster than it was written.
    return usual + Math.max(0, stall.lastsMs - (atMs - stall.atMs) * (1 - 1 / CATCH_UP));
  }
}
