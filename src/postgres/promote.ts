import { setTimeout as sleep } from 'node:timers/promises';
import { otherSide } from '../side.js';
import { VerdigrisError } from '../errors.js';
import { refuseEnded } from './ended-tries.js';
import { Hold, StandsInTheWay } from './hold.js';
import { literal } from './identifier.js';
import { NO_POOLS, PoolerAwaited } from './pools.js';
import { isLate, refuseLate, type Promoted, type Promotion, type PromotionTry } from './promotion.js';
import {
  areApart,
  carrySequencesOver,
  checkFeedIsOff,
  checkFence,
  checkWayBackIsOff,
  dropEarlySlots,
  flushWhatHasArrived,
  limitOthers,
  lockOutWriters,
  lookForEmptied,
  makeSlotsOfTheWayBack,
  prepareHold,
  prepareSequences,
  rehearseSlots,
  waitUntilAllIsThere,
  type SequencesBefore,
} from './promotion-hold.js';
import { openAndLetGo, openNewSide, refuseOtherServer } from './promotion-opening.js';
import { decisionAfterLostAnswer, decisionSoFar, isDecidedByAnother } from './promotion-outcome.js';
import {
  refuseNewBacklog,
  refuseReplaced,
  TooFarBehind,
  waitForNoUnfencedChanges,
  waitForNoWriters,
  waitForShortLag,
} from './promotion-readiness.js';
import { keptSessions, openActors, openSessions, type Actors, type Sessions } from './promotion-sessions.js';
import type { Session } from './session.js';
import { FENCE_CLOSED } from './state.js';
import { refuseUnansweredCommits } from './unanswered-commits.js';

/*
 * The promotion: one transaction on the side that gives writes away decides. In its order:
 *
 *   before the tries, by the activity promote (activities/promotion-prepare.ts):
 *   prepare  the way back is proven, the fence is armed          prepare-promotion.ts
 *   in each try:
 *   ready    the servers are those on which rows were compared
 *            (the way back: blue is the one that had everything),
 *            the lag is short, nobody would hold up a slot       promotion-readiness.ts
 *            or write past the fence
 *   feed     only where a loss was accepted: it is switched off,
 *            and on again where the try fails                    forced-way-back.ts
 *   pause    poolers: their clients wait                          pools.ts, with a deadline of its own
 *   hold     lock: every transaction that has written is over    promotion-hold.ts, the server's deadline: hold.ts
 *            (and nobody has decided meanwhile)
 *            catalog: the fence is in force, no table is new,  )
 *            no partition was emptied unseen                   )
 *            locks: nor is one about to be                     )
 *            marker: the new side has everything               ) at once
 *            sequences: the new side's go beyond the old one's )
 *            secure: all that has arrived is on the new side's  )
 *            disk. Making the slots of the way back flushes it; )
 *            without a way back a flush of its own does         ) at once if the sides
 *            row: the route's, in the open transaction          ) are on servers of their own
 *   decide   route and flag in one COMMIT: the point of no return
 *   open     the new side takes writes, poolers lead there         promotion-opening.ts
 *            and go on
 *   after it, by the activity finishPromotion (activities/promotion-finish.ts):
 *   finish   the old feed off, then the reverse one on           finish-promotion.ts
 *
 * Poolers go on before the old feed is off, since nothing that it could still bring is missing: the marker came after all
 * writes, and the old side has been closed since.
 *
 * Why no write is lost: the exclusive fence lock is granted when every transaction that has written is over; later
 * writers wait at their first write. The marker, written after that, reaches the new side after all of them. The old
 * side is closed by the COMMIT that lets the waiting writers go, so they meet a closed fence, and the new side opens
 * only after it. A crash in between leaves both closed, never both open: any worker goes on from the route row
 * (promotion-decision.ts), and so does one whose COMMIT got no answer (promotion-outcome.ts).
 */

/** How long one try asks for the fence's lock, by its number: always far below deadlock_timeout (1 s by default). */
const LOCK_TIMEOUTS_MS = [20, 40, 80] as const;

/**
 * Moves writes to the other side, in as many tries as it takes, up to `attempts`.
 *
 * @throws VerdigrisError PromotionBlocked when the last try did not go through either: nothing has happened then, and
 * the message says who stood in the way; PoolerAwaited at once where `notAfter` says how long to wait for it. StaleEpoch
 * when the run is no longer in charge, or has ended these tries. NotOpened as tryPromotion().
 */
export async function promote(
  promotion: Promotion,
  { attempts, onBlocked }: { readonly attempts: number; onBlocked?(attempt: number, why: string): void },
): Promise<Promoted & { readonly attempts: number }> {
  for (let attempt = 1; ; attempt++) {
    const lockTimeoutMs = LOCK_TIMEOUTS_MS[Math.min(attempt, LOCK_TIMEOUTS_MS.length) - 1] ?? 80;
    try {
      return { ...(await tryPromotion({ ...promotion, lockTimeoutMs })), attempts: attempt };
    } catch (error) {
      if (!(error instanceof VerdigrisError && error.type === 'PromotionBlocked')) throw error;
      promotion.signal?.throwIfAborted();
      onBlocked?.(attempt, error.message);
      const isLast =
        attempt >= attempts ||
        isLate(promotion) ||
        isForTheRunToTell(promotion, error) ||
        isWaitedFor(promotion, error);
      // A try that lost against another worker's decision is finished by the next one, whatever its number.
      if (isLast && !(await isDecidedByAnother(promotion))) throw error;
      // It may bring what the next try would lose. Where it can't be switched on now, that is made up for later.
      await promotion.feedLeftBehind?.goOn().catch(() => undefined);
    }
    // The writers that our request made wait must drain before the next one.
    await sleep(100 + Math.random() * 200);
  }
}

/** A way back that blue is too far behind for: the run says so, guards green's WAL, and hears whether a loss is accepted. */
function isForTheRunToTell({ from }: Promotion, error: VerdigrisError): boolean {
  return from === 'green' && error instanceof TooFarBehind;
}

/** A pooler that is away or taken is waited for by whoever knows until when: tries are for what passes within a second. */
function isWaitedFor({ notAfter }: Promotion, error: VerdigrisError): boolean {
  return notAfter !== undefined && error instanceof PoolerAwaited;
}

/**
 * One try to move writes to the other side. Either it throws and nothing has happened, or writes are on the new side.
 * Run again after a crash at any point, it finishes what was decided or starts anew.
 *
 * @throws VerdigrisError PromotionBlocked when somebody stands in the way, StaleEpoch when the run is no longer in charge;
 * NotOpened after a decision, where the new side can't be opened yet.
 */
export async function tryPromotion(promotion: PromotionTry): Promise<Promoted> {
  const { databases, from, pools = NO_POOLS } = promotion;
  const { keep, closeAll } = keptSessions();
  try {
    const actors = await openActors(databases, from, keep, promotion.signal);
    const decision = await decisionSoFar(actors.main, promotion);
    if (decision.decided) return await openWhatWasDecided(actors, promotion, decision.epoch);
    if (promotion.epoch !== undefined && promotion.epoch !== decision.epoch) throw overtaken(promotion, decision.epoch);
    if (promotion.tries !== undefined) await refuseEnded(actors.main, promotion.tries);
    refuseLate(promotion);

    const sessions = await openSessions(actors, promotion, keep);
    const prepared = await prepareTry(sessions, promotion, decision.epoch);
    await promotion.feedLeftBehind?.end(sessions);
    await pools.pause(from, decision.epoch);
    const hold = new Hold(promotion.maxHoldMs);
    const epoch = await holdAndDecide(sessions, prepared, hold);
    return await openAfterHold(sessions, promotion, epoch, hold);
  } finally {
    await closeAll();
  }
}

/** A try with what was read before the hold. */
interface PreparedTry extends PromotionTry {
  /** The one that is over when this try decides. */
  readonly epoch: number;
  readonly sequences: SequencesBefore;
  /** Whether the sides are on servers of their own. */
  readonly apart: boolean;
}

/** Everything that can be looked at, waited for or done while nobody waits for us. */
async function prepareTry(sessions: Sessions, promotion: PromotionTry, epoch: number): Promise<PreparedTry> {
  await refuseReplaced(sessions, promotion);
  await refuseUnansweredCommits(sessions, promotion);
  const sequences = await prepareSequences(sessions, promotion);
  if (promotion.acceptLoss !== true) await waitForShortLag(sessions, promotion);
  await prepareHold(sessions, promotion, sequences);
  if (promotion.feedBack) {
    await waitForNoWriters(sessions.to, promotion);
    await rehearseSlots(sessions, promotion);
  }
  await waitForNoUnfencedChanges(sessions.main, promotion);
  const apart = await areApart(sessions);
  await promotion.lastLook?.();
  await lookForEmptied(sessions, promotion);
  if (promotion.acceptLoss !== true) await refuseNewBacklog(sessions, promotion);
  return { ...promotion, epoch, sequences, apart };
}

async function openAfterHold(sessions: Sessions, promotion: Promotion, epoch: number, hold: Hold): Promise<Promoted> {
  let holdMs = 0;
  const open = async (): Promise<void> => {
    await hold.afterDecision('open', () => openNewSide(sessions.to, promotion.migration, epoch));
    holdMs = hold.elapsed();
  };
  const unreleased = await openAndLetGo({ ...promotion, old: sessions.aside, to: sessions.to, epoch, open });
  return { holdMs, steps: hold.steps, epoch, unreleased };
}

/** What an earlier attempt, or another worker, has decided: a crash in between has left both sides closed. */
async function openWhatWasDecided(actors: Actors, promotion: Promotion, epoch: number): Promise<Promoted> {
  const open = async (): Promise<void> => {
    await refuseOtherServer(actors.to, promotion, epoch);
    await openNewSide(actors.to, promotion.migration, epoch);
  };
  const unreleased = await openAndLetGo({ ...promotion, old: actors.main, to: actors.to, epoch, open });
  return { holdMs: null, steps: {}, epoch, unreleased };
}

function overtaken({ epoch, from }: Promotion, now: number): VerdigrisError {
  return new VerdigrisError({
    type: 'StaleEpoch',
    message: `the promotion away from ${from} was asked for in epoch ${epoch ?? '?'}, and the route is at ${now}`,
    nextStep: 'nothing: writes have been moved since, and whoever moved them goes on',
  });
}

/** Everything from the lock to the COMMIT. @returns the new epoch. */
async function holdAndDecide(sessions: Sessions, promotion: PreparedTry, hold: Hold): Promise<number> {
  const { main } = sessions;
  const { epoch, sequences } = promotion;
  const step = (name: string, work: () => Promise<void>): Promise<void> => {
    promotion.signal?.throwIfAborted();
    return hold.step(name, work);
  };
  try {
    // The last moment at which nobody waits for it: whatever came before may have taken its time.
    refuseLate(promotion);
    await step('lock', async () => {
      await Promise.all([lockOutWriters(main, promotion, hold, epoch), limitOthers(sessions, hold)]);
    });
    // Each with sessions of its own, and none changes what the others see.
    await step('catalog, marker, sequences', () =>
      hold.atOnce(
        () => checkFence(main, promotion, hold),
        // A feed that goes on later would bring old values over what the application writes there then.
        (over) =>
          promotion.acceptLoss === true
            ? checkFeedIsOff(sessions, promotion, hold)
            : waitUntilAllIsThere(sessions, promotion, hold, over),
        (over) => carrySequencesOver(sessions, promotion, sequences, hold, over),
      ),
    );
    const secure = async (): Promise<void> => {
      if (promotion.feedBack) await makeSlotsOfTheWayBack(sessions, promotion, hold);
      await flushWhatHasArrived(sessions, promotion, hold);
    };
    // The fence again, now that the route's row is locked: until here a worker that was frozen since the last promotion
    // could still have disarmed a table, for an epoch that was not over.
    const decide = async (): Promise<void> => {
      await checkFence(main, promotion, hold, decideSql(promotion, epoch));
      await checkWayBackIsOff(main, promotion, hold);
    };
    // The last moment to give up: an aborted activity leaves here, before the decision. What is decided is not so before
    // its COMMIT, so the slots may be made meanwhile; on one server they would wait for this transaction.
    await step('slots, decision', async () => {
      if (promotion.apart) await hold.atOnce(secure, decide);
      else await secure().then(decide);
    });
  } catch (error) {
    throw await givenUp(sessions, promotion, error);
  }
  try {
    // Flag and COMMIT in one message: the waiting writers go on, into the closed fence.
    await hold.afterDecision('commit', () =>
      hold.queryInTransaction(main, `SELECT setval('verdigris.fence', ${FENCE_CLOSED}); COMMIT`),
    );
  } catch (error) {
    // Where the server has refused the message, its transaction still holds the lock, and the answer must not wait for it.
    await letWritersGo(main);
    return decisionAfterLostAnswer(promotion, error);
  }
  return epoch + 1;
}

/** Nothing has happened: writers go on where they are. @returns what the try ends with. */
async function givenUp(sessions: Sessions, promotion: PreparedTry, error: unknown): Promise<unknown> {
  await letWritersGo(sessions.main);
  // What is not released yet, the activity insists on (giveTriesUp() in activities/promotion-withdraw.ts).
  await promotion.pools?.release();
  const failure = await StandsInTheWay.explained(error);
  // Until the next try they would only hold back WAL. A side that is cut off never answers: then the next try drops them.
  await Promise.race([dropEarlySlots(sessions.to, promotion).catch(() => undefined), sleep(GIVE_UP_MS)]);
  promotion.signal?.throwIfAborted();
  return failure;
}

/** The route's row says where writes are from the COMMIT on. Refused for an epoch that is over. */
function decideSql({ migration, from }: Promotion, epoch: number): string {
  return `SELECT verdigris.decide(${literal(migration)}, ${epoch}, ${literal(otherSide(from))})`;
}

/** A server that does not answer ends the transaction by itself when maxHold is over. */
async function letWritersGo(main: Session): Promise<void> {
  await Promise.race([main.query('ROLLBACK').catch(() => undefined), sleep(GIVE_UP_MS)]);
}

const GIVE_UP_MS = 1_000;
