import { patched, sleep } from '@temporalio/workflow';
import { askedAnew, expiredApproval } from './lib/approval-question.js';
import { actFast } from './lib/activities.js';
import { failureDetails, failureMessage, failureType, isCancelled } from './lib/failure.js';
import { sparingMs } from './lib/history-room.js';
import type { RunRef } from './lib/run-ref.js';
import type { Saga } from './lib/saga.js';
import type { StepOptions, Story } from './lib/story.js';
import { firstLine } from '../src/failure-text.js';
import type { RestartedDetails } from '../src/postgres/promotion-readiness.js';
import type { Stage } from '../src/plan/schema.js';
import { comparedLongAgo, comparedWithinMs, comparison, type Comparison } from './compared-ahead.js';
import { schemaHasStayed } from './guard-schema.js';
import { finishLateDecision, moveWrites } from './move-writes.js';
import { readyWebhooks, whileReady, whyAskAgain, type Ready } from './ready-webhooks.js';
import { untilGoingOn, watched } from './shift-traffic.js';
import { verifyEmptied } from './verify.js';
import { webhooksAgree } from './webhooks-lead.js';
import { approvedFor, earliest, hasLoadLimit, hasWindow, isQuietNow, windowNow, windowOpens } from './windows.js';
import { writesBackToBlue } from './writes-back.js';

const APPROVAL = 'approval before writes move to green';

/**
 * Phase 6: writes move from blue to green, all at once. Why no write is lost is told in src/postgres/promote.ts, where
 * one transaction on blue decides. Here: what must be so before it is tried, the tries, and what follows when they have
 * ended otherwise: rows are compared (compared-ahead.ts), somebody approves it, its window and its load allow it
 * (windows.ts), webhooks agree (ready-webhooks.ts), writes move (move-writes.ts), else all of that again.
 */
export async function promote(story: Story, ref: RunRef, saga: Saga): Promise<void> {
  const { run } = story;
  run.enter('promote');
  saga.push({
    name: 'writes back to blue',
    critical: () => 'writes are not back',
    undo: () => writesBackToBlue(run, ref),
  });

  const lastStage = ref.plan.traffic.stages.at(-1) ?? null;
  const whileStopped = async (wait: () => Promise<void>): Promise<void> => {
    while (!(await watched(story, ref, lastStage, wait))) continue;
  };
  let why = ref.plan.traffic.approval.before.includes('promote') ? APPROVAL : null;
  // Once it was asked for, it is needed: one that counts no more is asked for again.
  let isNeeded = false;
  // Rows are compared once, and again whenever a gate has failed since, or a partition may have been emptied.
  let comparedAt = -1;
  let emptiedInARow = 0;
  const ahead = comparison(story, ref);
  for (;;) {
    isNeeded ||= why !== null;
    const { voided } = run;
    const isVoid = (): boolean => run.voided !== voided;
    if (comparedAt !== voided) await watched(story, ref, lastStage, ahead.work);
    comparedAt = voided;
    if (!isVoid()) await untilItMayBegin(story, ref, lastStage, why, { stopped: whileStopped }, ahead);
    const nobodyIsAsked = isVoid() || !story.webhooks.hears('promoting');
    const answer = nobodyIsAsked ? null : await webhooksAgree(story, ref, lastStage);
    if (answer !== null && answer !== 'gate failed') {
      why = answer.why;
      run.warn([why]);
      continue;
    }
    const lookedAtAgain = isNeeded
      ? askedAnew(APPROVAL)
      : 'a gate has failed: all that leads to a promotion is done anew';
    const askAgain = (): string | null => (isVoid() && isNeeded ? lookedAtAgain : null);
    const { resumes } = run;
    const ready = readyWebhooks(story);
    // Webhooks that take hours to agree stay ready meanwhile: asked again behind it, they would take as long.
    if (!nobodyIsAsked && !isVoid() && ahead.age() !== null) {
      await watched(story, ref, lastStage, () => ahead.work(whileReady(ready)));
    }
    const isQuiet = nobodyIsAsked || isVoid() || (await isStillQuiet(story, ref, lastStage, ready));
    if (isVoid() || !isQuiet) {
      if (!nobodyIsAsked && answer === null) ready.goBack();
      why = askAgain();
      continue;
    }
    try {
      const work = async (): Promise<Ended> => {
        const now = await mayBegin(story, ref, ahead);
        const late = (isVoid() ? lookedAtAgain : now.late) ?? whyAskAgain(story, resumes);
        if (late !== null) return { by: 'time', why: late };
        const limits = { notAfter: now.notAfter, isOver: () => story.isAbandoned };
        return endedBy(() => moveWrites(run, ref, 'blue', limits));
      };
      const ended = await story.step('promoting green', work, {
        interrupted: () => {
          ready.goBackWhileStopped();
          return afterInterruption(story, ref, lastStage);
        },
        done: () => (run.wasPromoted ? 'promoted' : undefined),
        stopped: (wait) => {
          ready.goBackWhileStopped();
          return whileStopped(wait);
        },
        ends: (error) =>
          isBlocked(error) && patched('a promotion that is blocked is approved anew, also where failures hold'),
      });
      if (ended === 'promoted') {
        // Of a stage that is over.
        run.allClear('gates');
        return;
      }
      if (ended.by !== 'emptied') emptiedInARow = 0;
      if (ended.by !== 'gate') run.warn([ended.why]);
      ready.goBack();
      switch (ended.by) {
        case 'gate': {
          const summary = 'a gate has failed: its watch says what follows';
          await watched(story, ref, lastStage, () => sleep(LOOK_AGAIN_MS, { summary }));
          why = askAgain();
          break;
        }
        case 'emptied': {
          // What was approved still is: rows are compared once more, and it is tried again.
          why = null;
          if (!patched('only tables whose partitions may have been emptied are compared again')) {
            comparedAt = -1;
            break;
          }
          const isOften = ++emptiedInARow >= EMPTIED_TRIES;
          const heldFor = `${firstLine(ended.why)}. That was so in ${EMPTIED_TRIES} tries in a row: ${STOP_THE_JOB}`;
          const stays = await watched(story, ref, lastStage, async () => {
            if (isOften) await story.hold(heldFor);
            await verifyEmptied(story, ref);
          });
          if (isOften) emptiedInARow = 0;
          if (!stays) why = askAgain();
          break;
        }
        case 'restarted':
          // What was approved still is.
          why = null;
          comparedAt = -1;
          break;
        case 'poolers':
          why = ended.why;
          await untilPoolersGoOn(story, ref, lastStage);
          if (!run.wasPromoted) break;
          run.allClear('gates');
          return;
        case 'time': {
          // A window that has closed is waited for; an approval that is too old, or void, is asked for again.
          const counts = run.isApproved('promote') && run.approvalExpired('promote') === undefined;
          why = isNeeded && !counts ? ended.why : null;
        }
      }
    } catch (error) {
      // Nothing has happened: writes are on blue as before. Back to the approval, saying what stood in the way.
      if (!isBlocked(error)) throw error;
      // Whoever approves it then knows that all rows were compared again.
      if (isOfOtherServer(error)) comparedAt = -1;
      why = failureMessage(error);
      run.warn([why]);
      ready.goBack();
    }
  }
}

/**
 * What has ended the tries; where it is not the promotion, nothing has happened, and nobody need remove anything before the
 * next ones. A gate of the last stage had failed before they could begin; the clients of poolers may still wait; a partition
 * may have been emptied since rows were compared, or a server started anew; its window or its approval is over.
 */
type Ended =
  | 'promoted'
  | { readonly by: 'gate' }
  | { readonly by: 'poolers' | 'emptied' | 'restarted' | 'time'; readonly why: string };

async function endedBy(move: () => Promise<unknown>): Promise<Ended> {
  try {
    await move();
    return 'promoted';
  } catch (error) {
    const type = failureType(error);
    if (type === 'GateFailed') return { by: 'gate' };
    if (type === 'PartitionEmptied') return { by: 'emptied', why: failureMessage(error) };
    if (isOfRestarted(error)) return { by: 'restarted', why: failureMessage(error) };
    if (type === 'PoolNotReleased' && !isCancelled(error)) return { by: 'poolers', why: failureMessage(error) };
    throw error;
  }
}

/** Whether something stood in the way of all tries, which somebody is to remove before the promotion is approved again. */
function isBlocked(error: unknown): boolean {
  return ['PromotionBlocked', 'FenceTampered'].includes(failureType(error) ?? '') || isOfOtherServer(error);
}

/** Whether a side was failed over or restored since rows were compared. */
function isOfOtherServer(error: unknown): boolean {
  return failureType(error) === 'ServerReplaced';
}

/** Whether that may be the same server as before, with all its rows. */
function isOfRestarted(error: unknown): boolean {
  return isOfOtherServer(error) && failureDetails<Partial<RestartedDetails>>(error)?.isRestarted === true;
}

/** After so many tries in a row that a partition with another file has ended, somebody is to stop what does that. */
const EMPTIED_TRIES = 3;

const STOP_THE_JOB =
  'stop the job that gives partitions other files (TRUNCATE, VACUUM FULL, CLUSTER, pg_repack) until writes have moved, then resume';

/** How long the watch of the last stage gets to say that a gate has failed; it is asked again then. */
const LOOK_AGAIN_MS = 2_000;

/** The longest time between two tries of that, ms, while the history has room. */
const POOLERS_AGAIN_MS = 300_000;
/** And when it has little: nobody is to wait for longer behind a pooler that is back. */
const POOLERS_AT_LAST_MS = 3_600_000;

/**
 * The next promotion may wait for an approval for days: their clients go on as soon as that can be, and gates are watched. What a
 * worker that is cut off has decided by then is finished: the run is promoted.
 */
async function untilPoolersGoOn(story: Story, ref: RunRef, lastStage: Stage | null): Promise<void> {
  const { run } = story;
  let decided: unknown;
  const letGo = async (): Promise<void> => {
    for (let pauseMs = 5_000; ; pauseMs = Math.min(pauseMs * 2, POOLERS_AGAIN_MS)) {
      let left: string | null;
      try {
        left = await actFast('let clients of the poolers go on').withdrawPromotion(ref, true, true);
      } catch (error) {
        if (failureType(error) !== 'WritesOnGreen') throw error;
        decided = error;
        return;
      }
      if (typeof left !== 'string') return;
      if (run.status.waiting?.why !== left) run.waitFor({ for: 'retry', why: left });
      // Only what goes on for long fills the history: the first tries come soon whatever it has room for.
      const isLong = pauseMs === POOLERS_AGAIN_MS;
      await sleep(isLong ? sparingMs(pauseMs, POOLERS_AT_LAST_MS) : pauseMs, { summary: 'poolers: try again' });
    }
  };
  while (!(await watched(story, ref, lastStage, letGo))) continue;
  run.waitFor(null);
  if (decided !== undefined) await finishLateDecision(run, ref, decided, { isOver: () => story.isAbandoned });
}

/**
 * A pause, or DDL, has ended the tries. Their worker may have died in its hold, and the next try comes with the resume:
 * until then nobody else would let the clients of the poolers go on.
 */
async function afterInterruption(story: Story, ref: RunRef, lastStage: Stage | null): Promise<void> {
  if (!patched('clients of poolers go on when the tries of a promotion are interrupted')) return;
  story.run.waitFor({ for: 'retry', why: 'ending the tries of the promotion, so that clients of poolers go on' });
  await untilPoolersGoOn(story, ref, lastStage);
}

/** Returns when writes may move: approved where somebody is asked (`why`), inside the window, not paused. Or when a gate has failed. */
async function untilItMayBegin(
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
async function isStillQuiet(story: Story, ref: RunRef, lastStage: Stage | null, ready: Ready): Promise<boolean> {
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
async function mayBegin({ run }: Story, ref: RunRef, { age }: Comparison): Promise<Beginning> {
  const triedUntil = new Date(Date.now() + TRIED_FOR_MS).toISOString();
  const expired = run.approvalExpired('promote');
  if (expired !== undefined) return { late: expiredApproval('the promotion', expired), notAfter: expired };
  const agedMs = age();
  if (agedMs !== null) return { late: comparedLongAgo(agedMs), notAfter: triedUntil };
  const window = await windowNow(ref, 'promote');
  const until = window.closed === null ? window.until : null;
  return { late: window.closed, notAfter: earliest([until, run.approvedUntil('promote')], triedUntil) };
}
