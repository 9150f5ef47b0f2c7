import { VerdigrisError } from '../errors.js';
import { whyBlueIsOpen } from './blue-is-open.js';
import { brokenSubscription, countErrors, follow, replacedSince } from './blue-follows.js';
import { DROPPED, FAILS_AGAIN, failsAgain, SLOT_GONE } from './dead-feed.js';
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
import { markAway } from './taken-feed.js';
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

/** One look at the standby window. */
interface Look {
  readonly green: Session;
  readonly run: Run;
  readonly limits: StandbyLimits;
  readonly signal: AbortSignal;
  readonly feed: string;
  /** The streams of the feed. */
  readonly names: readonly string[];
  /** The last moment at which blue had everything; undefined where none is known. */
  readonly confirmed: Confirmed | undefined;
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
  const lacking = whyNotOpened('green', await readRoute(green, run.migration), limits.epoch);
  if (lacking !== undefined) return unsafe('notOpened', lacking);
  const confirmed = await readConfirmed(green, run.runId);
  const feed = feedName(run.migration, 'to_blue');
  const look: Look = { green, run, limits, signal, feed, names: await streamsOfRun(green, feed), confirmed };
  // Before blue is asked anything: a blue that is away is what fills green's disk.
  const kept = await guardWal(look);
  if ('state' in kept) return kept.state;
  try {
    return await lookAtBlue(look, openBlue, kept.retaining);
  } catch (error) {
    if (!isAway(error) || signal.aborted) throw error;
    // Both sessions were used, and the error does not say whose was lost.
    const isGreens = await isInRecovery(green).catch(() => true);
    if (isGreens) throw error;
    await markAway({ runId: run.runId, names: look.names, confirmedAt: confirmed?.at, green });
    return outOfReach(error, kept.retaining);
  }
}

/**
 * Drops a feed that holds back too much.
 *
 * @returns how it stands where there is no feed any more, or none that can be dropped; else why it holds back much, if it does
 */
async function guardWal(look: Look): Promise<{ state: StandbyState } | { retaining: string | undefined }> {
  const { green, run, limits, names, confirmed } = look;
  const wal = await readRetainedWal(green, names);
  if (confirmed?.dropped === true) return { state: await gone(look, 'dropped', DROPPED) };
  const verdict = judgeRetainedWal(wal, limits.maxRetainedWal);
  // Also where one of the slots is gone: the others keep WAL for a feed that is dead.
  if (verdict === 'abort' && wal.slots > 0) {
    const held = await whyHeld(dropSlots(green, look.feed, 0));
    if (held !== undefined) return { state: undroppable(wal.bytes, limits, held) };
    if (confirmed !== undefined) await writeConfirmed(green, run.runId, { ...confirmed, dropped: true });
    return { state: await gone(look, 'dropped', DROPPED) };
  }
  if (lacksSlots(wal, names)) return { state: await gone(look, 'broken', SLOT_GONE) };
  if (verdict === 'fine') return { retaining: undefined };
  const transactions = describeHeldTransactions('green', wal, limits.maxRetainedWal, DROPPED_THEN);
  const bytes = `holds back ${megabytes(wal.bytes)} of WAL on green; at ${megabytes(limits.maxRetainedWal)} (replicate.maxRetainedWal) ${DROPPED_THEN}`;
  return { retaining: `the feed to blue ${transactions ?? bytes}` };
}

/** A blue that takes writes beside green comes before whatever else is to be said of the feed. */
async function lookAtBlue(
  look: Look,
  openBlue: () => Promise<Session>,
  retaining: string | undefined,
): Promise<StandbyState> {
  const { run, limits, signal } = look;
  const blue = await openBlue();
  const open = await whyBlueIsOpen(blue, run, limits.epoch ?? Infinity);
  if (open === undefined) return lookAtFeed(look, blue, retaining);
  try {
    const state = await lookAtFeed(look, blue, retaining);
    return { ...state, health: 'open', rollbackSafe: false, why: `${open}; ${state.why}` };
  } catch (error) {
    if (isAway(error) || signal.aborted) throw error;
    // Without schema verdigris there is no marker to read.
    return unsafe('open', `${open}; the feed can't be seen: ${reasonOf(error)}`);
  }
}

/** Whether the feed lives, and how well. */
async function lookAtFeed(look: Look, blue: Session, retaining: string | undefined): Promise<StandbyState> {
  const { green, run, limits, signal, names, confirmed } = look;
  const identity = await readServerPosition(blue);
  const broken = await brokenSubscription(blue, names);
  if (broken !== undefined) return gone(look, 'broken', broken);
  const replaced = await replacedSince(green, run.runId, confirmed, identity);
  if (replaced !== undefined) {
    return { ...(await gone(look, 'broken', replaced)), comparisonEndsIt: `${identity.system} ${identity.timeline}` };
  }
  const errors = await countErrors(blue, names);
  const { lagMs: lag, taken } = await follow(
    { green, blue, run, names, confirmed, is: { blue: identity, errors } },
    Math.max(10_000, limits.maxLagMs),
    signal,
  );
  if (taken !== undefined) return { ...(await gone(look, 'broken', taken)), comparisonEndsIt: 'taken' };
  const lagSeconds = Number.isFinite(lag) ? lag / 1_000 : null;
  if (lagSeconds === null && failsAgain(confirmed, errors, await countErrors(blue, names))) {
    return gone(look, 'broken', FAILS_AGAIN);
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

/** The feed is dead: with what a rollback would lose. */
async function gone({ green, run, feed }: Look, health: 'broken' | 'dropped', why: string): Promise<StandbyState> {
  const loses = await describeLoss(green, run.runId, feed);
  return { ...unsafe(health, `${why}; a rollback would lose ${loses}`), loses };
}

/** No way back without a loss is known; what a rollback would lose is not, either. */
function unsafe(health: StandbyHealth, why: string): StandbyState {
  return { health, rollbackSafe: false, why, lagSeconds: null, loses: null };
}

/** Whether a server could not be asked, which says nothing about what it has. */
export function isAway(error: unknown): boolean {
  return isConnectionLost(error) || (error instanceof VerdigrisError && error.type === 'ConnectionFailed');
}

/** What is said while blue does not answer. */
function outOfReach(error: unknown, retaining?: string): StandbyState {
  const why = `the feed to blue can't be seen: ${reasonOf(error)}`;
  return retaining === undefined ? unsafe('unreachable', why) : unsafe('filling', `${why}; ${retaining}`);
}

/** What is said while green does not answer: nothing is known of the feed, and blue may be well. */
export function greenAway(error: unknown): StandbyState {
  return unsafe('greenAway', `the worker can't reach green, which has the writes: ${reasonOf(error)}`);
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
  return unsafe(
    'undroppable',
    `green's disk is not protected: the feed to blue holds back ${megabytes(bytes)} of WAL, more than ${megabytes(maxRetainedWal)} (replicate.maxRetainedWal), and ${what}: ${nextStep}`,
  );
}

const DROPPED_THEN = 'it is dropped, and the way back with it';

async function describeLag(blue: Session, names: readonly string[], lagSeconds: number | null): Promise<string> {
  const errors = await countErrors(blue, names);
  const met = errors > 0 ? `; its subscriptions have met ${errors} errors: see blue's server log` : '';
  return `blue is ${lagSeconds === null ? 'far' : `${lagSeconds.toFixed(1)} s`} behind green${met}`;
}

function megabytes(bytes: number): string {
  return `${Math.round(bytes / 2 ** 20)} MB`;
}
