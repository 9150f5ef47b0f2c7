import { VerdigrisError } from '../errors.js';
import { otherSide, type Side } from '../side.js';
import { answerWithin } from '../timing.js';
import { literal } from './identifier.js';
import { openButWaiting } from './open-but-waiting.js';
import { NO_POOLS, type Unreleased } from './pools.js';
import type { Promotion } from './promotion.js';
import { readServerPosition, whyReplaced } from './server-position.js';
import type { Session } from './session.js';
import { sqlState, STALE_EPOCH } from './sqlstate.js';
import { readRoute, ROUTE_CHANNEL } from './state.js';
import { openedByHand } from './where-writes-are.js';

/* The last step of a promotion, after its decision: the new side takes writes. */

interface Opening extends Pick<Promotion, 'from' | 'pools'> {
  /** Of the side that has given the writes away, and of the one that takes them. */
  readonly old: Session;
  readonly to: Session;
  readonly epoch: number;
  readonly open: () => Promise<void>;
}

/** After the decision: the new side takes writes, routers hear of it, poolers lead there and their clients go on. */
export async function openAndLetGo(opening: Opening): Promise<readonly Unreleased[]> {
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
export async function openNewSide(to: Session, migration: string, epoch: number): Promise<void> {
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
export async function refuseOtherServer(to: Session, promotion: Promotion, epoch: number): Promise<void> {
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
