import { CancellationScope } from '@temporalio/workflow';
import type { PromotionResult } from '../activities/promote.js';
import { otherSide, type Side } from '../src/side.js';
import { finishMove } from './finish-move.js';
import { actFast, actFastUpTo } from './lib/activities.js';
import type { MigrationRun } from './lib/migration-run.js';
import type { RunRef } from './lib/run-ref.js';

export interface Limits {
  /** Only for the way back: what blue does not have stays on green. */
  readonly acceptLoss?: boolean;
  /** Only for the way back: it has been decided, so the new side is opened, however long that takes. */
  readonly isDecided?: boolean;
  /** ISO 8601: what is not decided by then is not begun any more. The way back has no such limit. */
  readonly notAfter?: string;
  /** Whether what follows the decision need not be waited for: whoever is to go on finishes it first. */
  readonly isOver?: () => boolean;
}

/**
 * One promotion, in either direction, and what follows its decision; from the decision on nothing can cancel it.
 *
 * @throws ApplicationFailure PromotionBlocked: nothing has happened then
 */
export async function moveWrites(run: MigrationRun, ref: RunRef, from: Side, limits: Limits = {}): Promise<void> {
  const to = otherSide(from);
  run.promotionStarted = true;
  const {
    lost,
    mayBeRefused = [],
    unserved = [],
    unservedPools = [],
    ...promoted
  } = await untilDecided(run, ref, from, limits);
  await CancellationScope.nonCancellable(async () => {
    run.promoted({ from, to, ...promoted });
    run.epoch = promoted.epoch;
    run.unservedPools = unservedPools;
    if (to === 'green') run.wasPromoted = true;
    const left = [lost ?? null, to === 'blue' ? run.wouldStrand : null].filter((one) => one !== null);
    run.lost = left.length === 0 ? null : left.join('; ');
    run.onMoved();
    clientsOfPoolers(run, to, mayBeRefused, unserved);
    run.saw({ rollback: { safe: to === 'blue', why: `the feed from ${to} to ${from} is not on yet` } });
    const next = `end the feed to ${to}${to === 'green' ? ', begin the one to blue' : ''}`;
    const isFinished = await finishMove(run, ref, from, next, limits.isOver);
    if (to === 'green' && !isFinished) return;
    run.saw({
      rollback:
        to === 'green'
          ? { safe: true, why: 'blue follows green: writes can go back without a loss' }
          : { safe: true, why: 'writes are on blue' },
    });
  });
}

/** Nobody but the application sees it otherwise: such clients have no router, and no gate looks after the promotion. */
function clientsOfPoolers(
  run: MigrationRun,
  to: Side,
  mayBeRefused: readonly string[],
  unserved: readonly string[],
): void {
  run.warn(mayBeRefused);
  if (unserved.length === 0) {
    run.allClear('clients');
    return;
  }
  const back = to === 'green' ? '; `rollback` leads them back' : '';
  const next = `see the log of that PgBouncer, and mend what ${to} refuses them for${back}`;
  run.alarm('clients', to, unserved.join('; '), next);
}

/** About half a minute of a blue that does not answer. */
export const WAY_BACK_TRIES = 10;

/**
 * One promotion. Whatever ends its activity (a pause, a cancel, an error), it may have come after the decision: then
 * both sides are closed until the new one is opened, which comes before everything else.
 */
async function untilDecided(
  run: MigrationRun,
  ref: RunRef,
  from: Side,
  { acceptLoss = false, isDecided = false, notAfter }: Limits,
): Promise<PromotionResult> {
  const to = otherSide(from);
  try {
    const summary = `move writes from ${from} to ${to}`;
    // The way back is waited for, with its reason, where messages are heard.
    const moving = from === 'blue' || isDecided ? actFast(summary) : actFastUpTo(summary, WAY_BACK_TRIES);
    return await (notAfter === undefined
      ? moving.promote(ref, from, run.epoch, acceptLoss)
      : moving.promote(ref, from, run.epoch, acceptLoss, notAfter));
  } catch (error) {
    if (from === 'green') throw error;
    return CancellationScope.nonCancellable(async () => {
      const { writesOn } = await actFast('has it been decided?').whereWritesAre(ref);
      if (writesOn !== to) throw error;
      return actFast('open the new side').promote(ref, from, run.epoch);
    });
  }
}
