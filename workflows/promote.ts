import { expiredApproval } from './lib/approval-question.js';
import { failureMessage, failureType } from './lib/failure.js';
import type { RunRef } from './lib/run-ref.js';
import type { Saga } from './lib/saga.js';
import type { StepOptions, Story } from './lib/story.js';
import { schemaHasStayed } from './guard-schema.js';
import { moveWrites } from './move-writes.js';
import { untilGoingOn, watched } from './shift-traffic.js';
import { verifyAgain } from './verify.js';
import { webhooksAgree } from './webhooks-lead.js';
import { hasWindow, windowNow, windowOpens } from './windows.js';
import { writesBackToBlue } from './writes-back.js';

/**
 * Phase 6: writes move from blue to green, all at once. Why no write is lost is told in src/postgres/promote.ts, where
 * one transaction on blue decides. Here: approval, the tries, and what must follow a decision.
 */
export async function promote(story: Story, ref: RunRef, saga: Saga): Promise<void> {
  const { run } = story;
  run.enter('promote');
  saga.push({ name: 'writes back to blue', critical: true, undo: () => writesBackToBlue(run, ref) });

  const lastStage = ref.plan.traffic.stages.at(-1) ?? null;
  const whileStopped: StepOptions = { stopped: (wait) => watched(story, ref, lastStage, wait) };
  await watched(story, ref, lastStage, () => verifyAgain(story, ref));
  let asked = ref.plan.traffic.approval.before.includes('promote');
  let why = 'approval before writes move to green';
  for (;;) {
    if (asked) await watched(story, ref, lastStage, () => story.approval('promote', why));
    if (hasWindow(ref, 'promote')) {
      await watched(story, ref, lastStage, async () => {
        // What was written while a window was waited for has not been compared yet.
        if (await windowOpens(story, ref, 'promote')) await verifyAgain(story, ref);
      });
    }
    await untilGoingOn(story, ref, lastStage);
    await schemaHasStayed(story, ref, whileStopped);
    await untilGoingOn(story, ref, lastStage);
    const nobodyIsAsked = !story.webhooks.hears('promoting');
    const disagreement = nobodyIsAsked ? null : await webhooksAgree(story, ref, lastStage);
    if (disagreement !== null) {
      why = disagreement;
      run.warn([why]);
      asked = true;
      continue;
    }
    const { resumes } = run;
    try {
      let late: string | null = null;
      const work = async (): Promise<void> => {
        const now = await mayBegin(story, ref);
        late = now.late ?? whyAskAgain(story, resumes);
        const isOver = (): boolean => story.isAbandoned;
        if (late === null) await moveWrites(run, ref, 'blue', { notAfter: now.notAfter, isOver });
      };
      await story.step('promoting green', work, whileStopped);
      if (late === null) break;
      run.warn([late]);
      story.webhooks.tell('notPromoted');
      // A window that has closed is waited for; an approval that is too old is asked for again.
      asked = run.approvalExpired('promote') !== undefined;
      why = late;
    } catch (error) {
      // Nothing has happened: writes are on blue as before. Back to the approval, saying what stood in the way.
      if (failureType(error) !== 'PromotionBlocked' && failureType(error) !== 'FenceTampered') throw error;
      why = failureMessage(error);
      run.warn([why]);
      story.webhooks.tell('notPromoted');
      asked = true;
    }
  }
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
async function mayBegin({ run }: Story, ref: RunRef): Promise<Beginning> {
  const ends = [new Date(Date.now() + TRIED_FOR_MS).toISOString()];
  const expired = run.approvalExpired('promote');
  if (expired !== undefined) return { late: expiredApproval('the promotion', expired), notAfter: expired };
  const window = await windowNow(ref, 'promote');
  const approved = run.approvedUntil('promote');
  if (approved !== undefined) ends.push(approved);
  if (window.closed === null && window.until !== null) ends.push(window.until);
  return { late: window.closed, notAfter: ends.reduce((a, b) => (Date.parse(a) < Date.parse(b) ? a : b)) };
}

/** Webhooks that agreed before a pause may not be ready any more. */
function whyAskAgain({ run, webhooks }: Story, resumes: number): string | null {
  if (run.resumes === resumes || !webhooks.hears('promoting')) return null;
  return 'the run was paused after the webhooks had agreed to the promotion: they are asked again';
}
