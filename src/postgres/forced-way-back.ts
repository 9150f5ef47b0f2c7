import { feedName } from './feed.js';
import { enabledSubscriptionsSql } from './feed-objects.js';
import { forgetProgress, readProgress, writeProgress, type ProgressKey } from './migrate/progress-row.js';
import type { Run } from './ownership.js';
import { readDecisionAsActor } from './promotion-decision.js';
import { keptSessions, openActors } from './promotion-sessions.js';
import type { Databases, Session } from './session.js';
import { ROUTE_IS_STILL } from './state.js';
import { enableSubscriptionWhere } from './subscription.js';

/*
 * A way back whose loss was accepted switches off the feed to blue before it moves writes. That is written down on green
 * first: where the try does not get through, the feed goes on; where writes have moved, the row says that they did so
 * with the loss.
 */

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
