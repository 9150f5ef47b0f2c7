import { patched } from '@temporalio/workflow';
import type { PromotionResult } from '../activities/promotion-attempt.js';
import type { WritesAt } from '../src/postgres/where-writes-are.js';
import { actFastWithin } from './lib/activities.js';
import { NOT_COUNTED } from './lib/loss.js';
import type { MigrationRun } from './lib/migration-run.js';
import type { RunRef } from './lib/run-ref.js';

/*
 * Green is lost right after it has given the writes back, and blue was opened before the run has heard of it: each try asks
 * green first, so none would ever end. Blue's own row says where writes are.
 */

const BLUE_IS_ASKED = 'blue is asked where green does not say what has come of a way back';

/** A blue that does not answer either keeps the next try from being made for no longer than this. */
const BLUE_ANSWERS_WITHIN = '20 seconds';

/** The move that blue knows of; undefined where it has not got the writes, as far as it says. */
export async function openedUnheard(run: MigrationRun, ref: RunRef): Promise<PromotionResult | undefined> {
  if (!patched(BLUE_IS_ASKED)) return undefined;
  try {
    const ask = actFastWithin('compensate: has blue got the writes?', BLUE_ANSWERS_WITHIN);
    const at = await ask.whereWritesAre(ref, run.epoch);
    return hasComeBack(run, at) ? unheard(run, at) : undefined;
  } catch {
    return undefined;
  }
}

/** Blue's row says so only from its opening on: one that green alone has decided on is still to be opened. */
function hasComeBack({ epoch }: MigrationRun, at: WritesAt): boolean {
  return at.writesOn === 'blue' && at.isOpen !== false && at.epoch > epoch;
}

/** The epoch of whoever opened blue without green is a much later one. */
const WITHOUT_GREEN = 'what had not come from green when blue was opened without it';

function unheard(run: MigrationRun, { epoch }: WritesAt): PromotionResult {
  const lost = epoch === run.epoch + 1 ? NOT_COUNTED : WITHOUT_GREEN;
  return { holdMs: null, attempts: 1, epoch, at: new Date(Date.now()).toISOString(), lost };
}
