import type { Side } from '../../src/side.js';

/** One move of the writes from a side to the other one. Times: ms, moments: ms since 1970. */
export interface Move {
  readonly from: Side;
  /** What does not make writers wait has begun: the way back is proven, the fence armed. */
  readonly began: number;
  /** The first try was begun. */
  readonly tried: number;
  /** The new side takes writes. */
  readonly opened: number;
  /** The old side follows: a row that was written on the new one has arrived. */
  readonly followed: number;
  /** From asking for the lock (by hand: from the read-only default) until the new side takes writes. */
  readonly holdMs: number;
  /** What each step of the hold took. */
  readonly steps: Readonly<Record<string, number>>;
  readonly tries: number;
  /** What stood in the way of the tries that did not go through. */
  readonly blocked: readonly string[];
}

/** Moves writes away from a side. */
export type Mover = (from: Side) => Promise<Move>;
