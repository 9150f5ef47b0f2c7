import { feedName } from './feed.js';
import { enabledSubscriptionsSql, findSubscriptions } from './feed-objects.js';
import { letArrive } from './last-arrival.js';
import { whoBlocksApply } from './locks.js';
import { forgetProgress, readProgress, writeProgress, type ProgressKey } from './migrate/progress-row.js';
import { promotionBlocked } from './hold.js';
import type { Run } from './ownership.js';
import { readDecisionAsActor } from './promotion-decision.js';
import { TooFarBehind } from './promotion-readiness.js';
import { keptSessions, openActors, type Actors } from './promotion-sessions.js';
import type { Databases, Session } from './session.js';
import { ROUTE_IS_STILL } from './state.js';
import { disableSubscriptions, enableSubscriptionWhere } from './subscription.js';

/*
 * A way back whose loss was accepted switches off the feed to blue before it moves writes, as late as can be: a feed that
 * lives brings what would be lost. That is written down on green first: where the try does not get through, the feed goes
 * on; where writes have moved, the row says that they did so with the loss.
 */

/** The feed to blue in the tries of a way back whose loss was accepted. */
export interface FeedLeftBehind {
  /**
   * Right before a hold: nothing arrives any more. By the sessions of the actors, so that a worker that comes too late ends
   * no feed.
   */
  end(actors: Actors): Promise<void>;
  /** After a try that has failed: as feedGoesOn(). */
  goOn(): Promise<void>;
}

interface ForcedTries {
  readonly databases: Databases;
  readonly run: Run;
  /** The epoch that they are to end. */
  readonly epoch: number;
  readonly green: Session;
  /** Throws where blue lacks clearly more than was accepted. */
  readonly refuseGrown: (green: Session) => Promise<void>;
  readonly signal: AbortSignal;
}

/** Lets the feed to blue bring what it can before it ends, and counts what it has not brought. */
export function feedLeftBehind({ databases, run, epoch, green, refuseGrown, signal }: ForcedTries): FeedLeftBehind {
  let withinMs = ARRIVES_WITHIN_MS;
  return {
    end: async ({ main, to }) => {
      const hasArrived = await letArrive(main, to, run, withinMs, signal);
      withinMs = hasArrived ? BEGINS_AGAIN_WITHIN_MS : ARRIVES_WITHIN_MS;
      const arrivedAt = performance.now();
      // The counters are a second late: where all has arrived, what is counted at once would be what blue has.
      if (!hasArrived) await refuseGrown(main);
      await noteForced(main, to, run, epoch);
      await switchOff(to, feedName(run.migration, 'to_blue'), signal);
      // A lock may have kept that waiting, with some of its streams off.
      if (!hasArrived || performance.now() - arrivedAt > OFF_SOON_MS) await refuseGrown(main);
    },
    goOn: () => feedGoesOn(databases, run, green, signal),
  };
}

/** So long a feed may take to bring what is on its way, ms: one that stands still does not go on by being waited for. */
const ARRIVES_WITHIN_MS = 2_000;

/** One that was switched on again: PostgreSQL 15 begins its worker 5 s after it has begun one (wal_retrieve_retry_interval), ms. */
const BEGINS_AGAIN_WITHIN_MS = 7_000;

/** What is written while it is switched off is not counted below this, ms: as a rule it takes a tenth. */
const OFF_SOON_MS = 1_000;

/** @throws VerdigrisError LockNotHad (retryable); TooFarBehind where a worker does not stop: tries would not help */
async function switchOff(blue: Session, feed: string, signal: AbortSignal): Promise<void> {
  const names = await findSubscriptions(blue, feed);
  if (await disableSubscriptions(blue, names, { forMs: OFF_WITHIN_MS, signal })) return;
  const { what, nextStep } = promotionBlocked(
    `blue: a worker of the feed ${feed} does not stop. ${await whoBlocksApply(blue, feed)}`,
  );
  throw new TooFarBehind({ type: 'PromotionBlocked', message: what, nextStep });
}

/** Then people are told who is in the way, ms. */
const OFF_WITHIN_MS = 15_000;

/** What a try of this kind has begun. */
interface Forced {
  /** The epoch that it was to end. */
  readonly epoch: number;
  /** The subscriptions on blue that were enabled before. */
  readonly switchedOff: readonly string[];
}

function forcedKey(runId: string): ProgressKey {
  return { runId, step: 'way back', object: 'forced' };
}

/** Written before the feed is switched off. What a try that died has switched off is in it, too. */
export async function noteForced(green: Session, blue: Session, run: Run, epoch: number): Promise<void> {
  const { rows } = await blue.query<{ name: string }>(enabledSubscriptionsSql(feedName(run.migration, 'to_blue')));
  const earlier = (await readForced(green, run.runId))?.switchedOff ?? [];
  const forced: Forced = { epoch, switchedOff: [...new Set([...earlier, ...rows.map(({ name }) => name)])] };
  await writeProgress(green, forcedKey(run.runId), forced, false);
}

/** Whether writes have left green with the loss, in the decision that has begun this epoch. */
export async function wasForced(green: Session, runId: string, epoch: number): Promise<boolean> {
  return (await readForced(green, runId))?.epoch === epoch - 1;
}

/**
 * Switches on again what a try has switched off that did not get through. Behind the locks of both actors nobody decides
 * meanwhile: a feed that goes on after the decision would bring old values over what the application writes on blue.
 *
 * @throws VerdigrisError LockNotHad (retryable)
 */
export async function feedGoesOn(databases: Databases, run: Run, green: Session, signal: AbortSignal): Promise<void> {
  const forced = await readForced(green, run.runId);
  if (forced === undefined) return;
  const { keep, closeAll } = keptSessions();
  try {
    const actors = await openActors(databases, 'green', keep, signal);
    const { decided, epoch } = await readDecisionAsActor(actors.main, run.migration, 'green');
    if (decided) return;
    for (const name of forced.switchedOff) {
      const isSo = { text: ROUTE_IS_STILL, values: [run.migration, 'green', epoch] };
      if (!(await enableSubscriptionWhere(actors.to, name, isSo, { forMs: LOCKS_WITHIN_MS, signal }))) return;
    }
    await forgetProgress(actors.main, forcedKey(run.runId));
  } finally {
    await closeAll();
  }
}

/** Then the next try has it done. */
const LOCKS_WITHIN_MS = 10_000;

async function readForced(green: Session, runId: string): Promise<Forced | undefined> {
  return (await readProgress<Forced>(green, forcedKey(runId)))?.state;
}
