import { setTimeout as sleep } from 'node:timers/promises';
import { formatDuration, parseDuration } from '../src/plan/duration.js';
import type { Plan, Stage } from '../src/plan/schema.js';
import { VerdigrisError } from '../src/errors.js';
import { openToWriters } from '../src/postgres/bootstrap/standby/read-only-default.js';
import { readPromoted } from '../src/postgres/bootstrap/standby/standby-run.js';
import { fencedTables } from '../src/postgres/catalog.js';
import { armFence, closeFence, dropFence } from '../src/postgres/fence.js';
import { readProgress, writeProgress, type ProgressKey } from '../src/postgres/migrate/progress-row.js';
import { measureLag } from '../src/postgres/marker.js';
import { readRoute, hasState, type Route } from '../src/postgres/state.js';
import type { Session } from '../src/postgres/session.js';
import type { Evidence } from '../workflows/lib/evidence.js';
import type { RunRef } from '../workflows/lib/run-ref.js';
import { perform, type ActivityDependencies, type Work } from './context.js';
import { movedTables } from './run-tables.js';
import { judge, type Verdict } from './stage-verdict.js';
import type { RouterSnapshots } from '../src/gates/router-snapshot.js';
import { readRouterSnapshots } from '../src/gates/router-source.js';

/** Time between two looks at the gates. */
const LOOK_EVERY_MS = 500;
/** Lag measurements that the gates are shown. */
const LAGS_KEPT = 20;
/** How long the routers get to take a new percentage over. */
const CONFIRM_WITHIN_MS = 30_000;

/** What is written down when a stage opens: what its window is measured from. */
interface StageBaseline {
  readonly openedAt: string;
  readonly sample: RouterSnapshots;
}

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

    /** Sends the reads of a stage's users to green, and returns when every live router does so. */
    openStage: (ref: RunRef, stage: Stage): Promise<{ routers: number }> =>
      perform(dependencies, ref, (work) => openStage(work, ref, stage)),

    /** Watches the gates of a stage until one fails; otherwise it ends by being cancelled. */
    watchGates: (ref: RunRef, stage: Stage): Promise<readonly Evidence[]> =>
      perform(dependencies, ref, async (work) => {
        for await (const verdict of verdicts(work, ref, stage)) {
          if (verdict.outcome === 'fail') return verdict.evidence;
        }
        return [];
      }),

    /** Waits until the evidence of a stage suffices, at most `maxStageDuration` after it opened. */
    judgeStage: (ref: RunRef, stage: Stage): Promise<Verdict> =>
      perform(dependencies, ref, async (work) => {
        let last: Verdict = { outcome: 'inconclusive', evidence: [], lagSeconds: null };
        for await (const verdict of verdicts(work, ref, stage)) {
          last = verdict;
          if (verdict.outcome === 'pass' || verdict.outcome === 'fail' || verdict.isLate) break;
        }
        return { outcome: last.outcome, evidence: last.evidence, lagSeconds: last.lagSeconds };
      }),

    /** All reads back to blue, at once. A green that can't be reached stops nothing: blue's route decides. */
    readsToBlue: (ref: RunRef): Promise<void> =>
      perform(dependencies, ref, async ({ session }) => {
        const blue = await session('blue', 'reads to blue');
        if (!(await hasState(blue))) return;
        const route = await readRoute(blue, ref.plan.name);
        if (route?.writesOn === 'blue') await setPercent(blue, ref, route.epoch, 0);
      }),

    /** Takes the fence off blue; green's goes with its tables, or stays where they are kept. */
    removeFence: (ref: RunRef): Promise<void> =>
      perform(dependencies, ref, async ({ session, signal }) =>
        dropFence(await session('blue', 'remove fence'), signal),
      ),
  };
}

async function openStage(work: Work, ref: RunRef, stage: Stage): Promise<{ routers: number }> {
  const blue = await work.session('blue', 'stage');
  const route = await readRoute(blue, ref.plan.name);
  if (route === undefined || route.writesOn !== 'blue') {
    throw notBeforePromotion(route);
  }
  const generation = await setPercent(blue, ref, route.epoch, stage.percent);
  const deadline = Date.now() + CONFIRM_WITHIN_MS;
  for (;;) {
    const sample = await readRouterSnapshots(blue, ref.plan.name);
    const behind = sample.unconfirmed(route.epoch, generation);
    if (behind.length === 0) {
      const { at, live, stale, unreadable } = sample;
      const baseline: StageBaseline = { openedAt: at, sample: { at, live, stale, unreadable } };
      await writeProgress(blue, stageKey(work, stage), baseline, true);
      return { routers: sample.live.length };
    }
    if (Date.now() > deadline) throw notConfirmed(stage, behind);
    work.report({ percent: stage.percent, waitingFor: behind.slice(0, 10) });
    await sleep(100);
  }
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

/** Waiting for a marker longer than any gate allows would only delay the decision. */
function lagTimeoutOf({ traffic }: Plan): number {
  const limits = traffic.gates.flatMap((gate) => (gate.metric === 'lag' ? [parseDuration(gate.max)] : []));
  return Math.max(1_000, ...limits) + 500;
}

/** The state of a stage's gates, again and again. */
async function* verdicts(
  work: Work,
  ref: RunRef,
  stage: Stage,
): AsyncGenerator<Verdict & { readonly isLate: boolean }> {
  const blue = await work.session('blue', 'gates');
  const green = await work.session('green', 'gates');
  const baseline = await readProgress<StageBaseline>(blue, stageKey(work, stage));
  if (baseline === undefined) throw new Error(`stage ${stage.percent} % has not been opened`);
  const late = Date.parse(baseline.state.openedAt) + parseDuration(ref.plan.traffic.maxStageDuration);
  const lagTimeout = lagTimeoutOf(ref.plan);
  const lags: number[] = [];
  for (;;) {
    work.signal.throwIfAborted();
    const sample = await readRouterSnapshots(blue, ref.plan.name);
    const lagMs = await measureLag(blue, green, 'to_green', lagTimeout, work.signal);
    lags.push(lagMs);
    const verdict = judge(ref.plan.traffic.gates, stage, baseline.state.sample, sample, lags.slice(-LAGS_KEPT));
    work.report({
      stage: `${stage.percent} %`,
      outcome: verdict.outcome,
      gates: verdict.evidence.map((e) => `${e.metric} ${e.outcome}: ${e.because}`),
    });
    yield { ...verdict, isLate: Date.now() > late };
    await sleep(LOOK_EVERY_MS);
  }
}
