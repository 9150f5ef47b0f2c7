import { finishPromotion } from '../src/postgres/finish-promotion.js';
import { releaseAll } from '../src/postgres/pools.js';
import type { promote } from '../src/postgres/promote.js';
import { SHORT_STATEMENTS } from '../src/postgres/session.js';
import { readRoute, recordMove } from '../src/postgres/state.js';
import { otherSide, type Side } from '../src/side.js';
import { within } from '../src/timing.js';
import type { RunRef } from '../workflows/lib/run-ref.js';
import type { ActivityDependencies, Work } from './context.js';
import { flagsFollowOrTell, type FlagsOwed } from './flags.js';
import { weightsFollowRouteOrWarn } from './haproxy.js';
import type { Attempt, PromotionResult } from './promotion-attempt.js';
import { unmovedAtLast, whatWasLost } from './promotion-loss.js';
import { withPools } from './promotion-poolers.js';

/** How long the side that has given the writes away may take to write that down. */
const OLD_SIDE_MS = 2_000;

/** Writes are on the new side: that is written down on both, with what has stayed behind. */
export async function recordPromotion(
  { work, ref, session, from, acceptLoss }: Attempt,
  { steps, holdMs, attempts, epoch, unreleased }: Awaited<ReturnType<typeof promote>>,
): Promise<PromotionResult> {
  const { run } = work;
  if (unreleased.length > 0) work.report({ attempt: attempts, notReleased: unreleased.map(({ pooler }) => pooler) });
  // What an earlier attempt has decided may have been asked for with a loss.
  const mayBeForced = acceptLoss || holdMs === null;
  const result = {
    ...{ holdMs, attempts, epoch, at: new Date().toISOString() },
    lost: from === 'green' ? await whatWasLost(session, run, epoch, mayBeForced) : null,
  };
  const moved = { ...result, steps };
  await recordMove(await work.session(otherSide(from), 'event', SHORT_STATEMENTS), run.runId, from, moved);
  // Of a rollback green's record alone is left: blue's goes with its schema. Nothing waits for a side that is away by now.
  await within(recordMove(session, run.runId, from, moved), OLD_SIDE_MS, undefined).catch(() => undefined);
  // What came after the run had looked.
  const unmoved = from === 'green' ? await unmovedAtLast(work, ref) : undefined;
  return { ...result, ...(unmoved === undefined ? {} : { unmoved }) };
}

/** The activity `finishPromotion`. */
export async function finish(
  dependencies: ActivityDependencies,
  work: Work,
  ref: RunRef,
  from: Side,
  goesBack: boolean,
): Promise<FlagsOwed | null> {
  const { databases, signal } = work;
  await weightsFollowRouteOrWarn(ref, dependencies.environment, () =>
    work.session(otherSide(from), 'weights', SHORT_STATEMENTS),
  );
  // A pooler that was out of reach at the promotion still has its clients wait, or leads to the old side: neither of
  // these waits for what is in the way of the other one.
  const after = { feedBack: from === 'blue', keepFence: goesBack, signal };
  const [released, finished] = await Promise.allSettled([
    withPools(dependencies, ref, work, (pools) => releaseAll(pools, signal)),
    finishPromotion(databases, ref.plan.name, from, after),
  ]);
  if (released.status === 'rejected') throw released.reason;
  if (finished.status === 'rejected') throw finished.reason;
  if (finished.value !== null) work.report({ stillArmed: finished.value });
  if (ref.plan.traffic.flagd === undefined) return null;
  // Nothing else writes the file after this: without the route it is tried again.
  const session = await work.session(otherSide(from), 'flags', SHORT_STATEMENTS);
  return flagsFollowOrTell(ref, await readRoute(session, ref.plan.name));
}
