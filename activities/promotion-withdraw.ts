import { ApplicationFailure } from '@temporalio/activity';
import { ERROR_TYPES, VerdigrisError, type ErrorType } from '../src/errors.js';
import { NEXT_STEP, withoutNextStep } from '../src/failure-text.js';
import { endTries, lastWordOf, type LastWord, type Tries } from '../src/postgres/ended-tries.js';
import { feedName } from '../src/postgres/feed.js';
import { dropSlots } from '../src/postgres/feed-objects.js';
import { feedGoesOn } from '../src/postgres/forced-way-back.js';
import { releaseAll } from '../src/postgres/pools.js';
import { withdrawOpening } from '../src/postgres/prepare-promotion.js';
import {
  askDecision,
  isFenceHeldAlone,
  readDecision,
  readDecisionAsActor,
} from '../src/postgres/promotion-decision.js';
import { keptSessions, openActors } from '../src/postgres/promotion-sessions.js';
import { SHORT_STATEMENTS, type Session } from '../src/postgres/session.js';
import { LOCK_NOT_AVAILABLE, sqlState } from '../src/postgres/sqlstate.js';
import { readRoute } from '../src/postgres/state.js';
import type { Side } from '../src/side.js';
import type { Redact } from '../src/worker/redact.js';
import type { RunRef } from '../workflows/lib/run-ref.js';
import { failureOf, isNoAccess, type ActivityDependencies, type Work } from './context.js';
import { weightsFollowRouteOrWarn } from './haproxy.js';
import type { Attempt } from './promotion-attempt.js';
import { withLossNamed } from './promotion-loss.js';
import { withPools } from './promotion-poolers.js';
import { isAwaited } from './promotion-waits.js';
import { clockOfActivity, requestOfActivity } from './temporal-clock.js';

/**
 * After an attempt that has failed. In this order:
 *
 *   1. no try of this request begins any more, where none is to: an earlier attempt that Temporal has not heard of may be
 *      between two of them
 *   2. what it has announced is taken back: unless it has been decided, nobody is about to open anything any more
 *   3. clients of poolers go on, and what was made for the move is undone. What has been decided is left as it is, for the
 *      next attempt
 *
 * @returns the error with which the activity ends
 */
export async function giveTriesUp(attempt: Attempt, tries: Tries, error: unknown): Promise<unknown> {
  const { work, session, from, epoch, acceptLoss } = attempt;
  const isLast = acceptLoss || (await isLastTry(attempt, error));
  if (isLast) await endOwnTries(attempt, tries, error);
  await withdrawOpening(session, work.run.migration, from, epoch).catch(() => undefined);
  if (from === 'blue') {
    await releaseUndecided(attempt);
    return error;
  }
  const isUndecided = await undoWayBack(attempt);
  return errorOfWayBack(attempt, error, { isLast, isUndecided });
}

/** The feed to blue, and the reads that had gone first, are as they were. @returns as releaseUndecided() */
async function undoWayBack(attempt: Attempt): Promise<boolean> {
  const { work, ref, session, acceptLoss, environment } = attempt;
  const { databases, run, signal } = work;
  try {
    return await releaseUndecided(attempt);
  } finally {
    // What is still owed then, the next try does.
    if (acceptLoss && !signal.aborted) await feedGoesOn(databases, run, session, signal).catch(() => undefined);
    await weightsFollowRouteOrWarn(ref, environment, () => work.session('green', 'weights', SHORT_STATEMENTS));
  }
}

/**
 * With what a try of the way back ends for the run:
 *
 *   by words of which nothing has come, and green has decided meanwhile   StaleEpoch: the next attempt opens blue
 *   without a loss                                                        the same, with what blue lacks
 *   with a loss, and nothing is decided                                   the same as a last word: it is for the run to tell
 *   with a loss, and nobody knows                                         the same: the next attempt looks
 */
async function errorOfWayBack(
  attempt: Attempt,
  error: unknown,
  { isLast, isUndecided }: { readonly isLast: boolean; readonly isUndecided: boolean },
): Promise<unknown> {
  const { work, session, acceptLoss, redact } = attempt;
  const isNothingCome = error instanceof VerdigrisError && MOVED_NOTHING.has(error.type);
  if (isLast && isNothingCome && (await isDecidedMeanwhile(attempt))) return decidedMeanwhile();
  if (!acceptLoss) return withLossNamed(error, session, work.run);
  return isUndecided ? asLastWord(error, work.signal, redact) : error;
}

/** After these the run takes it that nothing has moved. */
const MOVED_NOTHING: ReadonlySet<ErrorType> = new Set(['PromotionBlocked', 'RollbackUnsafe', 'PartitionEmptied']);

/** With what they end: where this worker dies before Temporal hears of it, the next attempt says it, and tries nothing. */
async function endOwnTries({ work, session, redact }: Attempt, tries: Tries, error: unknown): Promise<void> {
  const failure = failureOf(error, work.signal, redact);
  // What is not waited for any longer ends otherwise: see waitsUntil().
  const lastWord = failure instanceof ApplicationFailure && !isNoAccess(error) ? wordsOf(failure) : undefined;
  // What can't be written down is no reason to let them go on.
  const end = endTries(session, tries, lastWord).catch(() => endTries(session, tries));
  await end.catch(() => undefined);
}

function wordsOf({ type, message, details }: ApplicationFailure): LastWord {
  return { type: type ?? 'UnexpectedError', message, details: details ?? [] };
}

/**
 * Whether a try that is ended now has decided before, by a worker that Temporal has not heard of. Blue is asked by the run itself;
 * a way back that ends with one of these words has moved nothing, as far as the run knows.
 */
async function isDecidedMeanwhile({ work, from }: Attempt): Promise<boolean> {
  const { databases, run, signal } = work;
  try {
    return (await askDecision(databases[from], run.migration, { signal, tries: 1 })).decided;
  } catch {
    return false;
  }
}

function decidedMeanwhile(): VerdigrisError {
  return new VerdigrisError({
    type: 'StaleEpoch',
    message: 'green has given the writes to blue meanwhile, by a worker that Temporal has not heard of',
    nextStep: 'nothing: the next attempt opens blue',
    retryable: true,
  });
}

/** @throws what an earlier attempt has ended these tries with, which Temporal has not heard of */
export async function refuseOwnEnded(session: Session, tries: Tries): Promise<void> {
  const ended = await lastWordOf(session, tries);
  if (ended !== undefined) throw retold(ended);
}

/** As it was thrown, so that a loss is named with it again. */
function retold({ type, message, details }: LastWord): Error {
  const what = withoutNextStep(message);
  const nextStep = message.slice(what.length + NEXT_STEP.length);
  const known = ERROR_TYPES.find((one) => one === type);
  if (known === undefined || nextStep === '') return ApplicationFailure.nonRetryable(message, type, ...details);
  return new VerdigrisError({ type: known, message: what, nextStep, details: details[0] });
}

/**
 * Nobody waits for a promotion that is not tried any more. One that is decided goes on, and opens the new side first.
 *
 * @returns whether it is known that nothing has been decided
 */
async function releaseUndecided({ work, pools, from }: Attempt): Promise<boolean> {
  try {
    const session = await work.session(from, 'promotion given up', SHORT_STATEMENTS);
    const decided = await readDecision(session, work.run.migration, from).then(
      (decision) => decision.decided,
      async (error: unknown) => {
        // 55P03 is an answer: writers share the lock, so no decision has been made since they began. Unless it is held alone,
        // as by a COMMIT of our own that waits for a synchronous standby.
        if (sqlState(error) !== LOCK_NOT_AVAILABLE || (await isFenceHeldAlone(session))) throw error;
        return false;
      },
    );
    if (decided) return false;
  } catch {
    // No answer: it may have been decided, so nothing is released.
    return false;
  }
  await releaseAll(pools, work.signal);
  await dropSlotsOfGivenUp(work, from).catch(() => undefined);
  return true;
}

/** A slot that a try has left would keep green's WAL until the next one, which may wait for an approval for days. */
async function dropSlotsOfGivenUp({ databases, run, signal }: Work, from: Side): Promise<void> {
  if (from !== 'blue') return;
  const { keep, closeAll } = keptSessions();
  try {
    // A late attempt must not take away what another one of the same epoch is about to need: behind the locks of both actors
    // nobody decides any more, and no COMMIT is on its way. What was decided meanwhile needs its slots.
    const actors = await openActors(databases, 'blue', keep, signal);
    const { decided } = await readDecisionAsActor(actors.main, run.migration, 'blue');
    if (!decided) await dropSlots(actors.to, feedName(run.migration, 'to_blue'), 0);
  } finally {
    await closeAll();
  }
}

/**
 * What a try with a loss has met, which would not be begun again (refuseAgain): so it is for the run to tell, in its own
 * words. Only where nothing has been decided: what has is gone on with.
 */
function asLastWord(error: unknown, signal: AbortSignal, redact: Redact): unknown {
  const failure = failureOf(error, signal, redact);
  if (!(failure instanceof ApplicationFailure) || isLastWord(failure, signal, redact)) return error;
  return ApplicationFailure.nonRetryable(failure.message, failure.type, ...(failure.details ?? []));
}

/**
 * Whether no attempt tries any more after it. All attempts of an activity are one request: what is only waited for ends none
 * of their tries, and where Temporal does not answer, it begins another one.
 */
async function isLastTry({ work, redact, notAfter }: Attempt, error: unknown): Promise<boolean> {
  return isLastWord(error, work.signal, redact) && !(await isAwaited(error, notAfter).catch(() => true));
}

/** Whether Temporal begins the activity no more after it. */
function isLastWord(error: unknown, signal: AbortSignal, redact: Redact): boolean {
  const failure = failureOf(error, signal, redact);
  return failure instanceof ApplicationFailure && failure.nonRetryable === true;
}

/** The activity `withdrawPromotion`. */
export async function withdraw(
  dependencies: ActivityDependencies,
  work: Work,
  ref: RunRef,
  goesOn: boolean,
  tellsDecision: boolean,
): Promise<string | null> {
  const sinceAsked = clockOfActivity();
  const blue = await work.session('blue', 'withdraw promotion', SHORT_STATEMENTS);
  const route = await readRoute(blue, ref.plan.name);
  if (route === undefined) return null;
  await endTries(blue, { runId: work.run.runId, asked: requestOfActivity() });
  if (!goesOn || tellsDecision) await refuseDecided(work);
  await withdrawOpening(blue, ref.plan.name, 'blue', route.epoch);
  let left: string | null = null;
  try {
    await withPools(dependencies, ref, work, (pools) => releaseAll(pools, work.signal));
  } catch (error) {
    // Nothing else that is to be undone needs a pooler.
    if (!isOfPoolers(error) || work.signal.aborted || sinceAsked() < POOLERS_WITHIN_MS) throw error;
    left = error.message.replace(NEXT_STEP, '; ');
  }
  if (goesOn) await dropSlotsOfGivenUp(work, 'blue').catch(() => undefined);
  return left;
}

/** Behind the lock of blue's actor: a try that had begun is over then, and what it has decided shows. */
async function refuseDecided({ databases, run, signal }: Work): Promise<void> {
  const { decided, epoch } = await askDecision(databases.blue, run.migration, { signal });
  if (!decided) return;
  throw new VerdigrisError({
    type: 'WritesOnGreen',
    message: `green has been given the writes meanwhile (epoch ${epoch}), by a worker that Temporal has not heard of`,
    nextStep: 'nothing: the run finishes what was decided first',
  });
}

/** How long a pooler that is out of reach keeps the next compensation from being begun. */
const POOLERS_WITHIN_MS = 60_000;

/** One that is out of reach, or that this worker does not know. */
function isOfPoolers(error: unknown): error is VerdigrisError {
  return error instanceof VerdigrisError && (error.type === 'PoolNotReleased' || error.type === 'ConnectionUnknown');
}
