import { setTimeout as sleep } from 'node:timers/promises';
import { log } from '@temporalio/activity';
import { VerdigrisError, type ErrorType } from '../src/errors.js';
import {
  cutOffFrom,
  deploymentFaults,
  readInstances,
  unconfirmedInstances,
  type Confirmed,
} from '../src/gates/instances.js';
import { describeFollowers, readOtherFollowers } from '../src/gates/other-followers.js';
import type { RouterSnapshots } from '../src/gates/router-snapshot.js';
import { sampleOf } from '../src/gates/router-source.js';
import type { Plan } from '../src/plan/schema.js';
import { ALL_TABLES, tableFilter } from '../src/postgres/catalog-pattern.js';
import { readTables } from '../src/postgres/catalog.js';
import { hasState, readRoute } from '../src/postgres/state.js';
import type { Session } from '../src/postgres/session.js';
import type { Environment } from '../src/worker/connections.js';
import type { RunRef } from '../workflows/lib/run-ref.js';
import { perform, type ActivityDependencies, type Work } from './context.js';
import { haproxiesBehind, haproxyNames } from './haproxy.js';
import { routerReader } from './router-reader.js';

/** An instance that lives takes a route over in milliseconds; the way back waits no longer for one that does not. */
const FOLLOW_WITHIN_MS = 2_000;
/** How often those that are behind are looked at, beside the run. */
const LOOK_EVERY_MS = 1_000;
/** Names that come and go are told this seldom: each telling is an event of the run. */
const TELL_EVERY_MS = 30_000;

/** In the place of names, where they could not be read. */
const NOBODY_ASKED = 'those that could not be asked';

/** A generation of the route, as a run keeps it. */
export type RouteStamp = Pick<Confirmed, 'epoch' | 'generation'>;

/** Activities about the instances of the application. */
export function instanceActivities(dependencies: ActivityDependencies) {
  return {
    /**
     * Waits until every live instance follows the way back of the reads, and every HAProxy of those that are known, which
     * are told again and again; or until others do not than those that are known.
     *
     * @returns those that do not; null when nobody can be asked any more, since the run's state is gone
     */
    awaitConfirmed: (
      ref: RunRef,
      route: RouteStamp,
      known: readonly string[],
    ): Promise<{ unconfirmed: readonly string[] | null }> =>
      perform(dependencies, ref, async (work) => ({
        unconfirmed: await awaitConfirmed(work, ref, dependencies.environment, route, known),
      })),
  };
}

/**
 * Refuses what needs the code that works with both schemas, before anything moves, while that is not deployed.
 *
 * @param what is about to begin, and how it is refused
 */
export async function refuseUndeployed(
  blue: Session,
  plan: Plan,
  what: { readonly name: string; readonly type: ErrorType; readonly nextStep: string; readonly retryable: boolean },
): Promise<void> {
  const { instances } = plan.traffic;
  if (instances === undefined) return;
  const faults = deploymentFaults(await readInstances(blue, plan.name), instances);
  if (faults.length === 0) return;
  const { name, ...refusal } = what;
  throw new VerdigrisError({ ...refusal, message: `${name}: ${faults.join('; ')}` });
}

/**
 * Refuses a promotion while an instance of the application has no connection to green: each of its writes would fail from
 * the promotion on. Whoever only writes is seen by no gate.
 *
 * @throws VerdigrisError PromotionBlocked that names them
 */
export async function refuseCutOff(blue: Session, migration: string): Promise<void> {
  const cutOff = cutOffFrom('green', await readInstances(blue, migration));
  if (cutOff === undefined) return;
  throw new VerdigrisError({
    type: 'PromotionBlocked',
    message: `these instances of the application have no connection to green: ${cutOff}`,
    nextStep:
      'let them reach green (address, pg_hba.conf, firewall, max_connections), or end them; then approve the promotion again',
  });
}

/**
 * Refuses a promotion while an instance that follows an earlier migration writes to blue: none of its sides would take its
 * writes any more. Where the plan leaves tables out, these may be what it writes to: the preflight has warned of it.
 *
 * @throws VerdigrisError PromotionBlocked that names them
 */
export async function refuseOtherFollowers(blue: Session, { name, tables }: Plan): Promise<void> {
  const writers = (await readOtherFollowers(blue, name)).filter(({ hasWritten }) => hasWritten);
  if (writers.length === 0) return;
  const isMoved = tableFilter(tables);
  if (!(await readTables(blue, ALL_TABLES)).every(({ root }) => isMoved(root))) return;
  throw new VerdigrisError({
    type: 'PromotionBlocked',
    message: `these instances of the application write to blue, and follow an earlier migration of it: ${describeFollowers(writers)}`,
    nextStep: `end them (close()), or deploy them with migration: "${name}" and the databases of this plan; then approve the promotion again`,
  });
}

/** Who follows a route, at one time. */
export interface Followers {
  /** Live instances that do not say so, and pages that do not answer. */
  readonly behind: readonly string[];
  readonly routers: RouterSnapshots;
}

export type FollowerReader = (route: Confirmed) => Promise<Followers>;

/** Asks both those that write down what they follow, and those that are asked: each is a process with users. */
export function followerReader(
  blue: Session,
  plan: Plan,
  environment: Environment,
  signal: AbortSignal,
): FollowerReader {
  const readRouters = routerReader(plan, environment, undefined, signal);
  return async (route) => {
    const told = await unconfirmedInstances(blue, route);
    const routers = await readRouters(() => Promise.resolve(blue));
    const asked = sampleOf(routers).unconfirmed(route.epoch, route.generation);
    return { behind: [...new Set([...told, ...asked, ...(routers.unreachable ?? [])])], routers };
  };
}

/** Waits until every live instance follows the route, so long at most. @returns what was read last */
export async function untilFollowed(
  read: FollowerReader,
  route: Confirmed,
  withinMs: number,
  { signal, report }: Pick<Work, 'signal' | 'report'>,
): Promise<Followers> {
  const deadline = performance.now() + withinMs;
  for (;;) {
    signal.throwIfAborted();
    const followers = await read(route);
    if (followers.behind.length === 0 || performance.now() > deadline) return followers;
    report({ waitingFor: followers.behind.slice(0, 10) });
    await sleep(100, undefined, { signal });
  }
}

/**
 * After reads were taken back: the live instances that do not say so. They don't keep a rollback from going on, and
 * neither does a blue that can't say.
 */
export async function unconfirmedOnTheWayBack(
  blue: Session,
  { plan }: RunRef,
  environment: Environment,
  route: Confirmed,
  work: Work,
): Promise<readonly string[]> {
  try {
    const read = followerReader(blue, plan, environment, work.signal);
    const { behind } = await untilFollowed(read, route, FOLLOW_WITHIN_MS, work);
    if (behind.length > 0) {
      const names = behind.slice(0, 10).join(', ');
      log.warn(`reads are back on blue, and these instances have not confirmed it: ${names}`, { ...route });
    }
    return behind;
  } catch {
    // Whoever has ended this asks again.
    if (work.signal.aborted) return [];
    log.warn('reads are back on blue; which instances have confirmed it could not be read', { ...route });
    return [NOBODY_ASKED];
  }
}

async function awaitConfirmed(
  work: Work,
  ref: RunRef,
  environment: Environment,
  stamp: RouteStamp,
  known: readonly string[],
): Promise<readonly string[] | null> {
  const migration = ref.plan.name;
  const blue = await work.session('blue', 'confirmations');
  const begun = performance.now();
  const haproxies = haproxyNames(ref.plan);
  let away = known.filter((name) => haproxies.includes(name));
  for (;;) {
    work.signal.throwIfAborted();
    const route = (await hasState(blue)) ? await readRoute(blue, migration) : undefined;
    // Writes have moved since: who follows that is another question.
    if (route !== undefined && route.epoch !== stamp.epoch) return [];
    away = [...(await haproxiesBehind(ref, environment, blue, away))];
    if (route === undefined) {
      // Without the run's state only HAProxies can be asked.
      const left = known.filter((name) => away.includes(name) || !haproxies.includes(name));
      return sameNames(left, known) ? null : left;
    }
    const instances = await followerReader(blue, ref.plan, environment, work.signal)({ migration, ...stamp });
    const behind = [...away, ...instances.behind];
    if (behind.length === 0) return behind;
    if (!sameNames(behind, known) && performance.now() - begun > TELL_EVERY_MS) return behind;
    work.report({ waitingFor: behind.slice(0, 10) });
    await sleep(LOOK_EVERY_MS, undefined, { signal: work.signal });
  }
}

function sameNames(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((name) => b.includes(name));
}
