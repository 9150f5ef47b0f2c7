import { ApplicationFailure, patched, uuid4 } from '@temporalio/workflow';
import type { PromotionResult } from '../activities/promotion-attempt.js';
import { actFastWithin } from './lib/activities.js';
import { nameRows } from './lib/differing-rows.js';
import { failureDetails, failureMessage, failureType, isCancelled, isUnanswered } from './lib/failure.js';
import {
  countAccepted,
  countedLateLossOf,
  feedLossOf,
  isAccepted,
  isHelpedByLoss,
  LATE,
  lossInWords,
  wasHeldToBeHelped,
  type Loss,
} from './lib/loss.js';
import type { MigrationRun } from './lib/migration-run.js';
import type { RunRef } from './lib/run-ref.js';
import { answerWith } from './lib/story.js';
import { withoutApproval } from './lib/way-back-text.js';
import { finishMove } from './finish-move.js';
import { hasMoved, moveWrites, type NotOpenedDetails } from './move-writes.js';
import { openedUnheard } from './opened-unheard.js';
import { StrandsAnew } from './strands-anew.js';
import { differing } from './verify.js';
import {
  answerBeforeNextTry,
  blockedBy,
  giveUp,
  GREEN_ANSWERS_WITHIN,
  openIsOwed,
  whyItWaits,
  type Heard,
} from './way-back-waits.js';

/* The tries of the way back: each looks first at what blue would lack, and says what it would lose. */

/** One with a loss only where somebody has accepted just that. */
type HowToTry = { readonly acceptLoss: false } | { readonly acceptLoss: true; readonly accepted: string | undefined };

const WITHOUT_LOSS: HowToTry = { acceptLoss: false };

/** What a try has come to. */
type TryEnd =
  | { readonly by: 'moved' }
  /** Blue has the writes, by a try of which nobody had heard. */
  | { readonly by: 'moved unheard'; readonly opened: PromotionResult }
  /** Green has given them away, and blue is not open yet. */
  | { readonly by: 'decided'; readonly error: unknown }
  | Refused;

interface Refused {
  readonly by: 'refused';
  readonly error: unknown;
  /** Whether it is what blue lacks in any case, which nobody has accepted: it was not tried then. */
  readonly strands: boolean;
  /** Whether it is known that green has the writes still. */
  readonly isKnown: boolean;
}

/**
 * Tries it until blue has the writes. A loss is only taken where it was accepted as it is: one that was accepted earlier
 * is compared with what the try says, and what blue lacks in any case (`strands`) with what was named.
 */
export async function untilMoved(run: MigrationRun, ref: RunRef, heard: Heard): Promise<void> {
  const anew = new StrandsAnew(run, ref);
  let how = WITHOUT_LOSS;
  for (let attempt = 0; ; attempt++) {
    // What kept blue from following green may have passed.
    if (attempt > 0 && !how.acceptLoss) await finishIfOwed(run, ref);
    const end = await tried(run, ref, how, attempt, anew);
    switch (end.by) {
      case 'moved':
        return;
      case 'moved unheard':
        return await hasMoved(run, ref, 'green', end.opened);
      case 'decided': {
        const byHand = failureDetails<NotOpenedDetails>(end.error)?.byHand === true;
        openIsOwed(run, withoutApproval(failureMessage(end.error)), byHand);
        const answer = await answerBeforeNextTry(run, ref, heard, attempt, 'retry');
        if (answer === 'stays on green') await giveUp(run, ref, heard);
        break;
      }
      case 'refused':
        how = await afterRefusal(run, ref, heard, { end, how, attempt, anew });
    }
  }
}

async function tried(
  run: MigrationRun,
  ref: RunRef,
  how: HowToTry,
  attempt: number,
  anew: StrandsAnew,
): Promise<TryEnd> {
  let strands: string | null = null;
  try {
    if (attempt > 0) await anew.look(how.acceptLoss, () => strandsAreAccepted(run));
    await lookForEmptied(run, ref);
    await lookForUnmoved(run, ref);
    // What blue does not have is lost in any case; the feed brings the rest.
    strands = run.wayBackDecided || strandsAreAccepted(run) ? null : run.wayBack.wouldStrand;
    if (strands !== null) throw ApplicationFailure.nonRetryable(`a rollback would lose ${strands}`, 'RollbackUnsafe');
    await moveWrites(run, ref, 'green', how.acceptLoss ? how : {});
    return { by: 'moved' };
  } catch (error) {
    anew.refused(error);
    const decided = await isDecided(run, ref, error);
    const opened = isGreenSilent(run, decided, error) ? await openedUnheard(run, ref) : undefined;
    if (opened !== undefined) return { by: 'moved unheard', opened };
    if (decided === true) return { by: 'decided', error };
    return { by: 'refused', error, strands: strands !== null, isKnown: decided === false };
  }
}

/** Says why it waits, and for what, unless just that was accepted before. @returns how the next try is made */
async function afterRefusal(
  run: MigrationRun,
  ref: RunRef,
  heard: Heard,
  { end, how, attempt, anew }: { end: Refused; how: HowToTry; attempt: number; anew: StrandsAnew },
): Promise<HowToTry> {
  const { error, strands, isKnown } = end;
  const waits = failureType(error) === 'RollbackUnsafe' ? 'confirmation' : 'retry';
  const loss = strands ? run.wayBack.strands : lossOf(error, waits);
  const withThisLoss = (): HowToTry => ({ acceptLoss: true, accepted: countAccepted(run.accepted, loss) });
  if (wasAccepted(run, heard, loss, waits) && !how.acceptLoss && !strands) return withThisLoss();
  // It may be hours until the next try: by then it may lose nothing, or more than was accepted.
  const next = isKnown || (how.acceptLoss && patched(COMPARED)) ? WITHOUT_LOSS : how;
  blockedBy(run, whyItWaits(run, failureMessage(error), `${owedIn(run)}${comparedIn(anew)}`), {
    ...{ waits, loss },
    answer: asksNothing(loss) ? answerWith(run, 'retire') : answerWith(run, 'rollback', { acceptLoss: true }),
  });
  const answer = await answerBeforeNextTry(run, ref, heard, attempt, waits, anew);
  if (answer === 'stays on green') await giveUp(run, ref, heard);
  return answer === 'accepted' && !strands && !asksNothing(loss) ? withThisLoss() : next;
}

/** Runs of an earlier version went on with the loss where green did not say what had come of a try. */
const COMPARED = 'each try with a loss comes after one without';

/**
 * A partition that was emptied on green a moment ago: no watch has told it yet. What comes after this look stops the try.
 * Nobody is asked where a comparison of these tables finds nothing that blue would bring back.
 */
async function lookForEmptied(run: MigrationRun, ref: RunRef): Promise<void> {
  if (run.wayBackDecided || !patched('emptied partitions are looked for before writes go back')) return;
  const look = actFastWithin('compensate: has green emptied partitions?', GREEN_ANSWERS_WITHIN);
  try {
    run.wayBack.sawEmptied(await look.maybeEmptied(ref));
  } catch (error) {
    if (isCancelled(error) || !patched(NO_ANSWER)) throw error;
    const what = `green does not say whether partitions were emptied: ${failureMessage(error)}`;
    throw ApplicationFailure.nonRetryable(what, 'ConnectionFailed');
  }
  const emptied = run.wayBack.broughtBack;
  if (asksNothing(emptied) || isAccepted(run.accepted, emptied)) return;
  if (!patched('partitions that may have been emptied are compared in the way back')) return;
  if (await isEmptiedOnBoth(run, ref)) run.wayBack.sawEmptied([]);
}

/** What green has come to hold that is not replicated: before a promotion blue is asked the same. */
async function lookForUnmoved(run: MigrationRun, ref: RunRef): Promise<void> {
  if (run.wayBackDecided || !patched('what is not replicated is looked for before writes go back')) return;
  const look = actFastWithin('compensate: does green hold what is not replicated?', GREEN_ANSWERS_WITHIN);
  try {
    run.wayBack.sawUnmoved(await look.unmovedOnGreen(ref));
  } catch (error) {
    if (isCancelled(error)) throw error;
    const what = `green does not say whether it holds what is not replicated: ${failureMessage(error)}`;
    throw ApplicationFailure.nonRetryable(what, 'ConnectionFailed');
  }
}

/** Runs of an earlier version asked whoever waited for a green that says nothing to accept a loss. */
const NO_ANSWER = 'what ends without an answer asks for no loss';

/** The tables of these partitions keep nobody waiting for longer. */
const COMPARED_WITHIN = '1 minute';

/** Whether blue has the same rows as green in the tables of which partitions may have been emptied. */
async function isEmptiedOnBoth(run: MigrationRun, ref: RunRef): Promise<boolean> {
  const compare = actFastWithin('compensate: compare tables whose partitions may have been emptied', COMPARED_WITHIN);
  try {
    const pass = `way back ${uuid4()}`;
    const { differingRows, examples } = await compare.verify(ref, 'green', 'changed', pass, 'emptied');
    const why = `${differing(differingRows)} between green and blue: ${nameRows(examples)}`;
    run.wayBack.sawEmptiedRows(differingRows === 0 ? null : why);
    return differingRows === 0;
  } catch (error) {
    if (isCancelled(error)) throw error;
    run.warn([`green and blue can't be compared before writes go back: ${failureMessage(error)}`]);
    return false;
  }
}

/** Without the feed to blue each try would lose what was written since the promotion, though green has all of it. */
async function finishIfOwed(run: MigrationRun, ref: RunRef): Promise<void> {
  if (run.finishOwed === null || run.wayBackDecided) return;
  if (!patched('what is owed after the promotion is tried on in the way back')) return;
  const summary = 'compensate: the feed to blue, which is still owed';
  await finishMove(run, ref, 'blue', summary, { tries: ['1 minute'], goesBack: true });
}

/** Who is asked for a loss should know that it may end without. */
function owedIn({ finishOwed }: MigrationRun): string {
  return finishOwed === null ? '' : `; the feed to blue is still owed, and tried again before each try: ${finishOwed}`;
}

/** Nobody should accept the loss of rows that may be the same by now. */
function comparedIn({ goesOn }: StrandsAnew): string {
  return goesOn ? '; rows are compared again meanwhile, and it goes on as soon as none is found to differ' : '';
}

/** Runs that an earlier version has brought here took any acceptance for every loss. */
const AS_NAMED = 'a loss is accepted as it was named';

function strandsAreAccepted(run: MigrationRun): boolean {
  if (!run.lossAccepted || run.wayBack.wouldStrand === null) return false;
  return !patched(AS_NAMED) || isAccepted(run.accepted, run.wayBack.strands);
}

/** What would have to be accepted for the next try: nothing where one with a loss would fail as well. */
function lossOf(error: unknown, waits: 'confirmation' | 'retry'): Loss {
  const message = failureMessage(error);
  if (waits === 'confirmation') return feedLossOf(message);
  if (isUnanswered(error) && patched(NO_ANSWER)) return {};
  if (isHelped(failureType(error), message)) {
    const counted = countedLateLossOf(message);
    return counted !== null && patched('what blue lacks is counted') ? counted : LATE;
  }
  return {};
}

function isHelped(type: string | undefined, message: string): boolean {
  if (isHelpedByLoss(type, message) || !patched('a loss is asked for only where it helps')) return true;
  return wasHeldToBeHelped(type) && !patched('a loss helps only a blue that is behind');
}

function asksNothing(loss: Loss): boolean {
  return lossInWords(loss) === null;
}

/** Whether the loss was accepted before the try has named it. What was accepted of another one is no answer to it. */
function wasAccepted(run: MigrationRun, heard: Heard, loss: Loss, waits: 'confirmation' | 'retry'): boolean {
  if (!run.lossAccepted || asksNothing(loss)) return false;
  if (!patched(AS_NAMED)) return waits === 'confirmation';
  heard.confirmations = run.confirmations;
  return isAccepted(run.accepted, loss);
}

/**
 * Whether green has given the writes to blue although the try has failed: its COMMIT went through, and blue could not be
 * opened. Undefined where green does not say.
 */
async function isDecided(run: MigrationRun, ref: RunRef, error: unknown): Promise<boolean | undefined> {
  if (run.wayBackDecided) return true;
  // These end a try of which nothing has come.
  if (['RollbackUnsafe', 'PromotionBlocked', 'PartitionEmptied'].includes(failureType(error) ?? '')) return false;
  if (!patched('green is asked what has come of a way back that failed')) return undefined;
  try {
    const ask = actFastWithin('compensate: has green given the writes away?', GREEN_ANSWERS_WITHIN);
    return (await ask.writesOfGreen(ref, run.epoch)) === 'gave them away';
  } catch {
    return undefined;
  }
}

/** A try that comes as far as to find that blue can't be opened has heard of green. */
function isGreenSilent(run: MigrationRun, decided: boolean | undefined, error: unknown): boolean {
  return decided === undefined || (run.wayBackDecided && failureType(error) !== 'NotOpened');
}
