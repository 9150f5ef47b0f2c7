import { ApplicationFailure } from '@temporalio/workflow';
import type { Stage } from '../src/plan/schema.js';
import type { AskingEvent } from '../src/plan/webhook-events.js';
import type { NotFollowed } from './lib/traffic-webhooks.js';
import type { RunRef } from './lib/run-ref.js';
import type { Story } from './lib/story.js';
import { watched } from './shift-traffic.js';
import { askSinceReset } from './writes-since-reset.js';

/**
 * Has the webhooks lead the reads of a stage to green: before the route does, so that one that refuses has kept
 * everything where it was. The run holds then, with the reason, and those that have followed already are led back.
 *
 * @param before the stage that is in force, whose gates keep their authority
 * @returns whether all have followed. Else somebody has resumed, or a gate has failed, and what led here is out of date
 */
export async function webhooksLead(story: Story, ref: RunRef, stage: Stage, before: Stage | null): Promise<boolean> {
  const answer = await asked(story, ref, 'stage', stage.percent, before);
  if (answer === 'gate failed') return false;
  if (answer === null) return true;
  story.webhooks.tell('readsBack', before?.percent ?? 0);
  refuseByPlan(answer);
  await watched(story, ref, before, () => story.hold(answer.why));
  return false;
}

/**
 * Whether the webhooks agree that writes move now.
 *
 * @returns who does not, and why; null when all agree; `gate failed` when one has meanwhile, and the stage was judged anew
 */
export async function webhooksAgree(
  story: Story,
  ref: RunRef,
  lastStage: Stage | null,
): Promise<{ readonly why: string } | 'gate failed' | null> {
  const answer = await asked(story, ref, 'promoting', story.run.status.greenReadPercent, lastStage);
  if (answer === null) return null;
  story.webhooks.tell('notPromoted');
  if (answer !== 'gate failed') refuseByPlan(answer);
  return answer;
}

async function asked(
  story: Story,
  ref: RunRef,
  event: AskingEvent,
  percent: number,
  current: Stage | null,
): Promise<NotFollowed | 'gate failed' | null> {
  const answer: { not: NotFollowed | null } = { not: null };
  const isAsBefore = await watched(story, ref, current, async () => {
    const know = (): Promise<void> => askSinceReset(story, ref);
    const ask = (): Promise<NotFollowed | null> => story.webhooks.ask(event, percent, know);
    answer.not = await story.step(`asking the webhooks: ${event}`, () =>
      story.webhooks.mustKnow ? know().then(ask) : ask(),
    );
  });
  return isAsBefore ? answer.not : 'gate failed';
}

function refuseByPlan({ why, rollback }: NotFollowed): void {
  if (!rollback) return;
  throw ApplicationFailure.nonRetryable(
    `${why}\nNext step: see what the receiver needs, then start again; "onRefuse": "pause" would hold the run instead.`,
    'WebhookRefused',
  );
}
