import { CancellationScope, sleep } from '@temporalio/workflow';
import type { PromotionResult } from '../activities/promote.js';
import type { Side } from '../src/side.js';
import { act, actFast } from './lib/activities.js';
import { failureMessage, failureType } from './lib/failure.js';
import type { MigrationRun } from './lib/migration-run.js';
import type { RunRef } from './lib/run-ref.js';
import type { Saga } from './lib/saga.js';
import type { Story } from './lib/story.js';
import { watched } from './shift-traffic.js';
import { verifyAgain } from './verify.js';

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

/** The promotion and what follows its decision; from the decision on nothing can cancel it. */
async function movesWrites(run: MigrationRun, ref: RunRef, from: Side): Promise<void> {
  const to: Side = from === 'blue' ? 'green' : 'blue';
  run.promotionStarted = true;
  const promoted = await untilDecided(run, ref, from);
  await CancellationScope.nonCancellable(async () => {
    run.promoted({ from, to, ...promoted });
    run.epoch = promoted.epoch;
    if (to === 'green') run.wasPromoted = true;
    run.saw({ rollback: { safe: to === 'blue', why: `the feed from ${to} to ${from} is not on yet` } });
    await actFast(`end the feed to ${to}${to === 'green' ? ', begin the one to blue' : ''}`).finishPromotion(ref, from);
    run.saw({
      rollback:
        to === 'green'
          ? { safe: true, why: 'blue follows green: writes can go back without a loss' }
          : { safe: true, why: 'writes are on blue' },
    });
  });
}

/**
 * One promotion. Whatever ends its activity (a pause, a cancel, an error), it may have come after the decision: then
 * both sides are closed until the new one is opened, which comes before everything else.
 */
async function untilDecided(run: MigrationRun, ref: RunRef, from: Side): Promise<PromotionResult> {
  const to: Side = from === 'blue' ? 'green' : 'blue';
  try {
    return await actFast(`move writes from ${from} to ${to}`).promote(ref, from, run.epoch);
  } catch (error) {
    if (from === 'green') throw error;
    return CancellationScope.nonCancellable(async () => {
      const { writesOn } = await actFast('has it been decided?').whereWritesAre(ref);
      if (writesOn !== to) throw error;
      return actFast('open the new side').promote(ref, from, run.epoch);
    });
  }
}

/** The compensation: the same promotion with the sides exchanged. It is tried until it goes through. */
async function writesBackToBlue(run: MigrationRun, ref: RunRef): Promise<void> {
  if (!run.promotionStarted) return;
  run.waitFor({ for: 'retry', why: 'asking blue where writes are' });
  const { writesOn, epoch } = await actFast('compensate: where are writes?').whereWritesAre(ref);
  run.writesOn(writesOn);
  run.epoch = epoch;
  if (writesOn === 'blue') {
    await act('compensate: end the tries of the promotion').withdrawPromotion(ref);
    run.waitFor(null);
    return;
  }
  run.wasPromoted = true;
  run.waitFor({ for: 'retry', why: 'finishing what was decided: green must be open, and blue must follow it' });
  // What was decided is finished first: green may not be open yet, and without the reverse feed there is no way back.
  await actFast('compensate: finish what was decided').promote(ref, 'blue', epoch);
  await actFast('compensate: the feed to blue').finishPromotion(ref, 'blue');
  run.waitFor(null);
  let reason = '';
  for (let attempt = 0; ; attempt++) {
    try {
      await movesWrites(run, ref, 'green');
      run.waitFor(null);
      return;
    } catch (error) {
      if (failureType(error) !== 'PromotionBlocked' && failureType(error) !== 'FenceTampered') throw error;
      if (failureMessage(error) !== reason) {
        reason = failureMessage(error);
        run.waitFor({ for: 'retry', why: reason });
      }
      // Ever longer pauses: a blocker that stays for hours must not fill the history.
      await sleep(Math.min(300, 5 * 2 ** Math.min(attempt, 6)) * 1_000, { summary: 'writes back to blue: try again' });
    }
  }
}
