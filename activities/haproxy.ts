import { setTimeout as sleep } from 'node:timers/promises';
import { log } from '@temporalio/activity';
import { reasonOf } from '../src/failure-text.js';
import { bring, bringAll } from '../src/haproxy/bring.js';
import { haproxiesOf } from '../src/haproxy/from-plan.js';
import type { Haproxies, Haproxy } from '../src/haproxy/haproxy.js';
import { refuseAway, refuseReadsOnBlue, refuseReadsOnGreen } from '../src/haproxy/reads-on.js';
import { setByOthers } from '../src/haproxy/set-by-others.js';
import { shareReader, shareReaderOf } from '../src/haproxy/share.js';
import { startedAnew } from '../src/haproxy/started-anew.js';
import { bringOrWarn } from '../src/haproxy/take-back.js';
import type { Plan } from '../src/plan/schema.js';
import { endSharePeriod, isAsClaimed } from '../src/postgres/green-reads.js';
import { closeSession, openSession, type Session } from '../src/postgres/session.js';
import { hasState, readRoute } from '../src/postgres/state.js';
import type { Side } from '../src/side.js';
import { databasesOf, type Environment } from '../src/worker/connections.js';
import type { RunRef } from '../workflows/lib/run-ref.js';
import { watching, type Work } from './context.js';
import type { Verdict } from './stage-verdict.js';

/* Where the plan names HAProxies, their weights follow the route. A plan without them passes all of this by. */

/** How often the weights are looked at while a stage is watched. */
const LOOK_EVERY_MS = 500;
const NOT_YET = 'the weights have not been looked at yet';

/** Before a stage moves anything: every HAProxy answers, and would give green its share. */
export async function refuseAbsentHaproxies({ plan }: RunRef, environment: Environment): Promise<void> {
  const setup = haproxiesOf(plan, environment);
  if (setup !== undefined) await refuseAway(setup);
}

/**
 * Brings every HAProxy to the route in force.
 *
 * @param session on the side that has writes
 * @throws VerdigrisError WeightsNotSet when one of them has not got there
 */
export async function weightsFollowRoute({ plan }: RunRef, environment: Environment, session: Session): Promise<void> {
  const setup = haproxiesOf(plan, environment);
  if (setup !== undefined) await bringAll(setup, shareReader(session, plan.name));
}

/**
 * The same on the way back, and after writes have moved: never a reason to fail, nor to wait for long.
 *
 * @returns those that do not follow yet, by the names that people are told
 */
export async function weightsFollowRouteOrWarn(
  { plan }: RunRef,
  environment: Environment,
  openSession: () => Promise<Session>,
): Promise<readonly string[]> {
  const setup = setupOrWarn(plan, environment);
  if (setup === undefined) return [];
  const later = shareReaderOf(databasesOf(plan, environment), plan.name);
  // Without the session the other side's row may say it.
  const share = await openSession().then(
    (session) => shareReader(session, plan.name),
    () => later,
  );
  const notYet = await bringOrWarn(setup, share, later);
  tell(plan.name, notYet?.warning);
  // One that this worker does not know follows as little as one that has not answered.
  return without(
    haproxyNames(plan),
    setup.instances.filter(({ connection }) => notYet?.connections.includes(connection) !== true),
  );
}

/**
 * After reads were taken back: HAProxies that may have left a process behind which still reads on green. Never a reason to fail.
 *
 * @returns warnings for people
 */
export async function haproxiesStartedAnew(
  { plan, runId }: RunRef,
  environment: Environment,
  blue: Session,
): Promise<readonly string[]> {
  const setup = haproxiesOf(plan, environment, () => undefined);
  if (setup === undefined) return [];
  const period = await endSharePeriod(blue, runId).catch(() => undefined);
  const warnings = period === undefined ? [] : await startedAnew(setup, period);
  for (const warning of warnings) tell(plan.name, warning);
  return warnings;
}

/** The plan's HAProxies by the names that people are told, beside those of instances of the application. */
export function haproxyNames({ traffic }: Plan): string[] {
  return (traffic.haproxy?.instances ?? []).map(nameOf);
}

/**
 * Tries once more to bring these to the route in force. A step of the run asks this again and again: what a process goes
 * on trying by itself ends with the process.
 *
 * @param names some of haproxyNames()
 * @returns those that do not follow now either
 */
export async function haproxiesBehind(
  { plan }: RunRef,
  environment: Environment,
  session: Session,
  names: readonly string[],
): Promise<readonly string[]> {
  const setup = haproxiesOf(plan, environment, () => undefined);
  if (setup === undefined) return [];
  const share = shareReader(session, plan.name);
  const asked = setup.instances.filter(({ connection }) => names.includes(nameOf(connection)));
  const results = await Promise.allSettled(asked.map((haproxy) => bring(setup, haproxy, share)));
  return without(
    names,
    asked.filter((_, i) => results[i]?.status === 'fulfilled'),
  );
}

function without(names: readonly string[], followers: readonly Haproxy[]): string[] {
  return names.filter((name) => !followers.some(({ connection }) => nameOf(connection) === name));
}

function nameOf(connection: string): string {
  return `HAProxy "${connection}"`;
}

/**
 * Before writes go back to blue, which follows green: its reads go first, so that nobody reads from a green that gets no
 * rows any more. They go back to green when the writes stay there.
 *
 * @param epoch the one in which writes are on green
 */
export async function readsGoFirst(
  { plan }: RunRef,
  environment: Environment,
  green: Session,
  epoch: number,
): Promise<void> {
  const setup = setupOrWarn(plan, environment);
  if (setup === undefined) return;
  const inForce = shareReader(green, plan.name);
  const onBlue = async (): ReturnType<typeof inForce> => {
    const share = await inForce();
    const route = share.percent === 100 ? await readRoute(green, plan.name) : undefined;
    return route?.writesOn === 'green' && route.epoch === epoch ? { ...share, percent: 0 } : share;
  };
  const later = shareReaderOf(databasesOf(plan, environment), plan.name);
  tell(plan.name, (await bringOrWarn(setup, onBlue, later))?.warning);
}

/** Looks at the weights while a stage, or the standby window, lasts, and puts right what a restart has lost. */
export class WeightsWatch {
  readonly #stop = new AbortController();
  #session: Session | undefined;
  #why: string | undefined;
  readonly #ended: Promise<void>;

  constructor(
    private readonly work: Work,
    private readonly ref: RunRef,
    private readonly environment: Environment,
    private readonly side: Side,
    everyMs = LOOK_EVERY_MS,
  ) {
    if (ref.plan.traffic.haproxy !== undefined) this.#why = NOT_YET;
    this.#ended = this.#run(everyMs);
  }

  /** What keeps the weights from being those of the route; undefined while they are. */
  get why(): string | undefined {
    return this.#why;
  }

  /** What is known of a stage by its gates, and by this. A stage that is one in name only shows nothing. */
  judge(verdict: Verdict, where: string, at: string): Verdict {
    if (this.#why === undefined) return verdict;
    const none = { requests: 0, errors: 0 };
    const evidence = { at, where, metric: 'haproxy', windowSeconds: 0, green: none, blue: none } as const;
    return {
      ...verdict,
      outcome: verdict.outcome === 'pass' ? 'inconclusive' : verdict.outcome,
      evidence: [...verdict.evidence, { ...evidence, outcome: 'inconclusive', because: this.#why }],
    };
  }

  async close(): Promise<void> {
    this.#stop.abort(new Error('the weights are no longer watched'));
    await this.#ended;
  }

  async #run(everyMs: number): Promise<void> {
    const { signal } = this.#stop;
    const migration = this.ref.plan.name;
    try {
      const setup = haproxiesOf(this.ref.plan, this.environment);
      while (setup !== undefined && !signal.aborted) {
        const before = this.#why;
        try {
          this.#session ??= await openSession(this.work.databases[this.side], {
            purpose: 'weights',
            statementTimeoutMs: 5_000,
            ...watching(signal),
          });
          const reset = await bringAll(setup, shareReader(this.#session, migration));
          const contested = setByOthers(setup, reset);
          this.#why = contested.length === 0 ? undefined : contestedBy(contested);
          if (this.#why !== undefined && this.#why !== before) log.warn(this.#why, { migration });
          if (this.#why === undefined && reset.length > 0) {
            const names = reset.map(({ connection }) => connection).join(', ');
            log.warn(`HAProxy ${names} had other weights, and has got them again`, { migration });
          }
        } catch (error) {
          this.#why = reasonOf(error);
          if (this.#why !== before) log.warn(this.#why, { migration });
          await this.#forget();
        }
        await sleep(everyMs, undefined, { signal }).catch(() => undefined);
      }
    } catch (error) {
      this.#why = error instanceof Error ? error.message : String(error);
    } finally {
      await this.#forget();
    }
  }

  async #forget(): Promise<void> {
    const session = this.#session;
    this.#session = undefined;
    if (session !== undefined) await closeSession(session);
  }
}

function contestedBy(connections: readonly string[]): string {
  return `somebody else sets the weights of ${connections.map(nameOf).join(', ')} again and again, an agent-check perhaps: the share is in force for a part of the time alone`;
}

/**
 * Before a rollback takes green's tables away: nobody reads there through a HAProxy, and no restart would lead there. None is asked where this run has never
 * led anybody there: one that does not answer, or is not known, would keep a run from its end for nothing.
 *
 * @throws VerdigrisError WeightsNotSet
 */
export async function refuseReadsOnGreenOf(
  { plan, runId }: RunRef,
  environment: Environment,
  blue: Session,
): Promise<void> {
  if (plan.traffic.haproxy === undefined || !(await hasState(blue))) return;
  const route = await readRoute(blue, plan.name);
  if (route === undefined || (await isAsClaimed(blue, runId, route))) return;
  const setup = haproxiesOf(plan, environment);
  if (setup === undefined) return;
  for (const warning of await refuseReadsOnGreen(setup, shareReader(blue, plan.name))) tell(plan.name, warning);
}

/** Before blue is no longer kept current: nobody reads there, and no restart would lead there. @throws VerdigrisError WeightsNotSet */
export async function refuseReadsOnBlueOf({ plan }: RunRef, environment: Environment, green: Session): Promise<void> {
  const setup = haproxiesOf(plan, environment);
  if (setup === undefined) return;
  for (const warning of await refuseReadsOnBlue(setup, shareReader(green, plan.name), databasesOf(plan, environment))) {
    log.warn(warning, { migration: plan.name });
  }
}

/** A HAProxy that a worker does not know must keep neither the others nor writes from moving. */
function setupOrWarn(plan: Plan, environment: Environment): Haproxies | undefined {
  return haproxiesOf(plan, environment, ({ message }) => tell(plan.name, message));
}

function tell(migration: string, warning: string | undefined): void {
  if (warning !== undefined) log.warn(warning, { migration });
}
