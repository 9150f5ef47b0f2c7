import { setTimeout as sleep } from 'node:timers/promises';
import { unservedOf, type ClientPool } from '../src/pgbouncer/client-pools.js';
import { pgBouncersOf } from '../src/pgbouncer/from-plan.js';
import { parseDuration } from '../src/plan/duration.js';
import { GOOD_NEWS_EVERY_MS } from '../src/plan/standby-news.js';
import { switchFenceOff } from '../src/postgres/finish-promotion.js';
import { parseSize } from '../src/postgres/lag.js';
import { NumbersTaken } from '../src/postgres/numbers-taken.js';
import { describeReader, readOtherReaders } from '../src/postgres/other-readers.js';
import type { Progress } from '../src/postgres/migrate/step-context.js';
import {
  greenAway,
  isAway,
  lookAtStandby,
  type StandbyHealth,
  type StandbyLimits,
  type StandbyState,
} from '../src/postgres/standby.js';
import { closeSession, openSession, type Session } from '../src/postgres/session.js';
import type { Side } from '../src/side.js';
import type { RunRef } from '../workflows/lib/run-ref.js';
import { refuseReadsOnBlueOf, WeightsWatch } from './haproxy.js';
import { perform, performWhileGreenServes, watching, type ActivityDependencies, type Work } from './context.js';
import { clockOfActivity } from './temporal-clock.js';

/** Time between two looks at the feed. */
const LOOK_EVERY_MS = 1_000;
/** Time between two tries to drop a feed whose slot is held: the server logs each. */
const DROP_AGAIN_MS = 10_000;
/** Time between two looks at the pools of PgBouncer. An idle server connection stays for longer. */
const POOLS_EVERY_MS = 15_000;

/**
 * How long a new state must last before it is told, ms: each telling is a few events of the history, and a feed that goes
 * to and fro around its limit would fill it.
 */
const SETTLED_AFTER_MS: Readonly<Record<StandbyHealth, number>> = {
  healthy: 60_000,
  lagging: 30_000,
  retaining: 5_000,
  unreachable: 10_000,
  greenAway: 10_000,
  filling: 5_000,
  synchronous: 30_000,
  numbersTaken: 0,
  undroppable: 5_000,
  broken: 0,
  dropped: 0,
  notOpened: 0,
  open: 0,
};

/** How often the lag is told without news, ms, where something is known to be wrong. */
const LAG_EVERY_MS = 3_600_000;

/** How often people are told anew what a rollback would lose, ms, once the feed is dead. */
const COUNT_AGAIN_MS = 600_000;

/** How long green's fence is tried to be switched off, ms: its tables' writers wait for 0.1 s a try. */
const FENCE_WITHIN_MS = 2_000;
/** Then its writers go on paying for it for so long, ms: that is less than what they would wait for more tries. */
const FENCE_AGAIN_MS = 60_000;

function stillArmed(note: string): Progress {
  return { step: 'locks', object: "green's fence", done: 0, total: 0, rowsPerSecond: 0, etaSeconds: null, note };
}

/** Activities of phase 7. */
export function standbyActivities(dependencies: ActivityDependencies) {
  return {
    /**
     * Watches the feed from green to blue; returns when its health is no longer `known`, and without news with the lag: every
     * hour, twice a day while all is well.
     *
     * @param epoch the one in which green has got the writes. Default: not asked, as by an earlier version
     * @param missed how many changes are known to have met no row on blue: more are news. Default: they are not
     * @param comparedFor for which `comparisonEndsIt` rows are compared, or were: another one is news; null: for none.
     * Default: it is not
     * @throws ApplicationFailure WritesOnBlue where they have been given back since
     */
    watchStandby: (
      ref: RunRef,
      known: string,
      epoch = Infinity,
      missed?: number,
      comparedFor?: string | null,
    ): Promise<StandbyState> =>
      performWhileGreenServes(dependencies, ref, epoch, async (work) => {
        const weights = new WeightsWatch(work, ref, dependencies.environment, 'green', LOOK_EVERY_MS);
        try {
          return await watch(work, ref, { known, epoch, missed, comparedFor }, weights);
        } finally {
          await weights.close();
        }
      }),

    /** Switches green's fence off where the end of the promotion could not, since somebody locked a table: until it is off. */
    switchFenceOff: (ref: RunRef): Promise<void> =>
      perform(dependencies, ref, async ({ databases, signal, report }) => {
        const patience = { forMs: FENCE_WITHIN_MS, signal };
        for (;;) {
          const armed = await switchFenceOff(databases.green, ref.plan.name, patience);
          if (armed === null) return;
          report(stillArmed(armed));
          await sleep(FENCE_AGAIN_MS, undefined, { signal });
        }
      }),

    /**
     * Looks whether nobody reads on blue through a HAProxy any more, nor would after a restart of one.
     *
     * @param epoch the one in which green has got the writes. Default: not asked, as by an earlier version
     * @throws ApplicationFailure WeightsNotSet, ConnectionFailed, ConnectionUnknown: which HAProxy may still lead there, and
     * why; WritesOnBlue where the writes have been given back since: reads are right there
     */
    readsHaveLeftBlue: (ref: RunRef, epoch = Infinity): Promise<void> =>
      performWhileGreenServes(dependencies, ref, epoch, async ({ session, signal }) =>
        refuseReadsOnBlueOf(ref, dependencies.environment, await session('green', 'reads on blue', watching(signal))),
      ),

    /** Who else reads blue by replication, in words. A connection that this worker does not have is not waited for. */
    otherReaders: (ref: RunRef): Promise<string[]> =>
      perform(
        dependencies,
        ref,
        async ({ session, signal }) =>
          (await readOtherReaders(await session('blue', 'other readers', watching(signal)))).map(describeReader),
        (error) => error.asLastWord(),
      ),

    /** Returns when each of these pools has been seen with a server connection since writes are on green. */
    awaitServed: (ref: RunRef, pools: readonly ClientPool[]): Promise<void> =>
      perform(dependencies, ref, async ({ signal }) => {
        const setup = pgBouncersOf(ref.plan, dependencies.environment);
        if (setup === undefined) return;
        for (let left = await unservedOf(setup, pools); left.length > 0; left = await unservedOf(setup, left)) {
          await sleep(POOLS_EVERY_MS, undefined, { signal });
        }
      }),
  };
}

/** What the run knows, as watchStandby() is told it. */
interface Told {
  readonly known: string;
  readonly epoch: number;
  readonly missed: number | undefined;
  readonly comparedFor: string | null | undefined;
}

async function watch(
  work: Work,
  ref: RunRef,
  { known, epoch, missed, comparedFor }: Told,
  weights: WeightsWatch,
): Promise<StandbyState> {
  const limits = {
    maxLagMs: Math.max(5_000, parseDuration(ref.plan.replicate.maxLag)),
    maxRetainedWal: parseSize(ref.plan.replicate.maxRetainedWal),
    numbers: new NumbersTaken(known === 'numbersTaken', ref.plan.tables),
    epoch,
  };
  // Attempts that a replaced worker has begun count as well: else the lag would never be told where workers come and go.
  const clock = clockOfActivity();
  const begun = clock();
  const until = known === 'healthy' ? GOOD_NEWS_EVERY_MS : LAG_EVERY_MS;
  const links = new StandbyLinks(work);
  const isMissed = missed === undefined ? () => false : newlyMissed(missed, () => clock() > begun + COUNT_AGAIN_MS);
  let last: string = known;
  let since = performance.now();
  try {
    for (;;) {
      work.signal.throwIfAborted();
      const state = await look(work, links, ref, limits);
      const { health, lagSeconds } = state;
      work.report({ health, lagSeconds, ...(weights.why === undefined ? {} : { weights: weights.why }) });
      if (state.health !== last) since = performance.now();
      last = state.health;
      const settled = performance.now() - since >= SETTLED_AFTER_MS[state.health];
      const again = state.loses === null ? until : Math.min(until, begun + COUNT_AGAIN_MS);
      const isNews = isMissed(state) || callsForComparison(state, comparedFor);
      if ((state.health !== known && settled) || clock() > again || isNews) return state;
      await sleep(health === 'undroppable' ? DROP_AGAIN_MS : LOOK_EVERY_MS, undefined, { signal: work.signal });
    }
  } finally {
    await links.close();
  }
}

/**
 * Whether changes have met no row on blue that people do not know of: the first ones at once, more of them only `again`.
 *
 * @param before how many are known
 */
export function newlyMissed(before: number, again: () => boolean): (state: Pick<StandbyState, 'missed'>) => boolean {
  let known = before;
  return ({ missed }) => {
    if (missed === undefined) return false;
    // The counters have begun anew.
    if (missed < known) known = 0;
    return missed > known && (known === 0 || again());
  };
}

/**
 * Whether rows are to be compared for what the run does not know of. One dead feed looks like another: blue may fail over
 * while people have been told that somebody has disabled its subscription.
 *
 * @param comparedFor see watchStandby()
 */
export function callsForComparison(
  { comparisonEndsIt }: Pick<StandbyState, 'comparisonEndsIt'>,
  comparedFor: string | null | undefined,
): boolean {
  return comparedFor !== undefined && comparisonEndsIt !== undefined && comparisonEndsIt !== comparedFor;
}

async function look(work: Work, links: StandbyLinks, ref: RunRef, limits: StandbyLimits): Promise<StandbyState> {
  try {
    const green = await links.open('green');
    const state = await lookAtStandby(green, () => links.open('blue'), work.run, limits, work.signal);
    if (state.health === 'unreachable' || state.health === 'filling') await links.close();
    return state;
  } catch (error) {
    await links.close();
    if (!isAway(error) || work.signal.aborted) throw error;
    return greenAway(error);
  }
}

/** The two sessions of the watch: kept from look to look, opened again after a server was away. */
class StandbyLinks {
  readonly #sessions = new Map<Side, Session>();

  constructor(private readonly work: Work) {}

  async open(side: Side): Promise<Session> {
    const known = this.#sessions.get(side);
    if (known !== undefined) return known;
    const { databases, signal } = this.work;
    const session = await openSession(databases[side], { purpose: 'standby', ...watching(signal) });
    this.#sessions.set(side, session);
    return session;
  }

  async close(): Promise<void> {
    const sessions = [...this.#sessions.values()];
    this.#sessions.clear();
    await Promise.all(sessions.map(closeSession));
  }
}
