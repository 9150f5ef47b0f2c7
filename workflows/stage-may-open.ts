import { patched } from '@temporalio/workflow';
import type { Stage } from '../src/plan/schema.js';
import { askedAnew, expiredApproval } from './lib/approval-question.js';
import type { RunRef } from './lib/run-ref.js';
import type { Story } from './lib/story.js';
import { untilGoingOn, watched } from './shift-traffic.js';
import { webhooksLead } from './webhooks-lead.js';
import { approvedFor, earliest, hasLoadLimit, hasWindow, isQuietNow, windowNow, windowOpens } from './windows.js';

/**
 * Returns when a stage may be opened at once: approved where the plan asks for that, inside its window, not paused, and led
 * to by the webhooks. An approval counts for one opening, and one that has expired on the way is asked for again.
 *
 * @param before the stage that is in force, whose gates keep their authority; null while all reads are on blue
 */
export async function untilStageMayOpen(story: Story, ref: RunRef, stage: Stage, before: Stage | null): Promise<void> {
  await untilAnswered(story, ref, stage, before, questionsBefore(story, ref, stage, before));
}

/** The same for one that was not opened when it might: an approval that still counts is not asked for again. */
export async function untilStageMayOpenAgain(
  story: Story,
  ref: RunRef,
  stage: Stage,
  before: Stage | null,
): Promise<void> {
  await untilAnswered(story, ref, stage, before, openQuestions(story, ref, stage, before));
}

/**
 * The last look, just before a stage is opened.
 *
 * @param before as untilStageMayOpen()
 * @returns until when that may be, ISO 8601: as long as its approvals count and its window is open, null without an end; or
 * null when it may not be opened any more
 */
export async function stageMayOpenNow(
  story: Story,
  ref: RunRef,
  stage: Stage,
  before: Stage | null,
): Promise<{ readonly until: string | null } | null> {
  const window = await windowNow(ref, 'traffic');
  if (window.closed !== null || openQuestions(story, ref, stage, before).length > 0) return null;
  const approved = questionsBefore(story, ref, stage, before).map(({ gate }) => story.run.approvedUntil(gate));
  return { until: earliest([...approved, window.until], null) };
}

async function untilAnswered(
  story: Story,
  ref: RunRef,
  stage: Stage,
  before: Stage | null,
  questions: readonly Question[],
): Promise<void> {
  let unanswered = questions;
  while (!(await mayOpen(story, ref, stage, before, unanswered))) unanswered = openQuestions(story, ref, stage, before);
}

/** @returns false when something that was so when it was asked for is not so any more */
async function mayOpen(
  story: Story,
  ref: RunRef,
  stage: Stage,
  before: Stage | null,
  unanswered: readonly Question[],
): Promise<boolean> {
  const whileWatched = (work: () => Promise<void>): Promise<boolean> => watched(story, ref, before, work);
  for (const { gate, why } of unanswered) {
    if (!(await whileWatched(() => approvedFor(story, ref, 'traffic', gate, why)))) return false;
  }
  if (hasWindow(ref, 'traffic')) {
    const opens = await whileWatched(async () => void (await windowOpens(story, ref, 'traffic')));
    if (!opens) return false;
  }
  if (!(await untilGoingOn(story, ref, before))) return false;
  if (openQuestions(story, ref, stage, before).length > 0) return false;
  if (!story.webhooks.hears('stage')) return true;
  if (!(await webhooksLead(story, ref, stage, before))) return false;
  // They may have kept it waiting for days.
  const { resumes } = story.run;
  const leadBack = once(() => story.webhooks.tell('readsBack', before?.percent ?? 0));
  let quiet = true;
  if (hasLoadLimit(ref)) {
    const stopped = (wait: () => Promise<void>): Promise<void> => {
      if (patched('webhooks lead back as soon as a pause stops a stage at its look at the load')) leadBack();
      return wait();
    };
    const isAsBefore = await whileWatched(async () => {
      quiet = await isQuietNow(story, ref, 'traffic', { stopped });
    });
    if (!isAsBefore) return false;
  }
  const wasPaused = story.run.resumes !== resumes;
  if (quiet && !wasPaused && (await stageMayOpenNow(story, ref, stage, before)) !== null) return true;
  leadBack();
  return false;
}

function once(work: () => void): () => void {
  let isDone = false;
  return () => {
    if (!isDone) work();
    isDone = true;
  };
}

const ANEW = 'reads that a failed gate has taken back are asked for like the first ones';

interface Question {
  readonly gate: string;
  readonly why: string;
}

function questionsBefore({ run }: Story, { plan }: RunRef, { percent }: Stage, before: Stage | null): Question[] {
  const { approval, stages } = plan.traffic;
  const isFirst = stages[0]?.percent === percent;
  /** Whoever has let the first users go to green has not let as many go as a later stage leads there at once. */
  const isAnew = (): boolean => before === null && run.voided > 0 && patched(ANEW);
  const asksTraffic = approval.before.includes('traffic') && (isFirst || isAnew());
  const reads = isFirst ? 'the first reads go to green' : 'reads go to green again';
  return [
    ...(asksTraffic ? [{ gate: 'traffic', why: `approval before ${reads}` }] : []),
    ...(approval.before.includes(percent)
      ? [{ gate: `stage-${percent}`, why: `approval before ${percent} % of the reads go to green` }]
      : []),
  ];
}

/** What has been asked for before and must be asked for again: it has expired, or a gate has failed since. */
function openQuestions(story: Story, ref: RunRef, stage: Stage, before: Stage | null): Question[] {
  const { run } = story;
  return questionsBefore(story, ref, stage, before).flatMap(({ gate, why }) => {
    if (!run.isApproved(gate)) return [{ gate, why: askedAnew(why) }];
    const expired = run.approvalExpired(gate);
    if (expired === undefined) return [];
    const late = expiredApproval(`"${gate}"`, expired);
    run.warn([late]);
    return [{ gate, why: late }];
  });
}
