import type { Stage } from '../src/plan/schema.js';
import { expiredApproval } from './lib/approval-question.js';
import type { RunRef } from './lib/run-ref.js';
import type { Story } from './lib/story.js';
import { untilGoingOn, watched } from './shift-traffic.js';
import { webhooksLead } from './webhooks-lead.js';
import { hasWindow, windowNow, windowOpens } from './windows.js';

/**
 * Returns when a stage may be opened at once: approved where the plan asks for that, inside its window, not paused, and led
 * to by the webhooks. An approval counts for one opening, and one that has expired on the way is asked for again.
 *
 * @param before the stage that is in force, whose gates keep their authority; null while all reads are on blue
 */
export async function untilStageMayOpen(story: Story, ref: RunRef, stage: Stage, before: Stage | null): Promise<void> {
  let unanswered = questionsBefore(ref, stage);
  for (;;) {
    for (const { gate, why } of unanswered) await watched(story, ref, before, () => story.approval(gate, why));
    if (hasWindow(ref, 'traffic')) {
      await watched(story, ref, before, async () => void (await windowOpens(story, ref, 'traffic')));
    }
    await untilGoingOn(story, ref, before);
    unanswered = expiredQuestions(story, ref, stage);
    if (unanswered.length > 0) continue;
    if (!story.webhooks.hears('stage')) return;
    await webhooksLead(story, ref, stage, before);
    // They may have kept it waiting for days.
    unanswered = expiredQuestions(story, ref, stage);
    if (unanswered.length === 0 && (await windowNow(ref, 'traffic')).closed === null) return;
    story.webhooks.tell('readsBack', before?.percent ?? 0);
  }
}

interface Question {
  readonly gate: string;
  readonly why: string;
}

function questionsBefore({ plan }: RunRef, stage: Stage): Question[] {
  const { approval, stages } = plan.traffic;
  const isFirst = stages[0]?.percent === stage.percent;
  const { percent } = stage;
  return [
    ...(isFirst && approval.before.includes('traffic')
      ? [{ gate: 'traffic', why: 'approval before the first reads go to green' }]
      : []),
    ...(approval.before.includes(percent)
      ? [{ gate: `stage-${percent}`, why: `approval before ${percent} % of the reads go to green` }]
      : []),
  ];
}

function expiredQuestions({ run }: Story, ref: RunRef, stage: Stage): Question[] {
  return questionsBefore(ref, stage).flatMap(({ gate }) => {
    const expired = run.approvalExpired(gate);
    if (expired === undefined) return [];
    const why = expiredApproval(`"${gate}"`, expired);
    run.warn([why]);
    return [{ gate, why }];
  });
}
