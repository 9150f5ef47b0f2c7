import type { Side } from '../side.js';

/** Where writes are, by the databases: the newest route row. */
export interface WritesAre {
  readonly side: Side;
  readonly epoch: number;
}

/** A pooler that could not be brought to where writes are, or not be resumed, and why. */
export interface Unreleased {
  readonly pooler: string;
  readonly why: string;
}

/**
 * The connection poolers between applications and the databases, as a promotion needs them: paused before writers are
 * asked to wait, pointed at the new side after it is open, released whatever happens. Every step looks, then acts.
 */
export interface Pools {
  /**
   * Shows, while everything runs, that each pooler is reached, has loaded the file that is written, and reaches the other
   * side. Asked once, before the first try.
   *
   * @throws VerdigrisError PromotionBlocked
   */
  prepare(from: Side, epoch: number): Promise<void>;
  /**
   * When this returns, no transaction of an application runs through any pooler and none begins: clients wait. All or none:
   * when it throws, every pooler has been resumed.
   *
   * @throws VerdigrisError PromotionBlocked, naming what stands in the way; PoolNotReleased when one could not be resumed.
   */
  pause(from: Side, epoch: number): Promise<void>;
  /** Points every pooler at `side`, paused or not. One that can't be reached is left to release(). Never throws. */
  point(side: Side, epoch: number): Promise<void>;
  /**
   * Lets clients go on, towards the side that has the writes now. Also what a worker calls that finds poolers paused by
   * one that was killed.
   *
   * @returns the poolers that are not released: empty when all is well. Call it again then.
   */
  release(): Promise<readonly Unreleased[]>;
  /** Closes what is open towards the poolers. */
  close(): Promise<void>;
}

/** Applications that have no pooler of ours between them and the databases. */
export const NO_POOLS: Pools = {
  prepare: () => Promise.resolve(),
  pause: () => Promise.resolve(),
  point: () => Promise.resolve(),
  release: () => Promise.resolve([]),
  close: () => Promise.resolve(),
};
