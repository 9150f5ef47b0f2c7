import { setTimeout as sleep } from 'node:timers/promises';
import { VerdigrisError } from '../errors.js';
import type { Direction } from '../side.js';
import { targetOf } from './feed.js';
import { measureLag } from './marker.js';
import { judgeRetainedWal, lacksSlots, readRetainedWal, retainedWalExceeded, slotsGone } from './retained-wal.js';
import type { Session } from './session.js';
import { streamsOfRun } from './streams.js';
import { readSubscription } from './subscription.js';

const SIZE_UNITS = { MB: 2 ** 20, GB: 2 ** 30, TB: 2 ** 40 } as const;

/** Bytes of a plan's size: `500MB`, `20GB`, `1TB`. */
export function parseSize(text: string): number {
  const match = /^([1-9][0-9]*)(MB|GB|TB)$/.exec(text);
  const unit = match?.[2];
  if (match === null || (unit !== 'MB' && unit !== 'GB' && unit !== 'TB'))
    throw new RangeError(`"${text}" is not a size`);
  return Number(match[1]) * SIZE_UNITS[unit];
}

/**
 * For a feed whose slots have been made.
 *
 * @throws VerdigrisError RetainedWalExceeded, before they fill the disk of their server; ReplicationBroken when one is gone.
 */
export async function refuseTooMuchWal(session: Session, feed: string, maxBytes: number): Promise<void> {
  const names = await streamsOfRun(session, feed);
  const wal = await readRetainedWal(session, names);
  if (lacksSlots(wal, names)) throw slotsGone(feed, wal);
  if (judgeRetainedWal(wal, maxBytes) === 'abort') throw retainedWalExceeded(feed, wal, maxBytes);
}

export interface CatchUp {
  readonly source: Session;
  readonly target: Session;
  readonly direction: Direction;
  readonly feed: string;
  /** The lag that is asked for, ms, and how long it must last, ms. */
  readonly maxLagMs: number;
  readonly holdForMs: number;
  readonly maxRetainedWal: number;
  readonly signal: AbortSignal;
  /** Looks for a reason while the lag is too long; throws it. */
  readonly whileLate?: () => Promise<void>;
  readonly report: (progress: { readonly lagSeconds: number; readonly goodForSeconds: number }) => void;
}

/**
 * Waits until the lag has been short for long enough: one good measurement proves little.
 *
 * @returns the last measured lag, ms.
 * @throws VerdigrisError ReplicationBroken, RetainedWalExceeded
 */
export async function waitUntilCaughtUp(catchUp: CatchUp): Promise<number> {
  let goodSince: number | undefined;
  for (;;) {
    catchUp.signal.throwIfAborted();
    const lag = await measureLag(catchUp.source, catchUp.target, catchUp.direction, 10_000, catchUp.signal);
    const now = performance.now();
    if (lag < catchUp.maxLagMs) goodSince ??= now;
    else {
      goodSince = undefined;
      await refuseBrokenFeed(catchUp.target, catchUp.feed, catchUp.direction);
      await refuseTooMuchWal(catchUp.source, catchUp.feed, catchUp.maxRetainedWal);
      await catchUp.whileLate?.();
    }
    const good = goodSince === undefined ? 0 : now - goodSince;
    catchUp.report({ lagSeconds: lag / 1_000, goodForSeconds: good / 1_000 });
    if (goodSince !== undefined && good >= catchUp.holdForMs) return lag;
    await sleep(Math.min(1_000, catchUp.holdForMs / 4 + 10));
  }
}

/** @throws VerdigrisError ReplicationBroken when a subscription is gone or switched off: waiting helps nobody. */
export async function refuseBrokenFeed(target: Session, feed: string, direction: Direction): Promise<void> {
  for (const name of await streamsOfRun(target, feed)) {
    const state = await readSubscription(target, name);
    if (state?.enabled === true) continue;
    throw new VerdigrisError({
      type: 'ReplicationBroken',
      message: `${targetOf(direction)}: the subscription ${name} is ${state === undefined ? 'gone' : 'disabled'}`,
      nextStep: 'find out who did that; start again after the rollback',
    });
  }
}

/**
 * Refuses slots that are gone, for a look at a moment that nobody knows. Slots are made before the subscriptions and dropped
 * after them: so they are gone for good only where the subscriptions are there before and after they are looked for.
 *
 * @throws VerdigrisError ReplicationBroken
 */
export async function refuseLostSlots(
  source: Session,
  target: Session,
  feed: string,
  names: readonly string[],
): Promise<void> {
  if (!(await areSubscribed(target, names))) return;
  const wal = await readRetainedWal(source, names);
  if (lacksSlots(wal, names) && (await areSubscribed(target, names))) throw slotsGone(feed, wal);
}

async function areSubscribed(target: Session, names: readonly string[]): Promise<boolean> {
  for (const name of names) if ((await readSubscription(target, name)) === undefined) return false;
  return true;
}
