import { setTimeout as sleep } from 'node:timers/promises';
import { parseDuration } from '../src/plan/duration.js';
import type { Stage } from '../src/plan/schema.js';
import { openToWriters } from '../src/postgres/bootstrap/standby/read-only-default.js';
import { readPromoted } from '../src/postgres/bootstrap/standby/standby-run.js';
import { readFencedTables } from '../src/postgres/fenced-tables.js';
import { armFence, closeFence, dropFence } from '../src/postgres/fence.js';
import { setGreenReads } from '../src/postgres/green-reads.js';
import { readProgress, writeProgress, type ProgressKey } from '../src/postgres/migrate/progress-row.js';
import { readRoute, hasState, type Route } from '../src/postgres/state.js';
import { serverClock } from '../src/postgres/server-clock.js';
import { inTransaction, type Session } from '../src/postgres/session.js';
import type { Evidence } from '../workflows/lib/evidence.js';
import type { RunRef } from '../workflows/lib/run-ref.js';
import type { Environment } from '../src/worker/connections.js';
import {
  perform,
  performWhileBlueServes,
  type ActivityDependencies,
  type StagePatience,
  type Work,
} from './context.js';
import { flagsFollowRouteOrTell, type FlagsOwed } from './flags.js';
import { weightsFollowRouteOrWarn, WeightsWatch } from './haproxy.js';
import { unconfirmedOnTheWayBack } from './instances.js';
import { requestsBefore } from './prometheus-before.js';
import { notBeforePromotion, openStage, stageKey, STAGE_PATIENCE } from './stage-opening.js';
import { judge, type Verdict } from './stage-verdict.js';
import { routerReader, StageMeasurements, type StageBaseline, type StageEvidence } from './stage-measurements.js';
import { forecastGates, isVolumeGate } from '../src/gates/forecast.js';
import { volumeBetween } from '../src/gates/postgres-series.js';
import { readPostgres } from '../src/gates/postgres-source.js';
import { windowBetween } from '../src/gates/window.js';

/** Time between two looks at the gates. */
const LOOK_EVERY_MS = 500;
/** So many looks in a row must pass before a stage ends: a moment is no evidence. */
const PASSES_TO_END = 2;
/** How long the traffic is counted for the forecast; for stages that are over within a minute that would be too long. */
const FORECAST_MS = 5_000;
const FORECAST_FROM_STAGES_MS = 60_000;

/** Who does not follow yet although reads have been taken back. Plain data. */
export interface ReadsOwed extends Partial<FlagsOwed> {
  readonly route: Route;
  /** HAProxies that could not be told, and live instances that have not confirmed it. */
  readonly unconfirmed?: readonly string[];
}

/** Activities of phase 5. */
export function trafficActivities(dependencies: ActivityDependencies) {
  const patience = { ...STAGE_PATIENCE, ...dependencies.patience };
  return {
    /** Closes green for application writes, then puts the fence on its tables: before any traffic goes there. */
    fenceGreen: (ref: RunRef): Promise<void> =>
      perform(dependencies, ref, async ({ run, session, signal }) => {
        const green = await session('green', 'fence');
        const route = await readRoute(green, ref.plan.name);
        if (route === undefined || route.writesOn !== 'blue') throw notBeforePromotion(route);
        await closeFence(green, route.migration, route.epoch);
        await armFence(green, await readFencedTables(green, ref.plan.tables), {
          signal,
          guard: { migration: route.migration, epoch: route.epoch, writesOn: 'blue' },
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
     * @param notAfter ISO 8601: later than that no reads are moved. Default: no limit
     */
    openStage: (ref: RunRef, stage: Stage, notAfter?: string): Promise<{ routers: number }> =>
      perform(dependencies, ref, (work) =>
        openStage(work, ref, stage, dependencies.environment, { patience, notAfter }),
      ),

    /** Watches the gates of a stage until one fails; otherwise it ends by being cancelled. */
    watchGates: (ref: RunRef, stage: Stage): Promise<readonly Evidence[]> =>
      perform(dependencies, ref, async (work) => {
        for await (const verdict of verdicts(work, ref, stage, dependencies.environment, patience)) {
          if (verdict.outcome === 'fail') return verdict.evidence;
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
      perform(dependencies, ref, async (work) => {
        const { environment } = dependencies;
        const blue = await work.session('blue', 'reads to blue');
        if (!(await hasState(blue))) return null;
        const route = await readRoute(blue, ref.plan.name);
        if (route?.writesOn !== 'blue') return null;
        const generation = await setPercent(blue, ref, route.epoch, 0);
        const away = await weightsFollowRouteOrWarn(ref, environment, () => Promise.resolve(blue));
        const flags = await flagsFollowRouteOrTell(ref, () => Promise.resolve(blue));
        const inForce = { ...route, generation, greenReadPercent: 0 };
        const unconfirmed = [...away, ...(await unconfirmedOnTheWayBack(blue, ref, environment, inForce, work))];
        if (unconfirmed.length === 0) return flags;
        return { route: inForce, ...flags, unconfirmed };
      }),

    /** Takes the fence off blue; green's goes with its tables, or stays where they are kept. */
    removeFence: (ref: RunRef): Promise<void> =>
      performWhileBlueServes(dependencies, ref, async ({ session, signal }) =>
        dropFence(await session('blue', 'remove fence'), signal),
      ),
  };
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

/**
 * Takes the reads back in the moment of the decision: whatever a failed gate leads to begins with it, and the way through
 * the workflow takes a second or two. Nothing happens when the stage is no longer the one that was judged: a worker that
 * was frozen meanwhile moves nobody.
 */
async function leaveGreen(
  blue: Session,
  ref: RunRef,
  route: StageBaseline['route'],
  writeVerdict: () => Promise<void>,
): Promise<void> {
  if (route === undefined) return;
  await inTransaction(blue, async () => {
    const generation = await setGreenReads(blue, { migration: ref.plan.name, ...route }, 0);
    if (generation !== undefined) await writeVerdict();
  });
}

function evidenceKey({ run }: Work, stage: Stage): ProgressKey {
  return { runId: run.runId, step: 'stage evidence', object: String(stage.percent) };
}

async function setPercent(blue: Session, ref: RunRef, epoch: number, percent: number): Promise<number> {
  const { rows } = await blue.query<{ generation: number }>(
    'SELECT verdigris.set_green_read_percent($1, $2, $3)::float8 AS generation',
    [ref.plan.name, epoch, percent],
  );
  return rows[0]?.generation ?? 0;
}

/** The state of a stage's gates, again and again. What a source does not tell is an error of its gates, not of this. */
async function* verdicts(
  work: Work,
  ref: RunRef,
  stage: Stage,
  environment: Environment,
  { lookMs, prometheusEveryMs }: StagePatience,
): AsyncGenerator<Verdict & { readonly isLate: boolean }> {
  const { plan } = ref;
  const blue = await work.session('blue', 'gates');
  const baseline = await readProgress<StageBaseline>(blue, stageKey(work, stage));
  if (baseline === undefined) throw new Error(`stage ${stage.percent} % has not been opened`);
  const lasts = parseDuration(stage.for) + parseDuration(plan.traffic.maxStageDuration);
  const blueNow = await serverClock(blue);
  const late = Math.max(Date.parse(baseline.state.openedAt) + lasts, blueNow() + lookMs);
  const known = (await readProgress<StageEvidence>(blue, evidenceKey(work, stage)))?.state;
  if (known?.failed !== undefined && known.openedAt === baseline.state.openedAt) {
    yield { ...known.failed, isLate: false };
    return;
  }
  const measurements = new StageMeasurements(work, plan, {
    ...{ stage, environment, blueNow, before: known, baseline: baseline.state },
    prometheusEveryMs,
  });
  const weights = new WeightsWatch(work, ref, environment, 'blue');
  try {
    await measurements.ready();
    for (;;) {
      work.signal.throwIfAborted();
      const input = measurements.input();
      const verdict = weights.judge(judge(plan.traffic, stage, input.at, input), `stage ${stage.percent} %`, input.at);
      const seen = measurements.newEvidence();
      // Beside the looks, which blue must not delay. Where it can't be written, a worker that takes over begins anew.
      if (seen !== undefined) void writeProgress(blue, evidenceKey(work, stage), seen, true).catch(() => undefined);
      work.report({
        stage: `${stage.percent} %`,
        outcome: verdict.outcome,
        gates: verdict.evidence.map(
          (e) => `${e.metric} ${e.outcome}${e.dryRun === true ? ' (dry run)' : ''}: ${e.because}`,
        ),
      });
      if (verdict.outcome === 'fail') {
        const failed = { ...measurements.evidence(), failed: verdict };
        // Where blue can't be reached, the workflow has the reads taken back, again and again.
        await leaveGreen(blue, ref, baseline.state.route, () =>
          writeProgress(blue, evidenceKey(work, stage), failed, true),
        ).catch(() => undefined);
      }
      yield { ...verdict, isLate: blueNow() > late };
      await sleep(LOOK_EVERY_MS);
    }
  } finally {
    await measurements.close();
    await weights.close();
  }
}
