import { CancellationScope } from '@temporalio/workflow';
import type { PromotionResult } from '../activities/promote.js';
import { otherSide, type Side } from '../src/side.js';
import { finishMove } from './finish-move.js';
import { actFast } from './lib/activities.js';
import type { MigrationRun } from './lib/migration-run.js';
import type { RunRef } from './lib/run-ref.js';

/**
 * One promotion, in either direction, and what follows its decision; from the decision on nothing can cancel it.
 *
 * @param acceptLoss only for the way back: what blue does not have stays on green
 * @param isOver when what follows the decision need not be waited for: whoever is to go on finishes it first
 */
export async function moveWrites(
  run: MigrationRun,
  ref: RunRef,
  from: Side,
  acceptLoss = false,
  isOver?: () => boolean,
): Promise<void> {
  const to = otherSide(from);
  run.promotionStarted = true;
  const { lost, ...promoted } = await untilDecided(run, ref, from, acceptLoss);
  await CancellationScope.nonCancellable(async () => {
    run.promoted({ from, to, ...promoted });
    run.epoch = promoted.epoch;
    if (to === 'green') run.wasPromoted = true;
    const left = [lost ?? null, to === 'blue' ? run.onlyOnGreen : null].filter((one) => one !== null);
    run.lost = left.length === 0 ? null : left.join('; ');
    run.onMoved();
    run.saw({ rollback: { safe: to === 'blue', why: `the feed from ${to} to ${from} is not on yet` } });
    const next = `end the feed to ${to}${to === 'green' ? ', begin the one to blue' : ''}`;
    const isFinished = await finishMove(run, ref, from, next, isOver);
    if (to === 'green' && !isFinished) return;
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
async function untilDecided(run: MigrationRun, ref: RunRef, from: Side, acceptLoss: boolean): Promise<PromotionResult> {
  const to = otherSide(from);
  try {
    return await actFast(`move writes from ${from} to ${to}`).promote(ref, from, run.epoch, acceptLoss);
  } catch (error) {
    if (from === 'green') throw error;
    return CancellationScope.nonCancellable(async () => {
      const { writesOn } = await actFast('has it been decided?').whereWritesAre(ref);
      if (writesOn !== to) throw error;
      return actFast('open the new side').promote(ref, from, run.epoch);
    });
  }
}
