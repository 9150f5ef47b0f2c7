import { ApplicationFailure, condition, patched, sleep, uuid4 } from '@temporalio/workflow';
import type { PromotionResult } from '../activities/promotion-attempt.js';
import { firstLine } from '../src/failure-text.js';
import type { WritesAt } from '../src/postgres/where-writes-are.js';
import type { WritesOfGreen } from '../src/postgres/writes-of-green.js';
import { actFastUpTo, actFastWithin } from './lib/activities.js';
import { beside } from './lib/beside.js';
import { nameRows } from './lib/differing-rows.js';
import { failureDetails, failureMessage, failureType, isCancelled, isUnanswered } from './lib/failure.js';
import { outageTries, TRIES_UNTIL_TOLD } from './lib/history-room.js';
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
import { whyWayBackWaits, withoutApproval } from './lib/way-back-text.js';
import type { Message } from './messages.js';
import { finishMove, opensIt } from './finish-move.js';
import {
  hasMoved,
  moveWrites,
  NEXT_ROUND_MS,
  NOT_KNOWN,
  notYetOpen,
  ON_BLUE,
  type NotOpenedDetails,
} from './move-writes.js';
import { openedUnheard } from './opened-unheard.js';
import { feedAlarm, sawMissed, watchFeed } from './standby.js';
import { StrandsAnew } from './strands-anew.js';
import { differing } from './verify.js';

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

/** The answers that have been followed. */
interface Heard {
  confirmations: number;
  retireRequest: Message | null;
}

/**
 * Does it again until it is done. What it fails by, somebody can mend (a login that is refused now, a server that is
 * away), and ending here would leave writes where they are for good: so it waits, says why, and hears `retire`.
 */
async function untilDone<T>(
  run: MigrationRun,
  ref: RunRef,
  heard: Heard,
  what: string,
  work: () => Promise<T>,
  onFailure: () => void = () => undefined,
): Promise<T> {
  run.waitFor({ for: 'retry', why: what });
  for (let attempt = 0; ; attempt++) {
    try {
      return await work();
    } catch (error) {
      onFailure();
      const blocked = { waits: 'retry', answer: answerWith(run, 'retire'), loss: {} } as const;
      blockedBy(run, whyItWaits(run, `${what}: ${failureMessage(error)}`), blocked);
      if ((await answerBeforeNextTry(run, ref, heard, attempt, 'retry')) === 'stays on green') {
        await giveUp(run, ref, heard);
      }
    }
  }
}

/**
 * Tries it until blue has the writes. A loss is only taken where it was accepted as it is: one that was accepted earlier
 * is compared with what the try says, and what blue lacks in any case (`strands`) with what was named.
 */
async function untilMoved(run: MigrationRun, ref: RunRef, heard: Heard): Promise<void> {
  let withLoss = false;
  const anew = new StrandsAnew(run, ref);
  let accepted: string | undefined;
  for (let attempt = 0; ; attempt++) {
    // What kept blue from following green may have passed.
    if (attempt > 0 && !withLoss) await finishIfOwed(run, ref);
    let strands: string | null = null;
    try {
      if (attempt > 0) await anew.look(withLoss, () => strandsAreAccepted(run));
      await lookForEmptied(run, ref);
      await lookForUnmoved(run, ref);
      // What blue does not have is lost in any case; the feed brings the rest.
      strands = run.wayBackDecided || strandsAreAccepted(run) ? null : run.wayBack.wouldStrand;
      if (strands !== null) throw ApplicationFailure.nonRetryable(`a rollback would lose ${strands}`, 'RollbackUnsafe');
      return await moveWrites(run, ref, 'green', withLoss ? { acceptLoss: true, accepted } : {});
    } catch (error) {
      anew.refused(error);
      const decided = await isDecided(run, ref, error);
      const opened = isGreenSilent(run, decided, error) ? await openedUnheard(run, ref) : undefined;
      if (opened !== undefined) return await hasMoved(run, ref, 'green', opened);
      if (decided === true) {
        const byHand = failureDetails<NotOpenedDetails>(error)?.byHand === true;
        openIsOwed(run, withoutApproval(failureMessage(error)), byHand);
        const answer = await answerBeforeNextTry(run, ref, heard, attempt, 'retry');
        if (answer === 'stays on green') await giveUp(run, ref, heard);
        continue;
      }
      const waits = failureType(error) === 'RollbackUnsafe' ? 'confirmation' : 'retry';
      const loss = strands === null ? lossOf(error, waits) : run.wayBack.strands;
      if (wasAccepted(run, heard, loss, waits) && !withLoss && strands === null) {
        withLoss = true;
        accepted = countAccepted(run.accepted, loss);
        continue;
      }
      // It may be hours until the next try: by then it may lose nothing, or more than was accepted.
      if (decided === false || (withLoss && patched(COMPARED))) withLoss = false;
      blockedBy(run, whyItWaits(run, failureMessage(error), `${owedIn(run)}${comparedIn(anew)}`), {
        ...{ waits, loss },
        answer: asksNothing(loss) ? answerWith(run, 'retire') : answerWith(run, 'rollback', { acceptLoss: true }),
      });
      const answer = await answerBeforeNextTry(run, ref, heard, attempt, waits, anew);
      if (answer === 'accepted' && strands === null && !asksNothing(loss)) {
        withLoss = true;
        accepted = countAccepted(run.accepted, loss);
      }
      if (answer === 'stays on green') await giveUp(run, ref, heard);
    }
  }
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

function whyItWaits(run: MigrationRun, message: string, more = ''): string {
  return whyWayBackWaits(message, more, whereTheyStay(run));
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

/** A green that does not answer keeps a try from being made again for no longer than this. */
const GREEN_ANSWERS_WITHIN = '20 seconds';

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

/** Nobody takes writes: the only way is to open blue, and the status says so. */
function openIsOwed(run: MigrationRun, reason: string, byHand = false): void {
  run.wayBackDecided = true;
  const taken = `green has given the writes to blue, and nobody takes them: ${firstLine(reason)}`;
  const state = byHand ? taken : run.onlyForward();
  run.saw({ writesOn: 'blue', rollback: { safe: false, why: state } });
  const answer = run.doctor('--open --yes');
  blockedBy(run, `${state}. ${byHand ? opensIt(run) : reason}`, { waits: 'retry', answer, loss: {} });
}

interface Blocked {
  readonly waits: 'confirmation' | 'retry';
  /** The command that ends it. */
  readonly answer: string;
  /** What that would accept. */
  readonly loss: Loss;
}

/** Says why the way back waits; `since` stays while the reason does. */
function blockedBy(run: MigrationRun, why: string, { waits, answer, loss }: Blocked): void {
  // From now on answers are heard, also in the middle of a try: one may take minutes.
  run.wayBackBlocked = true;
  run.asksToLose(loss);
  const { waiting } = run.status;
  if (waiting?.for === waits && waiting.why === why) return;
  run.waitFor({ for: waits, why, answer });
  if (waits === 'confirmation') run.warn([why]);
}

/** From a wait of so long on green's WAL is guarded meanwhile: a blue that is away would fill the disk of what serves. */
const GUARDED_FROM_S = 40;

/** So often it is tried every five minutes at least; then once an hour, so that months fit into the history. */
const OFTEN = 50;

/**
 * Waits before the next try: ever longer, since a blocker that stays for hours must not fill the history. A feed that is
 * mended is found by the next try, rows that were mended by the comparison that goes on meanwhile.
 */
async function answerBeforeNextTry(
  run: MigrationRun,
  ref: RunRef,
  heard: Heard,
  attempt: number,
  waits: 'confirmation' | 'retry',
  anew?: StrandsAnew,
): Promise<'accepted' | 'stays on green' | null> {
  const longest = waits === 'confirmation' || attempt >= OFTEN ? 3_600 : 300;
  const seconds = run.wayBackDecided ? NEXT_ROUND_MS / 1_000 : Math.min(longest, 5 * 2 ** Math.min(attempt, 10));
  const answered = (): boolean => run.confirmations > heard.confirmations || run.retireRequest !== heard.retireRequest;
  const summary =
    waits === 'confirmation' ? 'accept the loss, or stay on green; else look again' : 'writes back to blue: try again';
  const compares = anew?.goesOn === true;
  const isOver = (): boolean => answered() || (compares && !anew.isOpen);
  const wait = async (): Promise<void> => {
    await condition(isOver, seconds * 1_000, { summary });
  };
  // A green that is closed fills no disk.
  const isServing = run.wasPromoted && !run.wayBackDecided && !takesThemAlready(run);
  const isGuarded = isServing && seconds >= GUARDED_FROM_S;
  const watch = (): Promise<never> => watchFeed(run, ref, feedAlarm(run), (missed) => sawMissed(run, missed));
  const guarded = isGuarded ? () => beside(watch, wait) : wait;
  await (compares ? beside(() => anew.compareOn(), guarded) : guarded());
  if (run.retireRequest !== heard.retireRequest) return 'stays on green';
  if (run.confirmations === heard.confirmations) return null;
  heard.confirmations = run.confirmations;
  return 'accepted';
}

/**
 * Ends the way back, as somebody has asked by `retire`, once green has said that it has the writes. Returns where it has
 * not: both sides are closed then, and what opens one of them goes on.
 */
async function giveUp(run: MigrationRun, ref: RunRef, heard: Heard): Promise<void> {
  // Where green never had them, or blue is known to take them, nothing of the way back has been tried.
  if (!run.wasPromoted || takesThemAlready(run)) throw givenUp(run);
  if (!patched('green is asked before a way back is given up')) throw givenUp(run);
  const writes = run.wayBackDecided ? 'gave them away' : await writesOfGreen(run, ref);
  if (writes === 'has them') throw givenUp(run);
  heard.retireRequest = run.retireRequest;
  run.warn([`\`retire\` was not followed: ${whyNotGivenUp(run, writes)}`]);
  if (writes === 'gave them away') openIsOwed(run, '`retire` was not followed');
}

function whyNotGivenUp(run: MigrationRun, writes: Exclude<WritesOfGreen | 'blue has them', 'has them'>): string {
  if (writes === 'blue has them') return 'green has given the writes back, and blue takes them';
  return writes === 'not opened' ? notYetOpen(run) : run.onlyForward();
}

/** For as long as it takes: nobody but a blue that has got them knows, and a run that has ended opens nothing. */
async function writesOfGreen(run: MigrationRun, ref: RunRef): Promise<WritesOfGreen | 'blue has them'> {
  const ask = 'compensate: does green have the writes?';
  for (let attempt = 0; ; attempt++) {
    try {
      // What can pass by itself is told after the first time.
      const asked = attempt === 0 ? actFastWithin(ask, GREEN_ANSWERS_WITHIN) : actFastUpTo(ask, outageTries());
      return await asked.writesOfGreen(ref, run.epoch);
    } catch (error) {
      if ((await openedUnheard(run, ref)) !== undefined) return 'blue has them';
      const why = `\`retire\` waits until green says whether it has the writes: ended without that, the run may leave both sides closed. ${failureMessage(error)}`;
      run.waitFor({ for: 'retry', why, answer: run.doctor('--who-is-primary') });
      if (attempt > 0) await sleep(`${Math.min(300, 5 * 2 ** attempt)} s`, { summary: 'ask green again' });
    }
  }
}

/** Whether blue has had the writes again before this way back: only the tries of a promotion are to be ended then. */
function takesThemAlready(run: MigrationRun): boolean {
  return run.status.writesOn === 'blue' && !run.wayBackDecided;
}

function whereTheyStay(run: MigrationRun): string {
  return run.wasPromoted && !takesThemAlready(run) ? 'on green' : 'where they are';
}

function givenUp(run: MigrationRun): ApplicationFailure {
  run.gaveWayBackUp = true;
  return ApplicationFailure.nonRetryable(
    `writes stay ${whereTheyStay(run)}, as ${run.retireRequest?.by ?? '?'} has said: ${run.retireRequest?.reason ?? ''}`,
    'RollbackUnsafe',
  );
}
