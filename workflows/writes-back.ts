import { ApplicationFailure, condition } from '@temporalio/workflow';
import { act, actFast } from './lib/activities.js';
import { failureMessage, failureType } from './lib/failure.js';
import type { MigrationRun } from './lib/migration-run.js';
import type { RunRef } from './lib/run-ref.js';
import { answerWith } from './lib/story.js';
import { finishMove } from './finish-move.js';
import { moveWrites } from './move-writes.js';

/**
 * The compensation of the promotion: the same promotion with the sides exchanged. It is tried until it goes through.
 * Where blue does not have everything that green has, it waits, with green serving, until somebody accepts the loss.
 */
export async function writesBackToBlue(run: MigrationRun, ref: RunRef): Promise<void> {
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
  // Where that can't be had, the way back says what it loses.
  await finishMove(run, ref, 'blue', 'compensate: the feed to blue');
  run.waitFor(null);
  try {
    await untilMoved(run, ref);
  } finally {
    run.wayBackBlocked = false;
  }
  run.waitFor(null);
}

async function untilMoved(run: MigrationRun, ref: RunRef): Promise<void> {
  let withLoss = false;
  let reason = '';
  for (let attempt = 0; ; attempt++) {
    // What is only on green is lost in any case; the feed brings the rest.
    const strands = run.onlyOnGreen !== null && !run.lossAccepted;
    try {
      if (strands)
        throw ApplicationFailure.nonRetryable(`a rollback would lose ${run.onlyOnGreen ?? ''}`, 'RollbackUnsafe');
      return await moveWrites(run, ref, 'green', { acceptLoss: withLoss });
    } catch (error) {
      const type = failureType(error);
      if (type !== 'PromotionBlocked' && type !== 'FenceTampered' && type !== 'RollbackUnsafe') throw error;
      const isUnsafe = type === 'RollbackUnsafe';
      if (isUnsafe && run.lossAccepted && !withLoss) {
        withLoss = true;
        continue;
      }
      if (failureMessage(error) !== reason) {
        reason = failureMessage(error);
        run.waitFor({
          for: isUnsafe ? 'confirmation' : 'retry',
          why: reason,
          answer: answerWith(run, 'rollback', { acceptLoss: true }),
        });
        if (isUnsafe) run.warn([reason]);
      }
      const answer = await answerBeforeNextTry(run, attempt, isUnsafe);
      if (answer === 'accepted' && !strands) withLoss = true;
      if (answer === 'stays on green') throw givenUp(run);
    }
  }
}

/**
 * Waits before the next try: ever longer, since a blocker that stays for hours must not fill the history. A feed that is
 * mended is found by the next try.
 */
async function answerBeforeNextTry(
  run: MigrationRun,
  attempt: number,
  isUnsafe: boolean,
): Promise<'accepted' | 'stays on green' | null> {
  const { confirmations, retireRequest } = run;
  const seconds = Math.min(isUnsafe ? 3_600 : 300, 5 * 2 ** Math.min(attempt, 10));
  run.wayBackBlocked = true;
  await condition(() => run.confirmations > confirmations || run.retireRequest !== retireRequest, seconds * 1_000, {
    summary: isUnsafe ? 'accept the loss, or stay on green; else look again' : 'writes back to blue: try again',
  });
  run.wayBackBlocked = false;
  if (run.confirmations > confirmations) return 'accepted';
  return run.retireRequest === retireRequest ? null : 'stays on green';
}

function givenUp(run: MigrationRun): ApplicationFailure {
  return ApplicationFailure.nonRetryable(
    `writes stay on green, as ${run.retireRequest?.by ?? '?'} has said: ${run.retireRequest?.reason ?? ''}`,
    'RollbackUnsafe',
  );
}
