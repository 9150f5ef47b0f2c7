import { CancellationScope, patched, sleep } from '@temporalio/workflow';
import type { PromotionResult } from '../activities/promotion-attempt.js';
import { firstLine } from '../src/failure-text.js';
import type { WritesAt } from '../src/postgres/where-writes-are.js';
import { otherSide, type Side } from '../src/side.js';
import { finishMove, opensIt } from './finish-move.js';
import { actFast, actFastToDecision, actFastUpTo } from './lib/activities.js';
import { failureDetails, failureMessage, failureType, mayPass } from './lib/failure.js';
import { outageTries, TRIES_UNTIL_TOLD } from './lib/history-room.js';
import { lossInWords, NOT_COUNTED } from './lib/loss.js';
import type { MigrationRun } from './lib/migration-run.js';
import type { RunRef } from './lib/run-ref.js';
import { wasReset } from './lib/was-reset.js';

export interface Limits {
  /** Only for the way back: what blue does not have stays on green. */
  readonly acceptLoss?: boolean;
  /** How much of it was accepted, in words. Default: it was not counted. */
  readonly accepted?: string | undefined;
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
  run.promotionStarted = true;
  const decided = await untilDecided(run, ref, from, limits);
  await hasMoved(run, ref, from, decided, limits);
}

/** What follows the move of the writes, once the run has heard of it. */
export async function hasMoved(
  run: MigrationRun,
  ref: RunRef,
  from: Side,
  { lost, unmoved, mayBeRefused = [], unserved = [], unservedPools = [], ...promoted }: PromotionResult,
  limits: Limits = {},
): Promise<void> {
  const to = otherSide(from);
  await CancellationScope.nonCancellable(async () => {
    run.promoted({ from, to, ...promoted });
    run.epoch = promoted.epoch;
    run.unservedPools = unservedPools;
    if (to === 'green') run.wasPromoted = true;
    else run.hasMovedBack = true;
    if (unmoved !== undefined) run.wayBack.sawUnmoved(unmoved);
    const left = [knownLoss(run, lost), to === 'blue' ? lossInWords(run.wayBack.strandedOnGreen) : null].filter(
      (one) => one !== null,
    );
    run.lost = left.length === 0 ? null : left.join('; ');
    run.hasAgain = to === 'blue' ? lossInWords(run.wayBack.broughtBack) : null;
    run.onMoved();
    clientsOfPoolers(run, to, mayBeRefused, unserved);
    run.saw({ rollback: { safe: to === 'blue', why: `the feed from ${to} to ${from} is not on yet` } });
    const next = `end the feed to ${to}${to === 'green' ? ', begin the one to blue' : ''}`;
    const isFinished = await finishMove(run, ref, from, next, limits);
    if (to === 'green' && !isFinished) return;
    run.saw({
      rollback: to === 'green' ? { safe: true, why: 'blue follows green: writes can go back without a loss' } : ON_BLUE,
    });
  });
}

/** Where green could not be asked, nothing has stayed behind if no try was made with a loss. An earlier worker says nothing. */
function knownLoss(run: MigrationRun, lost: string | null | undefined): string | null {
  return lost === NOT_COUNTED && !run.lossAccepted && !wasReset() ? null : (lost ?? null);
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

/** Between such rounds, while nobody takes writes, ms. */
export const NEXT_ROUND_MS = 5_000;

/**
 * One promotion. Whatever ends its activity (a pause, a cancel, an error), it may have come after the decision: then
 * both sides are closed until the new one is opened, which comes before everything else.
 */
async function untilDecided(
  run: MigrationRun,
  ref: RunRef,
  from: Side,
  { acceptLoss = false, accepted, notAfter }: Limits,
): Promise<PromotionResult> {
  const to = otherSide(from);
  try {
    const summary = `move writes from ${from} to ${to}`;
    // The way back is waited for, with its reason, where messages are heard.
    const moving =
      from === 'blue'
        ? actFastToDecision(summary)
        : actFastUpTo(summary, run.wayBackDecided ? outageTries() : TRIES_UNTIL_TOLD);
    if (accepted !== undefined) return await moving.promote(ref, from, run.epoch, acceptLoss, notAfter, accepted);
    return await (notAfter === undefined
      ? moving.promote(ref, from, run.epoch, acceptLoss)
      : moving.promote(ref, from, run.epoch, acceptLoss, notAfter));
  } catch (error) {
    if (from === 'green') throw error;
    return CancellationScope.nonCancellable(() => untilOpened(run, ref, error));
  }
}

/** The end of a promotion whose activity has ended with an error. @throws the same where nothing has been decided */
async function untilOpened(run: MigrationRun, ref: RunRef, error: unknown): Promise<PromotionResult> {
  if (failureType(error) === 'NotOpened') return openedWhileTold(run, ref, error);
  const { writesOn } = await untilAnswered(run, ref);
  if (writesOn !== 'green') throw error;
  try {
    return await actFastToDecision(OPEN).promote(ref, 'blue', run.epoch);
  } catch (failed) {
    if (failureType(failed) !== 'NotOpened') throw failed;
    return openedWhileTold(run, ref, failed);
  }
}

/**
 * What a worker that Temporal has not heard of has decided while its tries were ended: nobody takes writes until green is open,
 * so neither a pause nor a rollback comes before that.
 *
 * @param told what has told of it
 */
export async function finishLateDecision(run: MigrationRun, ref: RunRef, told: unknown, limits: Limits): Promise<void> {
  const decided = await CancellationScope.nonCancellable(() => untilOpened(run, ref, told));
  await hasMoved(run, ref, 'blue', decided, limits);
}

/** A blue that is away says nothing, and whatever comes next needs its answer: people are told what is waited for. */
async function untilAnswered(run: MigrationRun, ref: RunRef): Promise<WritesAt> {
  const ask = 'has it been decided?';
  if (!patched('a blue that does not say what was decided is told')) return actFast(ask).whereWritesAre(ref);
  const { rollback } = run.status;
  let isTold = false;
  for (let attempt = 0; ; attempt++) {
    try {
      const at = await actFastUpTo(ask, 5).whereWritesAre(ref);
      if (isTold) run.waitFor(null);
      if (isTold && at.writesOn === 'blue') run.saw({ rollback });
      return at;
    } catch (error) {
      if (!mayPass(error)) throw error;
      const reason = firstLine(failureMessage(error));
      const why = `blue does not say whether the promotion was decided, and nothing is undone before it does: ${reason}`;
      if (!isTold || run.status.waiting?.why !== why) {
        run.waitFor({ for: 'retry', why, answer: run.doctor('--who-is-primary') });
      }
      if (!isTold) run.saw({ rollback: NOT_KNOWN });
      isTold = true;
      await sleep(`${Math.min(300, 5 * 2 ** Math.min(attempt, 10))} s`, { summary: 'ask blue again' });
    }
  }
}

/** What is said of the way back while nobody knows whether a promotion was decided: `writesOn` is that of before. */
export const NOT_KNOWN = { safe: false, why: 'whether writes are on blue or on green is not known' };

/** What is said of it once they are there. */
export const ON_BLUE = { safe: true, why: 'writes are on blue' };

const OPEN = 'open the new side';

/**
 * For as long as it takes. Nobody takes writes meanwhile, so people are told, with what else opens green, and again when something
 * else keeps it closed: a server that was away may come back as another one.
 */
async function openedWhileTold(run: MigrationRun, ref: RunRef, error: unknown): Promise<PromotionResult> {
  try {
    for (let met = error; ; await sleep(NEXT_ROUND_MS, { summary: 'open the new side again' })) {
      tellNotOpen(run, met);
      try {
        return await actFastUpTo(OPEN, outageTries()).promote(ref, 'blue', run.epoch);
      } catch (failed) {
        if (!mayPass(failed)) throw failed;
        met = failed;
      }
    }
  } finally {
    run.waitFor(null);
  }
}

function tellNotOpen(run: MigrationRun, error: unknown): void {
  const reason = firstLine(failureMessage(error));
  const { isOpen = false, byHand = false } = failureDetails<NotOpenedDetails>(error) ?? {};
  const state = byHand ? `green has been given the writes, and nobody takes them: ${reason}` : notYetOpen(run);
  run.saw({ writesOn: 'green', rollback: { safe: false, why: isOpen ? reason : state } });
  const why = isOpen ? reason : byHand ? `${state}. ${opensIt(run)}` : `${state}. ${reason}`;
  if (run.status.waiting?.why === why) return;
  // One that is open has its commits wait, and the doctor's would, too.
  run.waitFor({ for: 'retry', why, ...(isOpen ? {} : { answer: run.doctor('--open --yes') }) });
}

/** What an error NotOpened carries beside its words. */
export interface NotOpenedDetails {
  /** The side is open, and its commits wait. */
  readonly isOpen?: boolean;
  /** It is another server than before the decision, and opened by people alone. */
  readonly byHand?: boolean;
}

export function notYetOpen(run: MigrationRun): string {
  return `green has been given the writes and is not open yet: nobody takes writes until it is. A worker that reaches green opens it; so does: ${run.doctor('--open --yes')}`;
}
