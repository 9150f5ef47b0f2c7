import type { Run } from './ownership.js';
import { brokenSubscription, countErrors, follow, replacedSince } from './blue-follows.js';
import { errorsSince } from './error-count.js';
import { feedName } from './feed.js';
import { lacksSlots, readRetainedWal } from './retained-wal.js';
import { readServerPosition } from './server-position.js';
import type { Session } from './session.js';
import { readConfirmed, type Confirmed } from './standby-loss.js';
import { streamsOfRun } from './streams.js';
import { whyTaken } from './taken-feed.js';

/* Whether the feed to blue is dead: no waiting brings what blue lacks then. Asked before a way back; standby.ts watches it. */

export const DROPPED =
  'blue did not keep up and the feed held back too much WAL, or too many transactions, on green: the feed was dropped, blue is no longer current';

export const FAILS_AGAIN =
  "blue refuses a change that was made on green: the feed meets the same error again and again, and stands still (see blue's server log)";

export const SLOT_GONE = 'the feed from green to blue is gone (its slot on green): blue is no longer current';

/** Why blue does not have, and will not get, everything that is on green. */
export interface DeadFeed {
  readonly why: string;
  /** Whether a comparison of rows that finds no difference ends it. */
  readonly comparisonEndsIt: boolean;
}

/** @returns undefined while the feed lives */
export async function whyFeedIsDead(
  green: Session,
  openBlue: () => Promise<Session>,
  run: Run,
  signal?: AbortSignal,
): Promise<DeadFeed | undefined> {
  const names = await streamsOfRun(green, feedName(run.migration, 'to_blue'));
  const confirmed = await readConfirmed(green, run.runId);
  if (confirmed?.dropped === true) return dead(DROPPED);
  const wal = await readRetainedWal(green, names);
  if (lacksSlots(wal, names)) return dead(SLOT_GONE);
  const known = await whyTaken(green, run.runId);
  if (known !== undefined) return untilCompared(known);
  const blue = await openBlue();
  const identity = await readServerPosition(blue);
  const broken = await brokenSubscription(blue, names);
  if (broken !== undefined) return dead(broken);
  const replaced = await replacedSince(green, run.runId, confirmed, identity);
  if (replaced !== undefined) return untilCompared(replaced);
  const errors = await countErrors(blue, names);
  // What does not arrive is waited for only where it has met some since blue had everything.
  const mayFail = errorsSince(confirmed?.errors ?? errors, errors) >= PASSING_ERRORS;
  const { lagMs, taken } = await follow(
    { green, blue, run, names, confirmed, is: { blue: identity, errors } },
    mayFail ? APPLY_TRIES_WITHIN_MS : CONFIRMED_WITHIN_MS,
    signal,
  );
  if (taken !== undefined) return untilCompared(taken);
  if (!mayFail || Number.isFinite(lagMs)) return undefined;
  return failsAgain(confirmed, errors, await countErrors(blue, names)) ? dead(FAILS_AGAIN) : undefined;
}

function dead(why: string): DeadFeed {
  return { why, comparisonEndsIt: false };
}

function untilCompared(why: string): DeadFeed {
  return { why, comparisonEndsIt: true };
}

/** Time in which a reader has confirmed what it was sent: an apply worker looks every 0.2 s whether that is on its disk. */
const CONFIRMED_WITHIN_MS = 2_000;

/** Time in which an apply worker that fails is begun again: every 5 s by default (wal_retrieve_retry_interval). */
const APPLY_TRIES_WITHIN_MS = 10_000;

/** A connection that was cut, or a deadlock, is one error. */
const PASSING_ERRORS = 2;

/** Whether a feed whose marker does not arrive fails each time it is begun: it has done so since, and does so now. */
export function failsAgain(confirmed: Pick<Confirmed, 'errors'> | undefined, before: number, now: number): boolean {
  return now > before && errorsSince(confirmed?.errors ?? before, now) >= PASSING_ERRORS;
}
