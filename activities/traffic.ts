import { setTimeout as sleep } from 'node:timers/promises';
import { formatDuration, parseDuration } from '../src/plan/duration.js';
import type { Stage } from '../src/plan/schema.js';
import { VerdigrisError } from '../src/errors.js';
import { openToWriters } from '../src/postgres/bootstrap/standby/read-only-default.js';
import { readPromoted } from '../src/postgres/bootstrap/standby/standby-run.js';
import { fencedTables } from '../src/postgres/catalog.js';
import { armFence, closeFence, dropFence } from '../src/postgres/fence.js';
import { readProgress, writeProgress, type ProgressKey } from '../src/postgres/migrate/progress-row.js';
import { readRoute, hasState, type Route } from '../src/postgres/state.js';
import { inTransaction, type Session } from '../src/postgres/session.js';
import type { Evidence } from '../workflows/lib/evidence.js';
import type { RunRef } from '../workflows/lib/run-ref.js';
import type { Environment } from '../src/worker/connections.js';
import { perform, type ActivityDependencies, type Work } from './context.js';
import { flagsFollowRoute, flagsFollowRouteOrTell, type FlagsOwed } from './flags.js';
import { refuseAbsentHaproxies, weightsFollowRoute, weightsFollowRouteOrWarn, WeightsWatch } from './haproxy.js';
import { refuseUndeployed, warnOfUnconfirmed } from './instances.js';
import { blueBeforeStage, requestsBefore } from './prometheus-before.js';
import { movedTables } from './run-tables.js';
import { judge, type Verdict } from './stage-verdict.js';
import { routerReader, StageMeasurements, type StageBaseline, type StageEvidence } from './stage-measurements.js';
import { transactionVolume } from './transaction-volume.js';
import { isPostgresGate } from '../src/gates/decide-postgres.js';
import { forecastGates, isVolumeGate } from '../src/gates/forecast.js';
import { volumeBetween } from '../src/gates/postgres-series.js';
import { readPostgres } from '../src/gates/postgres-source.js';
import { unconfirmedInstances } from '../src/gates/instances.js';
import { sampleOf } from '../src/gates/router-source.js';
import { windowBetween } from '../src/gates/window.js';

/** Time between two looks at the gates. */
const LOOK_EVERY_MS = 500;
/** So many looks in a row must pass before a stage ends: a moment is no evidence. */
const PASSES_TO_END = 2;
/** How long the traffic is counted for the forecast; for stages that are over within a minute that would be too long. */
const FORECAST_MS = 5_000;
const FORECAST_FROM_STAGES_MS = 60_000;
/** How long the routers get to take a new percentage over. */
const CONFIRM_WITHIN_MS = 30_000;

/** Activities of phase 5. */
export function trafficActivities(dependencies: ActivityDependencies) {
  return {
    /** Closes green for application writes, then puts the fence on its tables: before any traffic goes there. */
    fenceGreen: (ref: RunRef): Promise<void> =>
      perform(dependencies, ref, async ({ run, session, signal }) => {
        const green = await session('green', 'fence');
        const route = await readRoute(green, ref.plan.name);
        if (route === undefined || route.writesOn !== 'blue') throw notBeforePromotion(route);
        await closeFence(green, route.migration, route.epoch);
        await armFence(
          green,
          fencedTables(await movedTables(green, ref.plan)).map((table) => table.name),
          { signal, guard: { migration: route.migration, epoch: route.epoch, writesOn: 'blue' } },
        );
        // Where a standby was promoted, its read-only default did the fence's work so far.
        if ((await readPromoted(green, run))?.closed === true) await openToWriters(green);
      }),

    /** Before the first reads move: which gates can't decide with the traffic of now, with the numbers. */
    forecastGates: (ref: RunRef): Promise<{ warnings: string[] }> =>
      perform(dependencies, ref, (work) => forecast(work, ref, dependencies.environment)),

    /** Sends the reads of a stage's users to green, and returns when every live router does so. */
    openStage: (ref: RunRef, stage: Stage): Promise<{ routers: number }> =>
      perform(dependencies, ref, (work) => openStage(work, ref, stage, dependencies.environment)),

    /** Watches the gates of a stage until one fails; otherwise it ends by being cancelled. */
    watchGates: (ref: RunRef, stage: Stage): Promise<readonly Evidence[]> =>
      perform(dependencies, ref, async (work) => {
        for await (const verdict of verdicts(work, ref, stage, dependencies.environment)) {
          if (verdict.outcome === 'fail') return verdict.evidence;
        }
        return [];
      }),

    /** Waits until the evidence of a stage suffices, at most `maxStageDuration` after it opened. */
    judgeStage: (ref: RunRef, stage: Stage): Promise<Verdict> =>
      perform(dependencies, ref, async (work) => {
        let last: Verdict = { outcome: 'inconclusive', evidence: [], lagSeconds: null };
        let passes = 0;
        for await (const verdict of verdicts(work, ref, stage, dependencies.environment)) {
          last = verdict;
          passes = verdict.outcome === 'pass' ? passes + 1 : 0;
          if (passes >= PASSES_TO_END || verdict.outcome === 'fail' || verdict.isLate) break;
        }
        return { outcome: last.outcome, evidence: last.evidence, lagSeconds: last.lagSeconds };
      }),

    /**
     * All reads back to blue, at once. A green that can't be reached stops nothing: blue's route decides.
     *
     * @returns what flagd's file does not say yet; null when nothing is missing
     */
    readsToBlue: (ref: RunRef): Promise<FlagsOwed | null> =>
      perform(dependencies, ref, async ({ session }) => {
        const blue = await session('blue', 'reads to blue');
        if (!(await hasState(blue))) return null;
        const route = await readRoute(blue, ref.plan.name);
        if (route?.writesOn !== 'blue') return null;
        const generation = await setPercent(blue, ref, route.epoch, 0);
        await weightsFollowRouteOrWarn(ref, dependencies.environment, () => Promise.resolve(blue));
        const owed = await flagsFollowRouteOrTell(ref, () => Promise.resolve(blue));
        await warnOfUnconfirmed(blue, { migration: ref.plan.name, epoch: route.epoch, generation });
        return owed;
      }),

    /** Takes the fence off blue; green's goes with its tables, or stays where they are kept. */
    removeFence: (ref: RunRef): Promise<void> =>
      perform(dependencies, ref, async ({ session, signal }) =>
        dropFence(await session('blue', 'remove fence'), signal),
      ),
  };
}

async function openStage(
  work: Work,
  ref: RunRef,
  stage: Stage,
  environment: Environment,
): Promise<{ routers: number }> {
  const { plan } = ref;
  const blue = await work.session('blue', 'stage');
  const route = await readRoute(blue, plan.name);
  if (route === undefined || route.writesOn !== 'blue') {
    throw notBeforePromotion(route);
  }
  await refuseUndeployed(blue, plan, stage);
  await flagsFollowRoute(ref, blue);
  await refuseAbsentHaproxies(ref, environment);
  const asksServers = plan.traffic.gates.some(isPostgresGate);
  const green = asksServers ? await work.session('green', 'stage') : undefined;
  const volumeBefore =
    green === undefined ? undefined : await transactionVolume(work, { blue, green }, plan, route.greenReadPercent);
  const prometheusBefore = await blueBeforeStage(work, blue, plan, route.greenReadPercent, environment);
  const generation = await setPercent(blue, ref, route.epoch, stage.percent);
  await flagsFollowRoute(ref, blue);
  await weightsFollowRoute(ref, environment, blue);
  const readRouters = routerReader(plan, environment, undefined, work.signal);
  const deadline = Date.now() + CONFIRM_WITHIN_MS;
  for (;;) {
    // Both those that write down what they follow, and those that are asked: each is a process with users.
    const told = await unconfirmedInstances(blue, { migration: plan.name, epoch: route.epoch, generation });
    const read = await readRouters(() => Promise.resolve(blue));
    const behind = [
      ...new Set([...told, ...sampleOf(read).unconfirmed(route.epoch, generation)]),
      ...(read.unreachable ?? []),
    ];
    if (behind.length === 0) {
      const { at, live, stale, unreadable } = read;
      const baseline: StageBaseline = {
        openedAt: at,
        sample: { at, live, stale, unreadable },
        route: { epoch: route.epoch, generation },
        ...(green === undefined ? {} : { postgres: await readPostgres({ blue, green }, plan.name) }),
        ...(volumeBefore === undefined ? {} : { volumeBefore }),
        ...(prometheusBefore === undefined ? {} : { prometheusBefore }),
      };
      await writeProgress(blue, stageKey(work, stage), baseline, true);
      return { routers: live.length };
    }
    if (Date.now() > deadline) throw notConfirmed(stage, behind);
    work.report({ percent: stage.percent, waitingFor: behind.slice(0, 10) });
    await sleep(100);
  }
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

function notBeforePromotion(route: Route | undefined): VerdigrisError {
  return new VerdigrisError({
    type: 'StaleEpoch',
    message: `reads can't be shifted: ${route === undefined ? 'there is no route' : 'writes are on green already'}`,
    nextStep: 'see who moved the route; roll the run back',
  });
}

function stageKey({ run }: Work, stage: Stage): ProgressKey {
  return { runId: run.runId, step: 'stage', object: String(stage.percent) };
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
    const { rows } = await blue.query(
      `SELECT verdigris.set_green_read_percent(r.migration, r.epoch, 0)
         FROM (SELECT migration, epoch FROM verdigris.route
                WHERE migration = $1 AND epoch = $2 AND generation = $3 AND writes_on = 'blue' FOR UPDATE) r`,
      [ref.plan.name, route.epoch, route.generation],
    );
    if (rows.length > 0) await writeVerdict();
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

function notConfirmed(stage: Stage, behind: readonly string[]): VerdigrisError {
  return new VerdigrisError({
    type: 'GateFailed',
    message: `stage ${stage.percent} %: these routers have not taken it over within ${formatDuration(CONFIRM_WITHIN_MS)}: ${behind.slice(0, 10).join(', ')}`,
    nextStep: 'see whether they reach blue; an instance that has ended is forgotten after a few seconds',
    retryable: true,
  });
}

/** The state of a stage's gates, again and again. What a source does not tell is an error of its gates, not of this. */
async function* verdicts(
  work: Work,
  ref: RunRef,
  stage: Stage,
  environment: Environment,
): AsyncGenerator<Verdict & { readonly isLate: boolean }> {
  const { plan } = ref;
  const blue = await work.session('blue', 'gates');
  const baseline = await readProgress<StageBaseline>(blue, stageKey(work, stage));
  if (baseline === undefined) throw new Error(`stage ${stage.percent} % has not been opened`);
  const late = Date.parse(baseline.state.openedAt) + parseDuration(plan.traffic.maxStageDuration);
  const known = (await readProgress<StageEvidence>(blue, evidenceKey(work, stage)))?.state;
  if (known?.failed !== undefined && known.openedAt === baseline.state.openedAt) {
    yield { ...known.failed, isLate: false };
    return;
  }
  const measurements = new StageMeasurements(work, plan, stage, baseline.state, environment, known);
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
      yield { ...verdict, isLate: Date.now() > late };
      await sleep(LOOK_EVERY_MS);
    }
  } finally {
    await measurements.close();
    await weights.close();
  }
}
