import { sleep } from '@temporalio/workflow';
import type { BrokenOff, NotOpen } from '../activities/stage-opening.js';
import { firstLine, NEXT_STEP } from '../src/failure-text.js';
import type { Stage } from '../src/plan/schema.js';
import { tellsOfRefusedLogin } from '../src/refused-login.js';
import { actOpening } from './lib/activities.js';
import { applicationFailure, cancelledWith, failureMessage, isCancelled } from './lib/failure.js';
import { sparingMs } from './lib/history-room.js';
import type { RunRef } from './lib/run-ref.js';
import type { Story } from './lib/story.js';
import { allReadsBack, readsGo, watched } from './shift-traffic.js';
import { stageMayOpenNow, untilStageMayOpenAgain } from './stage-may-open.js';

/** The waits between two openings, twice as long each time: an instance that stays behind must not fill the history. */
const FIRST_WAIT_MS = 2_000;
const LONGEST_WAIT_MS = 5 * 60_000;

interface Opening {
  readonly story: Story;
  readonly ref: RunRef;
  readonly stage: Stage;
  readonly summary: string;
  /** The stage whose gates keep their authority until this one is open; null while all reads are on blue. */
  inForce: Stage | null;
  /** Whether it moves reads. One whose share is in force already is only measured anew: nobody is asked for that. */
  moves: boolean;
  /** Whether the webhooks lead to this stage already. */
  isLed: boolean;
  /** Whether its activity has begun: from then on it may have moved the reads. */
  hasBegun: boolean;
}

/** Why a stage is not open. `late`: what led to it must be looked at again. */
type NotYet = { readonly late: true } | { readonly late: false; readonly why: string; readonly details?: NotOpen };

/** What nobody can try again. It ends the story: while somebody is waited for, no gate would watch what it has left. */
interface Failed {
  readonly failed: unknown;
}

/**
 * Opens a stage that may open (see untilStageMayOpen), and returns when it is in effect. What keeps it from that, such as
 * instances that have not confirmed it, is said in the status, with the names; its reads are not on green then, and it is
 * opened again. A pause or a hold stops it: the reads stay where they were, or go back to blue where they had moved.
 *
 * @param before the stage that is in force until then, whose gates keep their authority
 */
export async function opened(
  story: Story,
  ref: RunRef,
  stage: Stage,
  summary: string,
  before: Stage | null,
): Promise<void> {
  const { run } = story;
  const moves = before?.percent !== stage.percent;
  const opening: Opening = {
    ...{ story, ref, stage, summary, inForce: before, moves, isLed: moves, hasBegun: false },
  };
  let waitMs = FIRST_WAIT_MS;
  for (;;) {
    const not = await attempt(opening);
    if (not === null) break;
    const isThere = !opening.moves && opening.inForce !== null;
    opening.moves = true;
    if (not.late) leadBack(opening);
    else {
      run.waitFor({ for: 'gate', why: `${not.why}; it is tried again` });
      await takeNote(opening, not.details);
      const isAsBefore = await watched(story, ref, opening.inForce, () =>
        sleep(sparingMs(waitMs), { summary: `stage ${stage.percent} % is opened again` }),
      );
      // Its own gate has failed meanwhile: it was opened for that, and judged.
      if (!isAsBefore && isThere) return;
      waitMs = Math.min(2 * waitMs, LONGEST_WAIT_MS);
    }
    await untilStageMayOpenAgain(story, ref, stage, opening.inForce);
    opening.isLed = true;
    if (!not.late) run.waitFor({ for: 'gate', why: `${not.why}; it is tried again` });
  }
  run.saw({ greenReadPercent: stage.percent });
  if (waitMs > FIRST_WAIT_MS) run.waitFor(null);
}

/** One try, as a step: a pause ends it, and it has really stopped by then. @returns null when the stage is open */
async function attempt(opening: Opening): Promise<NotYet | null> {
  const { story, ref, stage } = opening;
  const { resumes } = story.run;
  const not = await story.step(readsGo(stage), () => tried(opening, resumes), {
    interrupted: (error) => backIfMoved(opening, error),
    stopped: async (wait) => {
      leadBack(opening);
      while (!(await watched(story, ref, opening.inForce, wait))) continue;
    },
  });
  if (not !== null && 'failed' in not) throw not.failed;
  return not;
}

async function tried(opening: Opening, resumes: number): Promise<NotYet | Failed | null> {
  const { story, ref, stage, summary, moves } = opening;
  opening.hasBegun = false;
  const may = moves ? await stageMayOpenNow(story, ref, stage, opening.inForce) : { until: null };
  // While it was paused, windows have closed, and what the webhooks have said may be so no more.
  if (may === null || (moves && story.run.resumes !== resumes)) return { late: true };
  opening.hasBegun = true;
  try {
    const activity = actOpening(summary);
    const { inForce } = opening;
    if (inForce !== null) await activity.openStage(ref, stage, may.until, inForce);
    else await (may.until === null ? activity.openStage(ref, stage) : activity.openStage(ref, stage, may.until));
    return null;
  } catch (error) {
    if (isCancelled(error)) throw error;
    const failure = applicationFailure(error);
    if (failure === undefined || failure.nonRetryable === true) return { failed: error };
    const [reason = '', next = ''] = failureMessage(error).split(NEXT_STEP, 2);
    const line = firstLine(reason);
    // It is the worker that lacks something: nowhere else is said what.
    const isTheWorkers = failure.type === 'ConnectionUnknown' || tellsOfRefusedLogin(line);
    const why = isTheWorkers ? `${line}; ${next}` : line;
    const details = failure.details?.[0] as NotOpen | undefined;
    return { late: false, why, ...(details === undefined ? {} : { details }) };
  }
}

/** A pause has ended the opening. Half open, nobody would watch it for as long as the pause lasts. */
async function backIfMoved(opening: Opening, error: unknown): Promise<void> {
  const { story, ref } = opening;
  if (!opening.hasBegun || cancelledWith<BrokenOff>(error)?.hasMoved === false) return;
  await allReadsBack(story, ref);
  Object.assign(opening, { inForce: null, isLed: false, moves: true });
}

/**
 * Where the reads are now. Where blue could not even be told to take them back, nobody knows, and nobody watches: then
 * they go back first, before anything is waited for.
 */
async function takeNote(opening: Opening, details: NotOpen | undefined): Promise<void> {
  const { story, ref, stage } = opening;
  opening.isLed = false;
  const isKnown = details?.gateFailed === true || details?.greenReadPercent !== stage.percent;
  if (details === undefined || !isKnown) {
    await allReadsBack(story, ref);
    opening.inForce = null;
    return;
  }
  const { greenReadPercent, flagsOwed, readsOwed } = details;
  // Its watch says so, too, at once, and what the plan says is done then.
  if (greenReadPercent === 0 && details.gateFailed !== true) opening.inForce = null;
  story.webhooks.tell('readsBack', greenReadPercent);
  story.run.onFlagsOwed(ref, flagsOwed);
  if (readsOwed !== undefined) story.run.onReadsBack(ref, readsOwed);
  story.run.saw({ greenReadPercent });
}

function leadBack(opening: Opening): void {
  if (opening.isLed) opening.story.webhooks.tell('readsBack', opening.inForce?.percent ?? 0);
  opening.isLed = false;
}
