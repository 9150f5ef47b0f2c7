import { log } from '@temporalio/activity';
import { takeReadsBack } from '../src/postgres/green-reads.js';
import { SHORT_STATEMENTS } from '../src/postgres/session.js';
import { isAway } from '../src/postgres/standby.js';
import { hasState, readOwner, readRoute, type Route } from '../src/postgres/state.js';
import type { Environment } from '../src/worker/connections.js';
import type { RunRef } from '../workflows/lib/run-ref.js';
import type { Work } from './context.js';
import { flagsFollowOrTell, type FlagsOwed } from './flags.js';
import { haproxiesStartedAnew, weightsFollowRouteOrWarn } from './haproxy.js';
import { unconfirmedOnTheWayBack } from './instances.js';

/** Who does not follow yet although reads have been taken back. Plain data. */
export interface ReadsOwed extends Partial<FlagsOwed> {
  readonly route: Route;
  /** HAProxies that could not be told, and live instances that have not confirmed it. */
  readonly unconfirmed?: readonly string[];
  /** What people should know all the same. Left out where there is nothing, and by older workers. */
  readonly warnings?: readonly string[];
}

/**
 * All reads back to blue, and whoever leads them there told.
 *
 * @param askedFor when, by performance.now(): no share is taken back that has come into effect later. Default: now
 * @returns who does not follow yet; null when nothing and nobody is missing, or writes are not on blue
 * @throws VerdigrisError StaleEpoch (retryable): see takeReadsBack()
 */
export async function readsToBlue(
  work: Work,
  ref: RunRef,
  environment: Environment,
  askedFor = performance.now(),
): Promise<ReadsOwed | null> {
  const blue = await work.session('blue', 'reads to blue');
  if (!(await hasState(blue))) return null;
  const inForce = await takeReadsBack(blue, ref.plan.name, askedFor);
  if (inForce === undefined) return null;
  const away = await weightsFollowRouteOrWarn(ref, environment, () => Promise.resolve(blue));
  const flags = await flagsFollowOrTell(ref, inForce);
  const [warnings, behind] = await Promise.all([
    haproxiesStartedAnew(ref, environment, blue),
    unconfirmedOnTheWayBack(blue, ref, environment, inForce, work),
  ]);
  const unconfirmed = [...away, ...behind];
  if (unconfirmed.length === 0 && warnings.length === 0) return flags;
  return { route: inForce, ...flags, unconfirmed, ...(warnings.length === 0 ? {} : { warnings }) };
}

/**
 * For what is only right while all reads are on blue: it comes before the first stage, or takes away what readers of green
 * need. A run that was reset to a point before its stages does not know of the one in force, which nobody watches any more.
 *
 * @param onlyIfAnswered an undoing goes on with the other side while blue is away. Default: blue must answer
 */
export async function readsAreBack(
  work: Work,
  ref: RunRef,
  environment: Environment,
  { onlyIfAnswered = false } = {},
): Promise<void> {
  const askedFor = performance.now();
  try {
    const blue = await work.session('blue', 'reads to blue', SHORT_STATEMENTS);
    if ((await readOwner(blue))?.runId !== ref.runId) return;
    const route = await readRoute(blue, ref.plan.name);
    if (route?.writesOn !== 'blue' || route.greenReadPercent === 0) return;
    log.warn(
      `${route.greenReadPercent} % of the reads are on green, of which the run knows nothing: they go back to blue`,
    );
    await readsToBlue(work, ref, environment, askedFor);
  } catch (error) {
    if (!onlyIfAnswered || !isAway(error)) throw error;
  }
}
