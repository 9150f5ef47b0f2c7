import { setTimeout as sleep } from 'node:timers/promises';
import { VerdigrisError } from '../src/errors.js';
import { formatInstant } from '../src/plan/local-time.js';
import { windowState, type WindowOf } from '../src/plan/window-times.js';
import { LoadMeter } from '../src/postgres/load.js';
import type { RunRef } from '../workflows/lib/run-ref.js';
import { alive, perform, type ActivityDependencies } from './context.js';
import { temporalClock } from './temporal-clock.js';

/** How a window is now, for the workflow, which knows no time zones: their data may differ from worker to worker. */
export interface WindowLook {
  readonly open: boolean;
  /** ISO 8601: the end of an open window, the beginning of the next one otherwise. */
  readonly changesAt: string;
  /** The same for people, by the clock of the plan's time zone. */
  readonly changesAtText: string;
}

export interface QuietLook {
  /** Whether blue is quiet enough; otherwise the window has ended meanwhile. */
  readonly quiet: boolean;
  readonly transactionsPerSecond: number;
}

/** Transactions are counted for so long before anything is said about their rate. */
const COUNT_FOR_MS = 5_000;

export function windowsActivities(dependencies: ActivityDependencies) {
  return {
    /** Whether a window of the plan is open, and until when. */
    lookAtWindow: (ref: RunRef, what: WindowOf): Promise<WindowLook> =>
      alive(dependencies, async () => {
        const now = await temporalClock();
        return look(ref, what, now());
      }),

    /** Waits until others make few enough transactions on blue; at most until the window ends. */
    awaitQuiet: (ref: RunRef, until: string, below: number): Promise<QuietLook> =>
      perform(dependencies, ref, async ({ session, signal, report }) => {
        const sessions = { blue: await session('blue', 'load'), green: await session('green', 'load') };
        const meter = new LoadMeter(sessions, () => 0);
        const now = await temporalClock();
        await meter.measure();
        const begun = performance.now();
        for (;;) {
          await sleep(1_000, undefined, { signal });
          const { transactionsPerSecond } = (await meter.measure()).blue;
          report({ transactionsPerSecond: Math.round(transactionsPerSecond), waitingForBelow: below });
          if (performance.now() - begun < COUNT_FOR_MS) continue;
          // Statistics that were reset meanwhile say nothing for as long.
          const isKnown = meter.countedForMs >= COUNT_FOR_MS;
          if (isKnown && transactionsPerSecond < below) return { quiet: true, transactionsPerSecond };
          if (now() >= Date.parse(until)) return { quiet: false, transactionsPerSecond };
        }
      }),
  };
}

function look({ plan }: RunRef, what: WindowOf, now: number): WindowLook {
  if (plan.windows === undefined) throw new RangeError('the plan has no windows');
  const { timezone } = plan.windows;
  try {
    const state = windowState(plan.windows, what, now);
    const changesAt = state.open ? state.closesAt : state.opensAt;
    return {
      open: state.open,
      changesAt: new Date(changesAt).toISOString(),
      changesAtText: formatInstant(timezone, changesAt),
    };
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new VerdigrisError({
      type: 'PlanRefused',
      message: error.message,
      nextStep: 'mend the windows or the holidays of the plan, and start again',
      cause: error,
    });
  }
}
