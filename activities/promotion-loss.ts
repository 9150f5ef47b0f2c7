import { Context } from '@temporalio/activity';
import { VerdigrisError } from '../src/errors.js';
import { replacedSince } from '../src/postgres/blue-follows.js';
import { readNewTables } from '../src/postgres/ddl/schema-watch.js';
import { feedName } from '../src/postgres/feed.js';
import { wasForced } from '../src/postgres/forced-way-back.js';
import type { Run } from '../src/postgres/ownership.js';
import { readServerPosition } from '../src/postgres/server-position.js';
import { SHORT_STATEMENTS, type Session } from '../src/postgres/session.js';
import { describeLoss, readConfirmed } from '../src/postgres/standby-loss.js';
import { whyFeedIsDead, type DeadFeed } from '../src/postgres/dead-feed.js';
import { unmovedOnGreen } from '../src/postgres/unmoved-contents.js';
import { within } from '../src/timing.js';
import { isAccepted, isHelpedByLoss, NOT_COUNTED } from '../workflows/lib/loss.js';
import type { RunRef } from '../workflows/lib/run-ref.js';
import type { Work } from './context.js';

/*
 * What a way back leaves behind on green: somebody must accept it before, and hears of it after.
 */

/** What a way back that is refused tells the run. */
export type WayBackRefused = Pick<DeadFeed, 'comparisonEndsIt'>;

const UNTIL_COMPARED =
  'wait: the run compares the rows before each try, and where they are the same the rollback goes on by itself';

/** Going back without the reverse feed loses what was written on green since it died: somebody must accept that. */
export async function refuseLostWayBack({ session, run, signal }: Work): Promise<void> {
  const [green, blue] = [
    await session('green', 'way back', SHORT_STATEMENTS),
    await session('blue', 'way back', SHORT_STATEMENTS),
  ];
  const dead = await whyFeedIsDead(green, () => Promise.resolve(blue), run, signal);
  if (dead !== undefined) throw await wayBackIsLost(green, run, dead);
}

/**
 * The same right before a hold, on its sessions: a replica that has taken blue's place since the feed was looked at may lack
 * what green's slot sends no more, and a marker arrives there all the same.
 */
export async function refuseReplacedBlue(run: Run, green: Session, blue: Session): Promise<void> {
  const confirmed = await readConfirmed(green, run.runId);
  const why = await replacedSince(green, run.runId, confirmed, await readServerPosition(blue));
  if (why !== undefined) throw await wayBackIsLost(green, run, { why, comparisonEndsIt: true });
}

async function wayBackIsLost(
  green: Session,
  { runId, migration }: Run,
  { why, comparisonEndsIt }: DeadFeed,
): Promise<VerdigrisError> {
  const details: WayBackRefused = { comparisonEndsIt };
  const loses = await describeLoss(green, runId, feedName(migration, 'to_blue'));
  return new VerdigrisError({
    type: 'RollbackUnsafe',
    message: `${why}; a rollback would lose ${loses}`,
    details,
    nextStep: `${comparisonEndsIt ? UNTIL_COMPARED : 'mend the feed, and the rollback goes on by itself'}; or accept the loss (rollback with "acceptLoss": true); or stay on green (retire)`,
  });
}

/**
 * A try with a loss whose worker has died, or that has lost a connection, is begun again by Temporal, maybe hours later:
 * by then it may lose nothing, or much more than was accepted. The run tries it without a loss first, and compares.
 */
export function refuseAgain(): void {
  if (Context.current().info.attempt === 1) return;
  throw new VerdigrisError({
    type: 'PromotionBlocked',
    message: 'the try with the loss that was accepted was interrupted: what it would lose now is looked at first',
    nextStep:
      'nothing: the run tries it without a loss, and asks again where it would lose much more than was accepted',
  });
}

/**
 * Right before writes move: it is not lost what nobody has accepted.
 *
 * @param accepted as describeLoss() has said it then; undefined where it was not counted
 */
export async function refuseGrown(
  green: Session,
  { runId, migration }: Run,
  accepted: string | undefined,
): Promise<void> {
  if (accepted === undefined) return;
  const loses = await describeLoss(green, runId, feedName(migration, 'to_blue'));
  if (isAccepted({ feed: accepted }, { feed: loses })) return;
  throw new VerdigrisError({
    type: 'RollbackUnsafe',
    message: `blue lacks clearly more by now than was accepted; a rollback would lose ${loses}`,
    nextStep:
      'accept that (rollback with "acceptLoss": true); or mend the feed, and the rollback goes on by itself; or stay on green (retire)',
  });
}

/** Where a loss may be accepted for it, it says how much that would be now: no more than that is accepted. */
export async function withLossNamed(error: unknown, green: Session, { runId, migration }: Run): Promise<unknown> {
  if (!(error instanceof VerdigrisError) || error.type !== 'PromotionBlocked') return error;
  if (!isHelpedByLoss(error.type, error.message)) return error;
  const loses = await describeLoss(green, runId, feedName(migration, 'to_blue')).catch(() => null);
  if (loses === null) return error;
  const message = `${error.what.replace(/\.$/, '')}; forced now, a rollback would lose ${loses}`;
  return new VerdigrisError({ type: error.type, message, nextStep: error.nextStep, cause: error });
}

/**
 * Null where green had been closed by a try without a loss, whatever was accepted when blue was opened. Green is closed
 * now, so this is the last count. Blue serves by then, so a green that is lost in that moment keeps nobody waiting.
 *
 * @param mayBeForced whether it may have been a try with a loss, as far as is known without green
 */
export async function whatWasLost(
  green: Session,
  { runId, migration }: Run,
  epoch: number,
  mayBeForced: boolean,
): Promise<string | null> {
  const count = async (): Promise<string | null> =>
    (await wasForced(green, runId, epoch)) ? describeLoss(green, runId, feedName(migration, 'to_blue')) : null;
  const silent = mayBeForced ? NOT_COUNTED : null;
  return within(count(), LAST_LOOK_MS, silent).catch(() => silent);
}

/** How long tables of green alone are looked through, ms: the way back is decided by the answer. */
const LOOKED_THROUGH_MS = 5_000;

/** What green holds that is not replicated to blue, in words; also in tables that nobody has been told of yet. */
export async function contentsOfGreenAlone(green: Session, { plan, runId }: RunRef): Promise<string[]> {
  const untold = await readNewTables({ session: green, side: 'green', runId, patterns: plan.tables });
  return unmovedOnGreen(green, runId, { untold, withinMs: LOOKED_THROUGH_MS, rest: 'count' });
}

/** Blue serves by then, and whoever is to be led there hears of it after the look; a green that is lost now says nothing, ms. */
const LAST_LOOK_MS = 3_000;

/**
 * The same of a green that is closed now; undefined where it does not say. A look that is cut off is at its statement still:
 * its session is its own.
 */
export function unmovedAtLast({ session }: Work, ref: RunRef): Promise<string[] | undefined> {
  const look = async (): Promise<string[]> =>
    contentsOfGreenAlone(await session('green', 'last look', SHORT_STATEMENTS), ref);
  return within(look(), LAST_LOOK_MS, undefined).catch(() => undefined);
}
