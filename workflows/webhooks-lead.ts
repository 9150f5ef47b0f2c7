import { ApplicationFailure } from '@temporalio/workflow';
import type { Stage } from '../src/plan/schema.js';
import type { AskingEvent } from '../src/plan/webhook-events.js';
import type { NotFollowed } from './lib/traffic-webhooks.js';
import type { RunRef } from './lib/run-ref.js';
import type { Story } from './lib/story.js';
import { watched } from './shift-traffic.js';

/**
 * Has the webhooks lead the reads of a stage to green: before the route does, so that one that refuses has kept
 * everything where it was. Returns when all have followed; until then the run holds, with the reason, and those that
 * have followed already are led back.
 *
 * @param before the stage that is in force, whose gates keep their authority
 */
export async function webhooksLead(story: Story, ref: RunRef, stage: Stage, before: Stage | null): Promise<void> {
  for (;;) {
    const not = await asked(story, ref, 'stage', stage.percent, before);
    if (not === null) return;
    story.webhooks.tell('readsBack', before?.percent ?? 0);
    refuseByPlan(not);
    await watched(story, ref, before, () => story.hold(not.why));
  }
}

/** Whether the webhooks agree that writes move now. @returns who does not, and why; null when all agree */
export async function webhooksAgree(story: Story, ref: RunRef, lastStage: Stage | null): Promise<string | null> {
  const not = await asked(story, ref, 'promoting', story.run.status.greenReadPercent, lastStage);
  if (not === null) return null;
  story.webhooks.tell('notPromoted');
  refuseByPlan(not);
  return not.why;
}

async function asked(
  story: Story,
  ref: RunRef,
  event: AskingEvent,
  percent: number,
  current: Stage | null,
): Promise<NotFollowed | null> {
  const answer: { not: NotFollowed | null } = { not: null };
  await watched(story, ref, current, async () => {
    answer.not = await story.step(`asking the webhooks: ${event}`, () => story.webhooks.ask(event, percent));
  });
  return answer.not;
}

function refuseByPlan({ why, rollback }: NotFollowed): void {
  if (!rollback) return;
  throw ApplicationFailure.nonRetryable(
    `${why}\nNext step: see what the receiver needs, then start again; "onRefuse": "pause" would hold the run instead.`,
    'WebhookRefused',
  );
}
