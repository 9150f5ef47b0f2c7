import { VerdigrisError } from '../errors.js';
import { whyBlueIsOpen } from './blue-is-open.js';
import { brokenSubscription, countErrors, follow, replacedSince } from './blue-follows.js';
import { errorsSince } from './error-count.js';
import { reasonOf } from '../failure-text.js';
import { dropSlots } from './feed-objects.js';
import { feedName } from './feed.js';
import { isInRecovery } from './in-recovery.js';
import type { NumbersTaken } from './numbers-taken.js';
import type { Run } from './ownership.js';
import { SlotHeld } from './replication-slot.js';
import { describeHeldTransactions, judgeRetainedWal, lacksSlots, readRetainedWal } from './retained-wal.js';
import { readServerPosition } from './server-position.js';
import type { Session } from './session.js';
import { isConnectionLost } from './sqlstate.js';
import { describeLoss, readConfirmed, writeConfirmed, type Confirmed } from './standby-loss.js';
import { readRoute } from './state.js';
import { streamsOfRun } from './streams.js';
import { countMissed } from './subscription.js';
import { describeSynchronous, readSynchronousFeeds } from './synchronous-standbys.js';
import { markAway, whyTaken } from './taken-feed.js';
import { whyNotOpened } from './where-writes-are.js';

/**
 * How blue follows green during the standby window. `filling`: out of reach, and green keeps much WAL for it. `undroppable`:
 * it keeps too much, and the role may not end who holds the slot. `synchronous`: commits on green wait for it. `notOpened`:
 * green itself takes no writes, since it was replaced by one that lacks its opening. `numbersTaken`: blue follows, and
 * somebody takes numbers from its sequences. `open`: blue takes writes beside green, since what closes it is lost there.
 * `greenAway`: it is green, which has the writes, that does not answer.
 */
export type StandbyHealth =
  | 'healthy'
  | 'lagging'
  | 'retaining'
  | 'broken'
  | 'dropped'
  | 'unreachable'
  | 'filling'
  | 'undroppable'
  | 'synchronous'
  | 'numbersTaken'
  | 'notOpened'
  | 'open'
  | 'greenAway';

export interface StandbyState {
  readonly health: StandbyHealth;
  /** Whether writes could go back to blue now without a loss. */
  readonly rollbackSafe: boolean;
  readonly why: string;
  readonly lagSeconds: number | null;
  /** What a rollback would lose, in words, once the feed is dead; null while it lives. */
  readonly loses: string | null;
  /** Changes of green that have met no row on blue so far (PostgreSQL 18); not known where it has not been asked. */
  readonly missed?: number;
  /** Set where a comparison of rows that finds no difference makes the way back safe again: what has called for it. */
  readonly comparisonEndsIt?: string;
}

export interface StandbyLimits {
  /** Lag above which people are told, ms. */
  readonly maxLagMs: number;
  /** WAL that the slot may hold back on green, bytes: beyond it green, which serves, is worth more than the way back. */
  readonly maxRetainedWal: number;
  /** Looks whether numbers are taken on blue. Default: nobody does */
  readonly numbers?: NumbersTaken;
  /** The epoch in which green has got the writes. Default: not known, so it is not asked whether green has been opened */
  readonly epoch?: number;
}

/**
 * Looks at green, and at the feed from there to blue, once: its worst stream counts. A feed that has held back too much WAL
 * is dropped here: it would fill the disk of the server that takes the writes. When blue has everything, that moment is
 * written down. A blue that is away is an answer; where green is, it fails (see isAway).
 */
export async function lookAtStandby(
  green: Session,
  openBlue: () => Promise<Session>,
  run: Run,
  limits: StandbyLimits,
  signal: AbortSignal,
): Promise<StandbyState> {
  const feed = feedName(run.migration, 'to_blue');
  const lacking = whyNotOpened('green', await readRoute(green, run.migration), limits.epoch);
  if (lacking !== undefined) {
    return { health: 'notOpened', rollbackSafe: false, why: lacking, lagSeconds: null, loses: null };
  }
  const confirmed = await readConfirmed(green, run.runId);
  const gone = async (health: StandbyHealth, why: string): Promise<StandbyState> => {
    const loses = await describeLoss(green, run.runId, feed);
    return { health, rollbackSafe: false, why: `${why}; a rollback would lose ${loses}`, lagSeconds: null, loses };
  };
  const names = await streamsOfRun(green, feed);
  const wayBack = { runId: run.runId, names, confirmedAt: confirmed?.at };
  const wal = await readRetainedWal(green, names);
  if (confirmed?.dropped === true) return gone('dropped', DROPPED);
  const verdict = judgeRetainedWal(wal, limits.maxRetainedWal);
  // Before blue is asked anything: a blue that is away is what fills green's disk. Also where one of the slots is gone: the
  // others keep WAL for a feed that is dead.
  if (verdict === 'abort' && wal.slots > 0) {
    const held = await whyHeld(dropSlots(green, feed, 0));
    if (held !== undefined) return undroppable(wal.bytes, limits, held);
    if (confirmed !== undefined) await writeConfirmed(green, run.runId, { ...confirmed, dropped: true });
    return gone('dropped', DROPPED);
  }
  if (lacksSlots(wal, names)) return gone('broken', SLOT_GONE);
  const retaining =
    verdict === 'fine'
      ? undefined
      : `the feed to blue ${describeHeldTransactions('green', wal, limits.maxRetainedWal, DROPPED_THEN) ?? `holds back ${megabytes(wal.bytes)} of WAL on green; at ${megabytes(limits.maxRetainedWal)} (replicate.maxRetainedWal) ${DROPPED_THEN}`}`;
  try {
    return await lookAtBlue();
  } catch (error) {
    if (!isAway(error) || signal.aborted) throw error;
    // Both sessions were used, and the error does not say whose was lost.
    const isGreens = await isInRecovery(green).catch(() => true);
    if (isGreens) throw error;
    await markAway({ ...wayBack, green });
    return outOfReach(error, retaining);
  }

  async function lookAtBlue(): Promise<StandbyState> {
    const blue = await openBlue();
    const open = await whyBlueIsOpen(blue, run, limits.epoch ?? Infinity);
    if (open === undefined) return lookAtFeed(blue);
    const isOpen = { health: 'open', rollbackSafe: false } as const;
    try {
      const state = await lookAtFeed(blue);
      return { ...state, ...isOpen, why: `${open}; ${state.why}` };
    } catch (error) {
      if (isAway(error) || signal.aborted) throw error;
      // Without schema verdigris there is no marker to read.
      return { ...isOpen, why: `${open}; the feed can't be seen: ${reasonOf(error)}`, lagSeconds: null, loses: null };
    }
  }

  async function lookAtFeed(blue: Session): Promise<StandbyState> {
    const identity = await readServerPosition(blue);
    const broken = await brokenSubscription(blue, names);
    if (broken !== undefined) return gone('broken', broken);
    const replaced = await replacedSince(green, run.runId, confirmed, identity);
    if (replaced !== undefined) {
      return { ...(await gone('broken', replaced)), comparisonEndsIt: `${identity.system} ${identity.timeline}` };
    }
    const errors = await countErrors(blue, names);
    const { lagMs: lag, taken } = await follow(
      { green, blue, run, names, confirmed, is: { blue: identity, errors } },
      Math.max(10_000, limits.maxLagMs),
      signal,
    );
    if (taken !== undefined) return { ...(await gone('broken', taken)), comparisonEndsIt: 'taken' };
    const lagSeconds = Number.isFinite(lag) ? lag / 1_000 : null;
    if (lagSeconds === null && failsAgain(confirmed, errors, await countErrors(blue, names))) {
      return gone('broken', FAILS_AGAIN);
    }
    // Nothing is lost by going back late: the promotion waits until blue has everything.
    const alive = { rollbackSafe: true, lagSeconds, loses: null, missed: await countMissed(blue, names) };
    const feeds = await readSynchronousFeeds(green, names);
    const synchronous = feeds.length === 0 ? [] : [describeSynchronous('green', feeds)];
    const numbers = await limits.numbers?.look(blue, green);
    const all = (why: string): string => [why, ...synchronous, ...(numbers === undefined ? [] : [numbers])].join('; ');
    if (lag > limits.maxLagMs) {
      return { health: 'lagging', why: all(await describeLag(blue, names, lagSeconds)), ...alive };
    }
    if (retaining !== undefined) return { health: 'retaining', why: all(retaining), ...alive };
    if (synchronous.length > 0) return { health: 'synchronous', why: all('blue follows green'), ...alive };
    if (numbers !== undefined) return { health: 'numbersTaken', why: all('blue follows green'), ...alive };
    return { health: 'healthy', why: 'blue follows green', ...alive };
  }
}

/** Whether a server could not be asked, which says nothing about what it has. */
export function isAway(error: unknown): boolean {
  return isConnectionLost(error) || (error instanceof VerdigrisError && error.type === 'ConnectionFailed');
}

/** What is said while blue does not answer. */
function outOfReach(error: unknown, retaining?: string): StandbyState {
  const why = `the feed to blue can't be seen: ${reasonOf(error)}`;
  return {
    health: retaining === undefined ? 'unreachable' : 'filling',
    rollbackSafe: false,
    why: retaining === undefined ? why : `${why}; ${retaining}`,
    lagSeconds: null,
    loses: null,
  };
}

/** What is said while green does not answer: nothing is known of the feed, and blue may be well. */
export function greenAway(error: unknown): StandbyState {
  const why = `the worker can't reach green, which has the writes: ${reasonOf(error)}`;
  return { health: 'greenAway', rollbackSafe: false, why, lagSeconds: null, loses: null };
}

/** Why slots could not be dropped, where somebody else's session holds one; undefined when they are. */
async function whyHeld(dropping: Promise<void>): Promise<SlotHeld | undefined> {
  try {
    await dropping;
    return undefined;
  } catch (error) {
    if (error instanceof SlotHeld) return error;
    throw error;
  }
}

function undroppable(bytes: number, { maxRetainedWal }: StandbyLimits, { what, nextStep }: SlotHeld): StandbyState {
  return {
    health: 'undroppable',
    rollbackSafe: false,
    why: `green's disk is not protected: the feed to blue holds back ${megabytes(bytes)} of WAL, more than ${megabytes(maxRetainedWal)} (replicate.maxRetainedWal), and ${what}: ${nextStep}`,
    lagSeconds: null,
    loses: null,
  };
}

const DROPPED_THEN = 'it is dropped, and the way back with it';

const DROPPED =
  'blue did not keep up and the feed held back too much WAL, or too many transactions, on green: the feed was dropped, blue is no longer current';

const FAILS_AGAIN =
  "blue refuses a change that was made on green: the feed meets the same error again and again, and stands still (see blue's server log)";

const SLOT_GONE = 'the feed from green to blue is gone (its slot on green): blue is no longer current';

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

async function describeLag(blue: Session, names: readonly string[], lagSeconds: number | null): Promise<string> {
  const errors = await countErrors(blue, names);
  const met = errors > 0 ? `; its subscriptions have met ${errors} errors: see blue's server log` : '';
  return `blue is ${lagSeconds === null ? 'far' : `${lagSeconds.toFixed(1)} s`} behind green${met}`;
}

function megabytes(bytes: number): string {
  return `${Math.round(bytes / 2 ** 20)} MB`;
}
