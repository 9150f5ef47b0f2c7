import { patched } from '@temporalio/workflow';
import type { Stage } from '../src/plan/schema.js';
import { expiredApproval } from './lib/approval-question.js';
import type { RunRef } from './lib/run-ref.js';
import type { StepOptions, Story } from './lib/story.js';
import { comparedLongAgo, comparedWithinMs, type Comparison } from './compared-ahead.js';
import { schemaHasStayed } from './guard-schema.js';
import { whileReady, type Ready } from './ready-webhooks.js';
import { untilGoingOn, watched } from './shift-traffic.js';
import { verifyEmptied } from './verify.js';
import { approvedFor, earliest, hasLoadLimit, hasWindow, isQuietNow, windowNow, windowOpens } from './windows.js';

/* What must be so before a promotion is tried: looked at in turn, and once more in the step itself. */

/** Returns when writes may move: approved where somebody is asked (`why`), inside the window, not paused. Or when a gate has failed. */
export async function untilItMayBegin(
  story: Story,
  ref: RunRef,
  lastStage: Stage | null,
  why: string | null,
  whileStopped: StepOptions,
  ahead: Comparison,
): Promise<void> {
  const whileWatched = (work: () => Promise<void>): Promise<boolean> => watched(story, ref, lastStage, work);
  if (why !== null) {
    const askedAt = Date.now();
    if (!(await whileWatched(() => approvedFor(story, ref, 'promote', 'promote', why)))) return;
    // What was written while people thought it over has not been compared yet.
    const isOld =
      patched('rows are compared again after a long wait for the approval') &&
      Date.now() - askedAt > comparedWithinMs(ref);
    if (isOld && !(await whileWatched(ahead.work))) return;
  }
  if (hasWindow(ref, 'promote')) {
    const opens = await whileWatched(async () => {
      // What was written while a window was waited for has not been compared yet; then the window and the load are as they are.
      while (await windowOpens(story, ref, 'promote', ahead)) await ahead.work();
    });
    if (!opens) return;
  }
  if (!(await untilGoingOn(story, ref, lastStage))) return;
  const emptied = await schemaHasStayed(story, ref, whileStopped);
  // Nobody need be asked, nor wait, for what is known now.
  if (emptied.length > 0 && !(await whileWatched(() => verifyEmptied(story, ref)))) return;
  if (!(await untilGoingOn(story, ref, lastStage)) || ahead.age() === null) return;
  // Whatever it was that took its time, the window and the load are looked at once more behind it.
  if (await whileWatched(ahead.work)) await untilItMayBegin(story, ref, lastStage, null, whileStopped, ahead);
}

/** Webhooks may have kept the promotion waiting for long. */
export async function isStillQuiet(story: Story, ref: RunRef, lastStage: Stage | null, ready: Ready): Promise<boolean> {
  if (!hasLoadLimit(ref)) return true;
  let quiet = false;
  await watched(story, ref, lastStage, async () => {
    quiet = await isQuietNow(story, ref, 'promote', whileReady(ready));
  });
  return quiet;
}

/**
 * How long a promotion is tried without the gates being watched. What keeps it away for longer (a server that does not
 * answer) is a matter for people: it goes back to the gates, the window and the approval.
 */
const TRIED_FOR_MS = 300_000;

interface Beginning {
  /** Why a promotion may not begin now although it could a moment ago. */
  readonly late: string | null;
  /** Until when it may, ISO 8601: as long as its window is open, its approval counts, and it is tried at all. */
  readonly notAfter: string;
}

/** Looked at in the step itself, since a pause may have come between. */
export async function mayBegin({ run }: Story, ref: RunRef, { age }: Comparison): Promise<Beginning> {
  const triedUntil = new Date(Date.now() + TRIED_FOR_MS).toISOString();
  const expired = run.approvalExpired('promote');
  if (expired !== undefined) return { late: expiredApproval('the promotion', expired), notAfter: expired };
  const agedMs = age();
  if (agedMs !== null) return { late: comparedLongAgo(agedMs), notAfter: triedUntil };
  const window = await windowNow(ref, 'promote');
  const until = window.closed === null ? window.until : null;
  return { late: window.closed, notAfter: earliest([until, run.approvedUntil('promote')], triedUntil) };
}
