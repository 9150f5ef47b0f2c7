import { failureMessage, failureType } from './lib/failure.js';
import type { RunRef } from './lib/run-ref.js';
import type { Saga } from './lib/saga.js';
import type { Story } from './lib/story.js';
import { schemaHasStayed } from './guard-schema.js';
import { moveWrites } from './move-writes.js';
import { watched } from './shift-traffic.js';
import { verifyAgain } from './verify.js';
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
  await watched(story, ref, lastStage, () => verifyAgain(story, ref));
  let asked = ref.plan.traffic.approval.before.includes('promote');
  let why = 'approval before writes move to green';
  for (;;) {
    if (asked) await watched(story, ref, lastStage, () => story.approval('promote', why));
    await schemaHasStayed(story, ref);
    try {
      await story.step('promoting green', () => moveWrites(run, ref, 'blue'));
      break;
    } catch (error) {
      // Nothing has happened: writes are on blue as before. Back to the approval, saying what stood in the way.
      if (failureType(error) !== 'PromotionBlocked' && failureType(error) !== 'FenceTampered') throw error;
      why = failureMessage(error);
      run.warn([why]);
      asked = true;
    }
  }
}
