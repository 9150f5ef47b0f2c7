import { setTimeout as sleep } from 'node:timers/promises';
import { parseDuration } from '../src/plan/duration.js';
import { VerdigrisError } from '../src/errors.js';
import type { Stage } from '../src/plan/schema.js';
import { openToWriters } from '../src/postgres/bootstrap/standby/read-only-default.js';
import { readPromoted } from '../src/postgres/bootstrap/standby/standby-run.js';
import { isLockNotHad } from '../src/postgres/lock-watch.js';
import { readFencedTables } from '../src/postgres/fenced-tables.js';
import { armFence, closeFence, dropFence } from '../src/postgres/fence.js';
import { readRoute } from '../src/postgres/state.js';
import type { Evidence } from '../workflows/lib/evidence.js';
import type { RunRef } from '../workflows/lib/run-ref.js';
import type { Environment } from '../src/worker/connections.js';
import { perform, performWhileBlueServes, type ActivityDependencies, type Work } from './context.js';
import { requestsBefore } from './prometheus-before.js';
import { readsAreBack, readsToBlue, type ReadsOwed } from './reads-to-blue.js';
import { notBeforePromotion, openStage, STAGE_PATIENCE } from './stage-opening.js';
import type { Verdict } from './stage-verdict.js';
import { routerReader } from './router-reader.js';
import { verdicts } from './stage-watch.js';
import { forecastGates, isVolumeGate } from '../src/gates/forecast.js';
import { ToldOutcome } from '../src/gates/told-outcome.js';
import { volumeBetween } from '../src/gates/postgres-series.js';
import { readPostgres } from '../src/gates/postgres-source.js';
import { windowBetween } from '../src/gates/window.js';

export type { ReadsOwed };

/** So many looks in a row must pass before a stage ends: a moment is no evidence. */
const PASSES_TO_END = 2;
/** How long the traffic is counted for the forecast; for stages that are over within a minute that would be too long. */
const FORECAST_MS = 5_000;
const FORECAST_FROM_STAGES_MS = 60_000;

/** Activities of phase 5. */
export function trafficActivities(dependencies: ActivityDependencies) {
  const patience = { ...STAGE_PATIENCE, ...dependencies.patience };
  return {
    /** Closes green for application writes, then puts the fence on its tables: before it is compared, and again before traffic goes there. */
    fenceGreen: (ref: RunRef): Promise<void> =>
      perform(dependencies, ref, async (work) => {
        const { run, session, signal } = work;
        await readsAreBack(work, ref, dependencies.environment);
        const green = await session('green', 'fence');
        const route = await readRoute(green, ref.plan.name);
        if (route === undefined || route.writesOn !== 'blue') throw notBeforePromotion(route);
        await closeFence(green, route.migration, route.epoch);
        await armFence(green, await readFencedTables(green, ref.plan.tables), {
          signal,
          guard: { migration: route.migration, epoch: route.epoch, writesOn: 'blue' },
          onArmed: (armed, of) => work.report({ fence: 'green', armed, of }),
        }).catch((error: unknown) => {
          throw waitsForLock(error) ? error.tryingAgain() : error;
        });
        // Where a standby was promoted, its read-only default did the fence's work so far.
        if ((await readPromoted(green, run))?.closed === true) await openToWriters(green);
      }),

    /** Before the first reads move: which gates can't decide with the traffic of now, with the numbers. */
    forecastGates: (ref: RunRef): Promise<{ warnings: string[] }> =>
      perform(dependencies, ref, (work) => forecast(work, ref, dependencies.environment)),

    /**
     * Sends the reads of a stage's users to green, and returns when every live instance does so.
     *
     * @param notAfter ISO 8601: later than that no reads are moved. Default, or null: no limit
     * @param before the stage in force until now: nothing is opened when one of its gates has failed. Default: none is
     */
    openStage: (ref: RunRef, stage: Stage, notAfter?: string | null, before?: Stage): Promise<{ routers: number }> =>
      perform(dependencies, ref, (work) =>
        openStage(work, ref, stage, dependencies.environment, { patience, notAfter: notAfter ?? undefined, before }),
      ),

    /**
     * Watches the gates of a stage until one fails; otherwise it ends by being cancelled.
     *
     * @param told what people know of the gates: it ends with what they say, too, where that has long been otherwise. Default: nobody is told
     */
    watchGates: (ref: RunRef, stage: Stage, told?: { readonly silent: boolean }): Promise<readonly Evidence[]> =>
      perform(dependencies, ref, async (work) => {
        const known = told === undefined ? undefined : new ToldOutcome(told.silent);
        for await (const { outcome, evidence } of verdicts(work, ref, stage, dependencies.environment, patience)) {
          if (outcome === 'fail' || known?.isOutOfDate(outcome, performance.now()) === true) return evidence;
        }
        return [];
      }),

    /** Waits until the evidence of a stage suffices, at most `maxStageDuration` longer than it was to last. */
    judgeStage: (ref: RunRef, stage: Stage): Promise<Verdict> =>
      perform(dependencies, ref, async (work) => {
        let last: Verdict = { outcome: 'inconclusive', evidence: [], lagSeconds: null };
        let passes = 0;
        for await (const verdict of verdicts(work, ref, stage, dependencies.environment, patience)) {
          last = verdict;
          passes = verdict.outcome === 'pass' ? passes + 1 : 0;
          if (passes >= PASSES_TO_END || verdict.outcome === 'fail') break;
          // Late or not, a single look ends no stage.
          if (verdict.isLate && passes === 0) break;
        }
        return { outcome: last.outcome, evidence: last.evidence, lagSeconds: last.lagSeconds };
      }),

    /**
     * All reads back to blue, at once. A green that can't be reached stops nothing: blue's route decides.
     *
     * @returns who does not follow yet; null when nothing and nobody is missing
     */
    readsToBlue: (ref: RunRef): Promise<ReadsOwed | null> =>
      perform(dependencies, ref, (work) => readsToBlue(work, ref, dependencies.environment)),

    /** Takes the fence off blue; green's goes with its tables, or stays where they are kept. */
    removeFence: (ref: RunRef): Promise<void> =>
      performWhileBlueServes(dependencies, ref, async ({ asOwner, signal }) => {
        await asOwner('blue', 'remove fence', (blue) => dropFence(blue, signal));
      }),
  };
}

/** Nobody waits for green yet, and what is in the way passes: a large transaction that is being applied, a VACUUM. */
function waitsForLock(error: unknown): error is VerdigrisError {
  return error instanceof VerdigrisError && isLockNotHad(error.cause);
}

async function forecast(work: Work, ref: RunRef, environment: Environment): Promise<{ warnings: string[] }> {
  const { plan } = ref;
  const { stages, gates } = plan.traffic;
  const blue = await work.session('blue', 'forecast');
  const readRouters = routerReader(plan, environment, undefined, work.signal);
  const read = (): ReturnType<typeof readRouters> => readRouters(() => Promise.resolve(blue));
  const stagesMs = stages.reduce((sum, stage) => sum + parseDuration(stage.for), 0);
  const counts = stagesMs >= FORECAST_FROM_STAGES_MS;
  const sides =
    counts && gates.some(isVolumeGate) ? { blue, green: await work.session('green', 'forecast') } : undefined;
  const volume = sides === undefined ? undefined : await readPostgres(sides, plan.name);
  const from = await read();
  const countsReads = counts && from.live.length > 0;
  if (countsReads || volume !== undefined) {
    work.report({ counting: 'the traffic of now, to see which gates can decide' });
    await sleep(FORECAST_MS, undefined, { signal: work.signal });
  }
  const transactions =
    sides === undefined || volume === undefined
      ? undefined
      : volumeBetween(volume, await readPostgres(sides, plan.name), FORECAST_MS / 2_000);
  return {
    warnings: forecastGates(plan, {
      routers: from.live.length,
      ...(countsReads ? { window: windowBetween(from, await read()) } : {}),
      prometheus: await requestsBefore(plan, environment, work.signal),
      ...(transactions === undefined ? {} : { transactions }),
    }),
  };
}
