import { setTimeout as sleep } from 'node:timers/promises';
import { VerdigrisError } from '../errors.js';
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
   * @throws VerdigrisError PromotionBlocked; PoolerAwaited on the way to green, with nothing announced where others are
   */
  prepare(from: Side, epoch: number): Promise<void>;
  /**
   * When this returns, no transaction of an application runs through any pooler and none begins: clients wait. All or none:
   * when it throws, every pooler has been resumed.
   *
   * @throws VerdigrisError PromotionBlocked, naming what stands in the way (PoolerAwaited as in prepare); PoolNotReleased when one could not be resumed.
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

/** A pooler can't be paused now, while nobody is: that passes by itself, and waiting keeps no client from going on. */
export abstract class PoolerAwaited extends VerdigrisError {}

/** It is out of reach: it may be back within seconds. */
export class PoolerAway extends PoolerAwaited {}

/** It is in the promotion of another migration. The own mark is settled where this is thrown, so none waits for the other. */
export class PoolerTaken extends PoolerAwaited {}

/** How long to go on before the failure is shown: it is tried again after that all the same. */
const RELEASE_FOR_MS = 5_000;

/**
 * Releases all poolers, whatever a worker that was killed has left.
 *
 * @throws VerdigrisError PoolNotReleased (retryable): clients of a paused pooler wait.
 */
export async function releaseAll(pools: Pools, signal?: AbortSignal): Promise<void> {
  const deadline = performance.now() + RELEASE_FOR_MS;
  for (;;) {
    const unreleased = await pools.release();
    if (unreleased.length === 0) return;
    if (signal?.aborted === true || performance.now() > deadline) throw notReleased(unreleased);
    await sleep(200);
  }
}

/** What must be tried again until it succeeds. */
export function notReleased(unreleased: readonly Unreleased[], cause?: unknown): VerdigrisError {
  const which = unreleased.map(({ pooler, why }) => `"${pooler}" (${why})`).join(', ');
  return new VerdigrisError({
    type: 'PoolNotReleased',
    message: `these poolers are not back where writes are, and their clients may be waiting: ${which}`,
    nextStep:
      'it is tried again until it succeeds; let the worker reach them, or restart them: a PgBouncer that starts is not paused, and reads from its file where to go',
    retryable: true,
    cause,
  });
}
