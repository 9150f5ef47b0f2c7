import { setTimeout as sleep } from 'node:timers/promises';
import { otherSide, type Side } from '../side.js';
import { VerdigrisError } from '../errors.js';
import { answerWithin } from '../timing.js';
import type { TablePatterns } from './catalog-pattern.js';
import { refuseEnded, type Tries } from './ended-tries.js';
import type { FeedLeftBehind } from './forced-way-back.js';
import { Hold, promotionBlocked, StandsInTheWay } from './hold.js';
import { literal } from './identifier.js';
import { whoHoldsAdvisoryLock } from './locks.js';
import { openButWaiting } from './open-but-waiting.js';
import type { PartitionFile } from './partition-files.js';
import { NO_POOLS, PoolerAwaited, type Pools, type Unreleased } from './pools.js';
import { askDecision, readDecision, readDecisionAsActor, type Decision } from './promotion-decision.js';
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
import {
  refuseReplaced,
  TooFarBehind,
  waitForNoUnfencedChanges,
  waitForNoWriters,
  waitForShortLag,
} from './promotion-readiness.js';
import { keptSessions, openActors, openSessions, type Sessions } from './promotion-sessions.js';
import { readServerPosition, whyReplaced, type KnownServer } from './server-position.js';
import { SHORT_STATEMENTS, withSession, type Databases, type Session } from './session.js';
import { LOCK_NOT_AVAILABLE, sqlState, STALE_EPOCH } from './sqlstate.js';
import { FENCE_CLOSED, FENCE_LOCK, readRoute, ROUTE_CHANNEL } from './state.js';
import { refuseUnansweredCommits } from './unanswered-commits.js';
import type { TableName } from '../plan/table-name.js';
import type { Since } from './verify/last-pass.js';
import { openedByHand } from './where-writes-are.js';

/*
 * The promotion: one transaction on the side that gives writes away decides. In its order:
 *
 *   before the tries, by the activity promote (activities/promotion-prepare.ts):
 *   prepare  the way back is proven, the fence is armed          prepare-promotion.ts
 *   in each try:
 *   ready    the servers are those on which rows were compared,
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
 *   open     the new side takes writes, poolers lead there and go on
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
 * (promotion-decision.ts).
 */

export interface Promotion {
  readonly databases: Databases;
  readonly migration: string;
  /** The side that gives writes away; the other one takes them. */
  readonly from: Side;
  /** The epoch in which it was asked for; a worker that wakes up in a later one moves nothing. Default: any. */
  readonly epoch?: number | undefined;
  /** Those that it is tried by, so that none moves anything once the run has ended them. Default: nobody ends them. */
  readonly tries?: Tries | undefined;
  /** Tables whose fence must be in force on `from`. */
  readonly fenced: readonly TableName[];
  /** Every table (oid) that was there when the fence was armed: a new one in the hold stops the try. */
  readonly knownTables: readonly number[];
  /** The partitions of `from` with the files of which rows were compared: another file stops the try. Default: any. */
  readonly comparedPartitions?: readonly PartitionFile[] | undefined;
  /** The servers on which rows were compared: another one stops the try. Default: any. */
  readonly comparedOn?: Since | undefined;
  /** What the plan moves: a new table that it leaves out stops nothing. Default: all. */
  readonly patterns?: TablePatterns | undefined;
  /** When it is too late to begin a hold. What is decided is finished. Default: never. */
  readonly notAfter?: NotAfter | undefined;
  /** Longest time that writes wait in one try, ms. */
  readonly maxHoldMs: number;
  readonly sequenceGap: number;
  /** Whether the old side is to follow the new one afterwards: the slot for it is made in the hold. */
  readonly feedBack: boolean;
  /**
   * Only for a way back whose feed is dead, and only when a person has accepted it: what the new side does not have stays
   * behind. Everything else is as always: never are both sides open.
   */
  readonly acceptLoss?: boolean | undefined;
  /** Only with it: the feed to the new side, which must have ended when writers are asked to wait. Default: it has. */
  readonly feedLeftBehind?: FeedLeftBehind | undefined;
  /** Done right before writers are asked to wait; what it throws ends the try. Default: nothing. */
  readonly lastLook?: (() => Promise<void>) | undefined;
  /**
   * The server of the new side as it was when that was decided which is only to be opened: another one may lack rows, and is
   * not opened by us. Asked of its own records, if it has them; undefined where nothing is known. Default: any server
   */
  readonly decidedFor?: ((to: Session) => Promise<KnownServer | undefined>) | undefined;
  /** Poolers between applications and the databases: paused for the hold, then led to the new side. Default: none. */
  readonly pools?: Pools | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface NotAfter {
  /** performance.now(), which nobody sets: a worker's clock may be hours off. */
  readonly at: number;
  /** The same for people, ISO 8601. */
  readonly told: string;
}

export interface PromotionTry extends Promotion {
  /** How long to ask for the fence's lock in this try, ms: short, so that we are always the victim of a deadlock. */
  readonly lockTimeoutMs: number;
}

export interface Promoted {
  /** From asking for the lock to the new side being open, ms; null when another worker had done the first part. */
  readonly holdMs: number | null;
  /** What each step took of the hold, ms, in their order. */
  readonly steps: Readonly<Record<string, number>>;
  readonly epoch: number;
  /** Poolers that are not led to the new side yet: release() again until none is left. */
  readonly unreleased: readonly Unreleased[];
}

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

/** Whether another worker has decided what this one could not: a writer who keeps its lock from us has met no closed fence. */
async function isDecidedByAnother({ databases, migration, from, signal }: Promotion): Promise<boolean> {
  try {
    return (await askDecision(databases[from], migration, { signal, tries: LOOKS_AT_DECISION })).decided;
  } catch (error) {
    if (sqlState(error) !== LOCK_NOT_AVAILABLE) throw error;
    return false;
  }
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
    if (decision.decided) {
      const { epoch } = decision;
      const open = async (): Promise<void> => {
        await refuseOtherServer(actors.to, promotion, epoch);
        await openNewSide(actors.to, promotion.migration, epoch);
      };
      const unreleased = await openAndLetGo({ ...promotion, old: actors.main, to: actors.to, epoch, open });
      return { holdMs: null, steps: {}, epoch, unreleased };
    }
    if (promotion.epoch !== undefined && promotion.epoch !== decision.epoch) throw overtaken(promotion, decision.epoch);
    if (promotion.tries !== undefined) await refuseEnded(actors.main, promotion.tries);
    refuseLate(promotion);
    const sessions = await openSessions(actors, promotion, keep);
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
    await promotion.feedLeftBehind?.end(sessions);

    await pools.pause(from, decision.epoch);
    const hold = new Hold(promotion.maxHoldMs);
    const epoch = await holdAndDecide(sessions, { ...promotion, epoch: decision.epoch, sequences, apart }, hold);
    let holdMs = 0;
    const open = async (): Promise<void> => {
      await hold.afterDecision('open', () => openNewSide(sessions.to, promotion.migration, epoch));
      holdMs = hold.elapsed();
    };
    const unreleased = await openAndLetGo({ ...promotion, old: sessions.aside, to: sessions.to, epoch, open });
    return { holdMs, steps: hold.steps, epoch, unreleased };
  } finally {
    await closeAll();
  }
}

interface Opening extends Pick<Promotion, 'from' | 'pools'> {
  /** Of the side that has given the writes away, and of the one that takes them. */
  readonly old: Session;
  readonly to: Session;
  readonly epoch: number;
  readonly open: () => Promise<void>;
}

/** After the decision: the new side takes writes, routers hear of it, poolers lead there and their clients go on. */
async function openAndLetGo(opening: Opening): Promise<readonly Unreleased[]> {
  const { from, old, to, epoch, open, pools = NO_POOLS } = opening;
  const told = tellRouters(old);
  await open();
  const toldThere = tellRouters(to);
  await pools.point(otherSide(from), epoch);
  const unreleased = await pools.release();
  await Promise.all([told, toldThere]);
  return unreleased;
}

/**
 * Whether it has been decided. Where a crash has left the fence closed, a writer that does not end keeps that from being
 * read, too: it stands in the way as it would in the hold.
 */
async function decisionSoFar(main: Session, { migration, from }: Promotion): Promise<Decision> {
  try {
    return await readDecisionAsActor(main, migration, from, LOOKS_AT_DECISION);
  } catch (error) {
    if (sqlState(error) !== LOCK_NOT_AVAILABLE) throw error;
    throw promotionBlocked(`writers did not end. ${await whoHoldsAdvisoryLock(main, FENCE_LOCK)}`, error);
  }
}

function isLate({ notAfter }: Pick<Promotion, 'notAfter'>): boolean {
  return notAfter !== undefined && performance.now() > notAfter.at;
}

/**
 * Only for what has not been decided.
 *
 * @throws VerdigrisError PromotionBlocked when a hold may not begin any more
 */
export function refuseLate(promotion: Pick<Promotion, 'notAfter'>): void {
  const { notAfter } = promotion;
  if (notAfter === undefined || !isLate(promotion)) return;
  throw promotionBlocked(
    `it could not begin before ${notAfter.told}, when its window, its approval or its tries ended: was a server away?`,
  );
}

/** Each makes writers wait for 40 ms at most; a try is over after these, and writers go on for longer before the next. */
const LOOKS_AT_DECISION = 5;

function overtaken({ epoch, from }: Promotion, now: number): VerdigrisError {
  return new VerdigrisError({
    type: 'StaleEpoch',
    message: `the promotion away from ${from} was asked for in epoch ${epoch ?? '?'}, and the route is at ${now}`,
    nextStep: 'nothing: writes have been moved since, and whoever moved them goes on',
  });
}

/** A try with what was read before the hold. */
interface PreparedTry extends PromotionTry {
  /** The one that is over when this try decides. */
  readonly epoch: number;
  readonly sequences: SequencesBefore;
  /** Whether the sides are on servers of their own. */
  readonly apart: boolean;
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
    await letWritersGo(main);
    // What is not released yet, the activity insists on (giveTriesUp() in activities/promotion-withdraw.ts).
    await promotion.pools?.release();
    const failure = await StandsInTheWay.explained(error);
    // Until the next try they would only hold back WAL. A side that is cut off never answers: then the next try drops them.
    await Promise.race([dropEarlySlots(sessions.to, promotion).catch(() => undefined), sleep(GIVE_UP_MS)]);
    promotion.signal?.throwIfAborted();
    throw failure;
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

/** The route's row says where writes are from the COMMIT on. Refused for an epoch that is over. */
function decideSql({ migration, from }: Promotion, epoch: number): string {
  return `SELECT verdigris.decide(${literal(migration)}, ${epoch}, ${literal(otherSide(from))})`;
}

/** A server that does not answer ends the transaction by itself when maxHold is over. */
async function letWritersGo(main: Session): Promise<void> {
  await Promise.race([main.query('ROLLBACK').catch(() => undefined), sleep(GIVE_UP_MS)]);
}

const GIVE_UP_MS = 1_000;

/**
 * Routers that listen to a side hear of the decision, or of the opening, at once. Not in its transaction: a COMMIT that
 * notifies waits for the other notifiers of the server, in any database, and would fail at the lock timeout of the hold. Who
 * is not told hears of it from the other side, from the fence, or at its next look.
 */
async function tellRouters(session: Session): Promise<void> {
  const told = session.query(`SET statement_timeout = ${TELL_WITHIN_MS}; SELECT pg_notify('${ROUTE_CHANNEL}', '')`);
  const late = (): Error => new Error('no answer');
  await answerWithin(TELL_WITHIN_MS + 500, told, late).catch(() => undefined);
}

const TELL_WITHIN_MS = 1_000;

/**
 * Opens the new side. Refused for an epoch that is over, so a late worker opens nothing.
 *
 * @throws VerdigrisError NotOpened (retryable), also without an answer: a cut connection is not noticed for minutes
 */
async function openNewSide(to: Session, migration: string, epoch: number): Promise<void> {
  const opened = to.query(
    `SET statement_timeout = ${OPEN_WITHIN_MS}; SELECT verdigris.open_fence(${literal(migration)}, ${epoch})`,
  );
  try {
    await answerWithin(OPEN_WITHIN_MS + 1_000, opened, () => new Error(SILENT));
  } catch (error) {
    const waiting = sqlState(error) === STALE_EPOCH ? undefined : await openButWaiting(to, epoch);
    throw waiting ?? notOpened(epoch, error);
  }
}

/**
 * Between a decision and an opening that is made up for, the new side may have failed over to a replica that is behind. One
 * that somebody has opened all the same is theirs.
 *
 * @throws VerdigrisError NotOpened (retryable)
 */
async function refuseOtherServer(to: Session, promotion: Promotion, epoch: number): Promise<void> {
  const side = otherSide(promotion.from);
  const look = replacedUnopened(to, side, promotion, epoch);
  const why = await answerWithin(OPEN_WITHIN_MS + 1_000, look, () => new Error(SILENT)).catch((error: unknown) => {
    throw notOpened(epoch, error);
  });
  if (why === undefined) return;
  throw openedByHand(
    promotion.databases,
    side,
    `${why} since it was given the writes, and rows may be missing there: it is not opened`,
  );
}

async function replacedUnopened(
  to: Session,
  side: Side,
  { decidedFor, migration }: Promotion,
  epoch: number,
): Promise<string | undefined> {
  const then = await decidedFor?.(to);
  const why = then === undefined ? undefined : whyReplaced(side, then, await readServerPosition(to));
  if (why === undefined) return undefined;
  const route = await readRoute(to, migration);
  return route !== undefined && route.writesOn === side && route.epoch >= epoch ? undefined : why;
}

const SILENT = 'it did not answer: is the network cut?';

/** Opening a side takes a few milliseconds, unless its disk or somebody with its route's row is in the way. */
const OPEN_WITHIN_MS = 3_000;

/**
 * What ends a try after the decision: nobody takes writes until the new side is open, which must be told as such. An epoch
 * that is over is told as itself: whoever has moved the route on has opened a side.
 */
export function notOpened(epoch: number, error: unknown): unknown {
  const isOurs = error instanceof VerdigrisError;
  if (sqlState(error) === STALE_EPOCH || (isOurs && (error.type === 'StaleEpoch' || error.type === 'NotOpened'))) {
    return error;
  }
  const why = isOurs ? error.what : error instanceof Error ? error.message : String(error);
  return new VerdigrisError({
    type: 'NotOpened',
    message: `the new side can't be opened for epoch ${epoch}: ${why}`,
    nextStep:
      'it is tried again, and nobody takes writes until it is open; the status has the command of the doctor that opens it from a machine that reaches it',
    retryable: true,
    cause: isOurs ? error.cause : error,
  });
}

/** A server that has crashed is mostly back by then; after it the activity ends, and its next attempt asks. */
const ASKED_FOR_MS = 60_000;

/** The COMMIT's answer was lost: the database is asked, with a session of its own. */
async function decisionAfterLostAnswer(promotion: Promotion, lost: unknown): Promise<number> {
  const deadline = performance.now() + ASKED_FOR_MS;
  for (;;) {
    try {
      const decision = await askForOutcome(promotion);
      if (decision.decided) return decision.epoch;
      await promotion.pools?.release();
      throw promotionBlocked('the COMMIT did not go through', lost);
    } catch (error) {
      if (error instanceof VerdigrisError && error.type === 'PromotionBlocked') throw error;
      if (performance.now() > deadline) throw error;
      await sleep(200);
    }
  }
}

/**
 * By the fence's lock, which is free at once as a rule. A COMMIT that waits for a synchronous standby keeps it, and all writers
 * with it: then the actor's lock is asked for, whose holder has some 15 s before it is ended.
 */
async function askForOutcome({ databases, from, migration }: Promotion): Promise<Decision> {
  const ask = (session: Session): Promise<Decision> => readDecision(session, migration, from, LOOKS_AT_DECISION);
  try {
    return await withSession(databases[from], { purpose: 'promotion outcome', ...SHORT_STATEMENTS }, ask);
  } catch (error) {
    if (sqlState(error) !== LOCK_NOT_AVAILABLE) throw error;
    return askDecision(databases[from], migration);
  }
}
