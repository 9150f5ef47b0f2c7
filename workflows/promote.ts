import { CancellationScope, sleep } from '@temporalio/workflow';
import type { Side } from '../src/side.js';
import { act, actFast } from './lib/activities.js';
import { failureMessage, failureType } from './lib/failure.js';
import type { MigrationRun } from './lib/migration-run.js';
import type { RunRef } from './lib/run-ref.js';
import type { Saga } from './lib/saga.js';
import type { Story } from './lib/story.js';
import { watched } from './shift-traffic.js';

/**
 * Phase 6: writes move from blue to green, all at once. Why no write is lost is told in src/postgres/promote.ts, where
 * one transaction on blue decides. Here: approval, the tries, and what must follow a decision.
 */
export async function promote(story: Story, ref: RunRef, saga: Saga): Promise<void> {
  const { run } = story;
  run.enter('promote');
  saga.push({ name: 'writes back to blue', critical: true, undo: () => writesBackToBlue(run, ref) });

  let asked = ref.plan.traffic.approval.before.includes('promote');
  const lastStage = ref.plan.traffic.stages.at(-1) ?? null;
  let why = 'approval before writes move to green';
  for (;;) {
    if (asked) await watched(story, ref, lastStage, () => story.approval('promote', why));
    try {
      await story.step('promoting green', () => movesWrites(run, ref, 'blue'));
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

/** The promotion and what follows its decision; the latter can't be cancelled. */
async function movesWrites(run: MigrationRun, ref: RunRef, from: Side): Promise<void> {
  const to: Side = from === 'blue' ? 'green' : 'blue';
  run.promotionStarted = true;
  const promoted = await actFast(`move writes from ${from} to ${to}`).promote(ref, from);
  await CancellationScope.nonCancellable(async () => {
    run.promoted({ from, to, ...promoted });
    if (to === 'green') run.wasPromoted = true;
    run.saw({ rollback: { safe: true, why: `${from} is about to follow ${to}` } });
    await actFast(`end the feed to ${to}${to === 'green' ? ', begin the one to blue' : ''}`).finishPromotion(ref, from);
    run.saw({
      rollback:
        to === 'green'
          ? { safe: true, why: 'blue follows green: writes can go back without a loss' }
          : { safe: true, why: 'writes are on blue' },
    });
  });
}

/** The compensation: the same promotion with the sides exchanged. It is tried until it goes through. */
async function writesBackToBlue(run: MigrationRun, ref: RunRef): Promise<void> {
  if (!run.promotionStarted) return;
  const { writesOn } = await act('compensate: where are writes?').whereWritesAre(ref);
  run.writesOn(writesOn);
  if (writesOn === 'blue') {
    await act('compensate: end the tries of the promotion').withdrawPromotion(ref);
    return;
  }
  run.wasPromoted = true;
  // What was decided is finished first: green may not be open yet, and without the reverse feed there is no way back.
  await actFast('compensate: finish what was decided').promote(ref, 'blue');
  await actFast('compensate: the feed to blue').finishPromotion(ref, 'blue');
  for (;;) {
    try {
      await movesWrites(run, ref, 'green');
      return;
    } catch (error) {
      if (failureType(error) !== 'PromotionBlocked') throw error;
      run.waitFor({ for: 'retry', why: failureMessage(error) });
      await sleep('5s', { summary: 'writes back to blue: try again' });
      run.waitFor(null);
    }
  }
}
