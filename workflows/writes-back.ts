import { patched } from '@temporalio/workflow';
import type { PromotionResult } from '../activities/promotion-attempt.js';
import type { WritesAt } from '../src/postgres/where-writes-are.js';
import { actFastUpTo, actFastWithin } from './lib/activities.js';
import { failureType } from './lib/failure.js';
import { TRIES_UNTIL_TOLD } from './lib/history-room.js';
import type { MigrationRun } from './lib/migration-run.js';
import type { RunRef } from './lib/run-ref.js';
import { finishMove } from './finish-move.js';
import { hasMoved, NOT_KNOWN, ON_BLUE } from './move-writes.js';
import { openedUnheard } from './opened-unheard.js';
import { untilMoved } from './way-back-tries.js';
import { openIsOwed, untilDone, type Heard } from './way-back-waits.js';

/**
 * The compensation of the promotion: the same promotion with the sides exchanged. It is tried until it goes through.
 * Where blue does not have everything that green has, it waits, with green serving, until somebody accepts the loss.
 */
export async function writesBackToBlue(run: MigrationRun, ref: RunRef): Promise<void> {
  if (!run.promotionStarted) return;
  const heard = { confirmations: run.confirmations, retireRequest: run.retireRequest };
  try {
    let at = await untilKnown(run, ref, heard);
    while (isOpenBlue(at)) {
      if (await endsTries(run, ref, heard)) return;
      at = await untilKnown(run, ref, heard);
    }
    run.wasPromoted = true;
    let opened: PromotionResult | undefined;
    if (at.writesOn === 'green') {
      const known = at;
      // What was decided is finished first: green may not be open yet, and without the reverse feed there is no way back.
      ({ opened, ...at } = await untilDone(
        run,
        ref,
        heard,
        'finishing what was decided: green must be open, and blue must follow it',
        () => finishDecided(run, ref, known),
      ));
    }
    // Its tries would ask green first, which does not answer, with the word that nobody takes writes.
    if (opened !== undefined && patched(TAKEN_AS_IT_IS)) return await hasMoved(run, ref, 'green', opened);
    if (at.writesOn === 'green') {
      // Where that can't be had, the way back says what it loses.
      await finishMove(run, ref, 'blue', 'compensate: the feed to blue', { goesBack: true });
      run.waitFor(null);
    } else {
      openIsOwed(run, 'The way back was decided before, as the databases say');
    }
    await untilMoved(run, ref, heard);
  } finally {
    run.wayBackBlocked = false;
    run.asksToLose({});
    run.waitFor(null);
  }
}

async function untilKnown(run: MigrationRun, ref: RunRef, heard: Heard): Promise<WritesAt> {
  // A promotion that was tried may have been decided, and nobody has heard of it.
  const mayBeMoved = !run.wasPromoted;
  const at = await untilDone(
    run,
    ref,
    heard,
    'asking the databases where writes are',
    () => whereWritesAre(run, ref),
    () => {
      if (mayBeMoved) run.saw({ rollback: NOT_KNOWN });
    },
  );
  if (mayBeMoved) run.saw({ rollback: at.writesOn === 'blue' ? ON_BLUE : NOT_FINISHED });
  run.writesOn(at.writesOn);
  run.epoch = at.epoch;
  return at;
}

/** What is said of the way back where the promotion was decided, and nobody had heard of it. */
const NOT_FINISHED = { safe: false, why: 'writes are on green, and blue does not follow it yet' };

function whereWritesAre(run: MigrationRun, ref: RunRef): Promise<WritesAt> {
  return actFastWithin('compensate: where are writes?', '1 minute').whereWritesAre(ref, run.epoch);
}

function isOpenBlue({ writesOn, isOpen }: WritesAt): boolean {
  return writesOn === 'blue' && (isOpen !== false || !patched(GIVEN_BACK));
}

/** Its workflow was reset, as a rule. Runs of an earlier version finished the promotion before, without end. */
const GIVEN_BACK = 'a way back that was decided before is finished';

/** @returns false where a try that nobody has heard of has moved the writes to green meanwhile */
async function endsTries(run: MigrationRun, ref: RunRef, heard: Heard): Promise<boolean> {
  const what = 'ending the tries of the promotion, so that clients of poolers go on';
  const ended = await untilDone(run, ref, heard, what, () => triesEnded(run, ref));
  if (typeof ended !== 'boolean') throw ended.error;
  return ended;
}

/** Longer than the activity itself tries to reach a pooler, which then keeps nobody any more. */
const TRIES_END_WITHIN = '2 minutes';

/** @returns the error where the run ends with it, as runs of an earlier version did */
async function triesEnded(run: MigrationRun, ref: RunRef): Promise<boolean | { readonly error: unknown }> {
  const end = actFastWithin('compensate: end the tries of the promotion', TRIES_END_WITHIN);
  try {
    // As of an earlier version: undefined.
    const left: unknown = await end.withdrawPromotion(ref);
    run.poolersLeft = typeof left === 'string' ? left : null;
    return true;
  } catch (error) {
    if (failureType(error) === 'WritesOnGreen' && patched('a late decision is gone back from')) return false;
    if (!patched('what keeps the tries of a promotion from being ended is told')) return { error };
    throw error;
  }
}

/** Runs of an earlier version tried a way back again that blue alone knew of. */
const TAKEN_AS_IT_IS = 'a way back that blue alone knows of is taken as it is';

/** Where writes are, and the move that has brought them to blue, where green does not say anything of it. */
interface Finished extends WritesAt {
  readonly opened?: PromotionResult;
}

/** @returns where writes are by then: blue, where a way back that was decided before shows only now */
async function finishDecided(run: MigrationRun, ref: RunRef, at: WritesAt): Promise<Finished> {
  try {
    await actFastUpTo('compensate: finish what was decided', TRIES_UNTIL_TOLD).promote(ref, 'blue', at.epoch);
    return at;
  } catch (error) {
    if (failureType(error) !== 'StaleEpoch' || !patched(GIVEN_BACK)) {
      // A green that is still to be opened is one that blue's row names.
      const opened = failureType(error) === 'NotOpened' ? undefined : await openedUnheard(run, ref);
      if (opened === undefined) throw error;
      return { writesOn: 'blue', epoch: opened.epoch, opened };
    }
    const now = await whereWritesAre(run, ref);
    if (now.writesOn === 'green') throw error;
    return now;
  }
}
