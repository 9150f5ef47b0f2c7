import { sleep } from '@temporalio/workflow';
import type { NotOpen } from '../activities/stage-opening.js';
import type { Stage } from '../src/plan/schema.js';
import { actOpening } from './lib/activities.js';
import { applicationFailure, failureMessage, isCancelled } from './lib/failure.js';
import type { RunRef } from './lib/run-ref.js';
import type { Story } from './lib/story.js';
import { watched } from './shift-traffic.js';
import { webhooksLead } from './webhooks-lead.js';
import { windowOpens } from './windows.js';

/** The waits between two openings, twice as long each time: an instance that stays behind must not fill the history. */
const FIRST_WAIT_MS = 2_000;
const LONGEST_WAIT_MS = 5 * 60_000;
/** Where blue could not even be told to take the reads back, nobody watches them. */
const LONGEST_UNKNOWN_MS = 20_000;

/**
 * Opens a stage, and returns when it is in effect. What keeps it from that, such as instances that have not confirmed
 * it, is said in the status, with the names; its reads are not on green then, and it is opened again.
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
  let inForce = before;
  let waitMs = FIRST_WAIT_MS;
  for (;;) {
    const not = await tried(ref, stage, summary);
    if (not === null) break;
    const { greenReadPercent = run.status.greenReadPercent, flagsOwed = null } = not.details ?? {};
    if (greenReadPercent === 0) inForce = null;
    story.webhooks.tell('readsBack', greenReadPercent);
    run.onFlagsOwed(ref, flagsOwed);
    run.saw({ greenReadPercent });
    const waiting = { for: 'gate', why: `${not.why}; it is tried again` } as const;
    run.waitFor(waiting);
    const pauseMs = not.details === undefined ? Math.min(waitMs, LONGEST_UNKNOWN_MS) : waitMs;
    await watched(story, ref, inForce, async () => {
      await sleep(pauseMs, { summary: `stage ${stage.percent} % is opened again` });
      await windowOpens(story, ref, 'traffic');
    });
    waitMs = Math.min(2 * waitMs, LONGEST_WAIT_MS);
    if (story.webhooks.hears('stage')) await webhooksLead(story, ref, stage, inForce);
    run.waitFor(waiting);
  }
  run.saw({ greenReadPercent: stage.percent });
  if (waitMs > FIRST_WAIT_MS) run.waitFor(null);
}

/** @returns why the stage is not in effect, where that can pass; null when it is */
async function tried(
  ref: RunRef,
  stage: Stage,
  summary: string,
): Promise<{ readonly why: string; readonly details: NotOpen | undefined } | null> {
  try {
    await actOpening(summary).openStage(ref, stage);
    return null;
  } catch (error) {
    const failure = isCancelled(error) ? undefined : applicationFailure(error);
    if (failure === undefined || failure.nonRetryable === true) throw error;
    const [why = ''] = failureMessage(error).split('\n', 1);
    return { why, details: failure.details?.[0] as NotOpen | undefined };
  }
}
