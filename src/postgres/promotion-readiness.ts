import { setTimeout as sleep } from 'node:timers/promises';
import { VerdigrisError } from '../errors.js';
import { otherSide, type Side } from '../side.js';
import { directionTo, feedName } from './feed.js';
import { promotionBlocked } from './hold.js';
import { longWriters, whoBlocksApply, whoChanges } from './locks.js';
import { timeMarker } from './marker.js';
import type { Promotion } from './promotion.js';
import type { Sessions } from './promotion-sessions.js';
import { distanceOfHold, distanceOfMarker, measureRoundTrips, type RoundTrips } from './round-trips.js';
import type { Session } from './session.js';
import { momentOf, whoRestarted, whyOthers } from './verify/last-pass.js';
import { describeChange, readUnfencedChanges } from './unfenced-changes.js';

/* When it is worth asking writers to wait: what these functions wait for would otherwise be part of the hold. */

/**
 * Whoever has replaced a server may lack rows that were compared, and nothing brings them: the slot on blue is beyond them.
 * Asked on the sessions of the hold, which end with their servers, so nobody can be replaced later unseen.
 *
 * @throws VerdigrisError ServerReplaced, and what `refuseOthers` throws
 */
export async function refuseReplaced(
  { main, to }: Sessions,
  { from, comparedOn, refuseOthers }: Promotion,
): Promise<void> {
  await refuseOthers?.(main, to);
  if (comparedOn === undefined) return;
  const [old, other] = await Promise.all([momentOf(main), momentOf(to)]);
  const now = from === 'blue' ? { blue: old, green: other } : { blue: other, green: old };
  const why = whyOthers(comparedOn, now);
  if (why === undefined) return refuseRestarted(whoRestarted(comparedOn, now));
  throw replacedSinceCompared(`${why} since rows were compared: it may lack some of them`);
}

/** All rows are compared again then. */
export function replacedSinceCompared(message: string): VerdigrisError {
  return new VerdigrisError({
    type: 'ServerReplaced',
    message,
    nextStep:
      'nothing: all rows are compared again, and the promotion is asked for anew; see that the application, too, has the server that it is to have',
  });
}

/** What an error ServerReplaced carries where it may be the same server with all its rows: whoever has approved need not be asked. */
export interface RestartedDetails {
  readonly isRestarted: true;
}

function refuseRestarted(side: Side | undefined): void {
  if (side === undefined) return;
  const details: RestartedDetails = { isRestarted: true };
  throw new VerdigrisError({
    type: 'ServerReplaced',
    message: `${side} was started anew since rows were compared: one that was put back from a copy of its volume looks the same`,
    nextStep: 'nothing: what has changed since is compared again, and then writes move',
    details,
  });
}

/** The new side is behind, and has not come close within one try. */
export class TooFarBehind extends VerdigrisError {}

/**
 * Asks for the hold only when the new side is close behind: the marker's round trip is part of the hold. What the worker's
 * distance adds to it is no backlog, nor is what a COMMIT takes on the old side (a slow disk, a synchronous standby): both are
 * allowed where the hold still ends within maxHold.
 */
export async function waitForShortLag(
  sessions: Pick<Sessions, 'aside' | 'to'>,
  promotion: Promotion,
  withinMs = CATCHES_UP_WITHIN_MS,
): Promise<void> {
  const direction = directionTo(otherSide(promotion.from));
  const until = performance.now() + withinMs;
  let best = Number.POSITIVE_INFINITY;
  let pace: Pace | undefined;
  for (let look = 0; look < 100 && performance.now() < until; look++) {
    promotion.signal?.throwIfAborted();
    const longest = Math.min(5_000, until - performance.now());
    const marker = await timeMarker(sessions.aside, sessions.to, direction, longest, promotion.signal);
    const lag = marker.arrivedMs;
    if (lag < SHORT_LAG_MS) return;
    best = Math.min(best, lag);
    pace = quicker(await paceOf(sessions, marker.writtenMs), pace);
    // One slow COMMIT may have been somebody else's burst: the quickest of two and more is what it takes.
    const commitMs = look === 0 ? 0 : pace.commitMs;
    if (!isTooSlow(pace, promotion) && lag < SHORT_LAG_MS + distanceOfMarker(pace) + commitMs) return;
    await sleep(100);
  }
  throw await notClose(sessions.to, promotion, best, pace);
}

/** Long enough for a look at what a new backlog is not: a slow COMMIT, the worker's distance. */
const LOOKS_ONCE_MORE_MS = 1_000;

/**
 * What is looked at and waited for before a hold takes seconds, up to half a minute: a job on the old side may have committed
 * its rows since. The next try waits for them.
 *
 * @throws VerdigrisError PromotionBlocked
 */
export async function refuseNewBacklog(sessions: Pick<Sessions, 'aside' | 'to'>, promotion: Promotion): Promise<void> {
  try {
    await waitForShortLag(sessions, promotion, LOOKS_ONCE_MORE_MS);
  } catch (error) {
    if (!(error instanceof TooFarBehind)) throw error;
    const { what: message, nextStep } = error;
    // Nothing for people: no loss is offered for what passes.
    throw new VerdigrisError({ type: 'PromotionBlocked', message, nextStep, cause: error });
  }
}

/** What of a hold is no backlog: the shortest round trips seen, and the quickest COMMIT of a row on the old side, ms. */
interface Pace extends RoundTrips {
  readonly commitMs: number;
}

async function paceOf({ aside, to }: Pick<Sessions, 'aside' | 'to'>, writtenMs: number): Promise<Pace> {
  const roundTrips = await measureRoundTrips(aside, to);
  return { ...roundTrips, commitMs: Math.max(0, writtenMs - roundTrips.from) };
}

function quicker(one: Pace, other = one): Pace {
  return {
    from: Math.min(one.from, other.from),
    to: Math.min(one.to, other.to),
    commitMs: Math.min(one.commitMs, other.commitMs),
  };
}

/** The marker, what is written on the new side, and the decision: so many of them follow one another in a hold. */
const COMMITS_OF_HOLD = 3;

/** How long a hold takes where nothing is behind, ms, at most. */
function leastHold(pace: Pace): number {
  return distanceOfHold(pace) + COMMITS_OF_HOLD * pace.commitMs;
}

/** Whether the hold would be given up for its round trips and COMMITs alone. */
function isTooSlow(pace: Pace, { maxHoldMs }: Promotion): boolean {
  return leastHold(pace) > maxHoldMs;
}

async function notClose(
  session: Session,
  promotion: Promotion,
  best: number,
  pace: Pace | undefined,
): Promise<VerdigrisError> {
  const { from, migration, maxHoldMs } = promotion;
  const to = otherSide(from);
  let beside = '';
  if (pace !== undefined) {
    const ways = `${Math.round(pace.from)} ms to ${from}, ${Math.round(pace.to)} ms to ${to}`;
    const distance = distanceOfMarker(pace);
    // No loss may be offered for this: what is on the new side is as new as can be.
    if (isTooSlow(pace, promotion) && best < SHORT_LAG_MS + distance + pace.commitMs) {
      const writersWait = `alone writers would wait for up to ${Math.round(leastHold(pace))} ms, and promote.maxHold is ${maxHoldMs} ms. ${to} is close behind`;
      const isFar = distanceOfHold(pace) > COMMITS_OF_HOLD * pace.commitMs;
      return promotionBlocked(
        isFar
          ? `the worker is too far from the databases: by its round trips (${ways}) ${writersWait}: run the worker nearer to both`
          : `a COMMIT on ${from} takes ${Math.round(pace.commitMs)} ms: by its COMMITs and the worker's round trips (${ways}) ${writersWait}: is its disk slow, or the synchronous standby that it waits for?`,
      );
    }
    beside = ` beside the ${Math.round(distance)} ms of its round trips (${ways}) and the ${Math.round(pace.commitMs)} ms of a COMMIT on ${from}`;
  }
  const took = Number.isFinite(best) ? `took ${Math.round(best)} ms at best` : 'did not arrive';
  const blocked = promotionBlocked(
    `${to} is too far behind: a marker ${took}, ${SHORT_LAG_MS} ms are asked for${beside}. ${await whoBlocksApply(session, feedName(migration, directionTo(to)))}`,
  );
  return new TooFarBehind({ type: 'PromotionBlocked', message: blocked.what, nextStep: blocked.nextStep });
}

/** An apply that stands still does not go on by being waited for: then who is in the way is told, ms. */
const CATCHES_UP_WITHIN_MS = 15_000;

/** A marker that takes longer than this, beside the distance, means a backlog, and the hold would have to wait for it. */
const SHORT_LAG_MS = 20;

/**
 * Waits until no transaction on the new side's server, in any of its databases, would keep the slot from being made.
 */
export async function waitForNoWriters(to: Session, promotion: Promotion): Promise<void> {
  for (let look = 0; look < 100; look++) {
    promotion.signal?.throwIfAborted();
    const who = await longWriters(to, { olderThanSeconds: OLD_WRITER_SECONDS, everywhere: true });
    if (who === null) return;
    if (look === 99) {
      throw promotionBlocked(`${otherSide(promotion.from)}: ${who} would keep the slot of the way back waiting`);
    }
    await sleep(100);
  }
}

/** Waits until no transaction is about to write past the fence: the hold would only be given up for it. */
export async function waitForNoUnfencedChanges(from: Session, promotion: Promotion): Promise<void> {
  for (let look = 0; look < 100; look++) {
    promotion.signal?.throwIfAborted();
    const changes = await readUnfencedChanges(from, promotion);
    const [change] = changes;
    if (change === undefined) return;
    if (look === 99) throw promotionBlocked(`${describeChange(promotion, change)}. ${await whoChanges(from, changes)}`);
    await sleep(100);
  }
}

/** A transaction older than this will not end within the few milliseconds that a slot takes. */
const OLD_WRITER_SECONDS = 0.1;
