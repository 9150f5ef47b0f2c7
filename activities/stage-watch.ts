import { setTimeout as sleep } from 'node:timers/promises';
import { log } from '@temporalio/activity';
import { VerdigrisError } from '../src/errors.js';
import { askedIn } from '../src/gates/asked-in.js';
import { parseDuration } from '../src/plan/duration.js';
import type { Stage } from '../src/plan/schema.js';
import { setGreenReads } from '../src/postgres/green-reads.js';
import { readProgress, writeProgress, type ProgressKey } from '../src/postgres/migrate/progress-row.js';
import { serverClock } from '../src/postgres/server-clock.js';
import { inTransaction, SHORT_STATEMENTS, type Session } from '../src/postgres/session.js';
import { readRoute } from '../src/postgres/state.js';
import { within } from '../src/timing.js';
import type { Environment } from '../src/worker/connections.js';
import { hasFailed, type Evidence } from '../workflows/lib/evidence.js';
import type { RunRef } from '../workflows/lib/run-ref.js';
import type { StagePatience, Work } from './context.js';
import { flagsFollowOrTell } from './flags.js';
import { weightsFollowRouteOrWarn, WeightsWatch } from './haproxy.js';
import { StageMeasurements, type StageBaseline, type StageEvidence } from './stage-measurements.js';
import { judge, type Verdict } from './stage-verdict.js';

/** Time between two looks at the gates. */
const LOOK_EVERY_MS = 500;
/** What follows the route at the decision is waited for so long; the step that comes next tells it again. */
const FOLLOW_MS = 2_000;
/** How long the second try to take the reads back keeps the workflow from doing so. */
const LEAVE_AGAIN_MS = 3_000;
/** How long the last word of a watch may keep whoever has ended it. */
const LAST_WORD_MS = 500;

/** The row of a stage that is open. */
export function stageKey({ run }: Work, stage: Stage): ProgressKey {
  return { runId: run.runId, step: 'stage', object: String(stage.percent) };
}

function evidenceKey({ run }: Work, stage: Stage): ProgressKey {
  return { runId: run.runId, step: 'stage evidence', object: String(stage.percent) };
}

/** The state of a stage's gates, again and again. What a source does not tell is an error of its gates, not of this. */
export async function* verdicts(
  work: Work,
  ref: RunRef,
  stage: Stage,
  environment: Environment,
  { lookMs, watchedMs, prometheusEveryMs }: StagePatience,
): AsyncGenerator<Verdict & { readonly isLate: boolean }> {
  const { plan } = ref;
  const blue = await work.session('blue', 'gates');
  const baseline = await readProgress<StageBaseline>(blue, stageKey(work, stage));
  if (baseline === undefined) throw new Error(`stage ${stage.percent} % has not been opened`);
  const lasts = parseDuration(stage.for) + parseDuration(plan.traffic.maxStageDuration);
  const blueNow = await serverClock(blue);
  const late = Math.max(Date.parse(baseline.state.openedAt) + lasts, blueNow() + lookMs);
  const known = (await readProgress<StageEvidence>(blue, evidenceKey(work, stage)))?.state;
  const ofThisOpening = known?.openedAt === baseline.state.openedAt ? known : undefined;
  if (ofThisOpening?.failed !== undefined) {
    yield { ...ofThisOpening.failed, isLate: false };
    return;
  }
  const resumedAt = resumed(ofThisOpening, blueNow(), watchedMs);
  const measurements = new StageMeasurements(work, plan, {
    ...{ stage, environment, blueNow, before: known, baseline: baseline.state },
    prometheusEveryMs,
  });
  const weights = new WeightsWatch(work, ref, environment, 'blue');
  let lookedAt: string | undefined;
  let isFailed = false;
  const keep = (seen: StageEvidence): Promise<void> =>
    writeEvidence(blue, evidenceKey(work, stage), {
      ...seen,
      ...(lookedAt === undefined ? {} : { lookedAt }),
      ...(resumedAt === undefined ? {} : { resumedAt }),
    });
  try {
    await measurements.ready();
    for (;;) {
      work.signal.throwIfAborted();
      const input = measurements.input();
      const verdict = weights.judge(judge(plan.traffic, stage, input.at, input), `stage ${stage.percent} %`, input.at);
      const isFirst = lookedAt === undefined;
      lookedAt = new Date(blueNow()).toISOString();
      const seen = measurements.newEvidence() ?? (isFirst ? measurements.evidence() : undefined);
      // Beside the looks, which blue must not delay. Where it can't be written, a worker that takes over begins anew.
      if (seen !== undefined) void keep(seen).catch(() => undefined);
      work.report({
        stage: `${stage.percent} %`,
        outcome: verdict.outcome,
        gates: verdict.evidence.map(
          (e) => `${e.metric} ${e.outcome}${e.dryRun === true ? ' (dry run)' : ''}: ${e.because}`,
        ),
      });
      if (verdict.outcome === 'fail') {
        isFailed = true;
        const failed = { ...measurements.evidence(), failed: verdict };
        const leave = async (session: Session): Promise<void> => {
          const hasLeft = await leaveGreen(session, ref, baseline.state.route, () =>
            writeProgress(session, evidenceKey(work, stage), failed, true),
          );
          if (hasLeft) await allFollow(session, ref, environment);
        };
        // A worker that stood still in it for seconds has lost that session. Where blue can't be reached either way, the
        // workflow has the reads taken back, again and again.
        const anew = async (): Promise<void> =>
          leave(await work.session('blue', 'gates: reads back', SHORT_STATEMENTS));
        await leave(blue)
          .catch(() => within(anew(), LEAVE_AGAIN_MS, undefined))
          .catch(() => undefined);
      }
      yield { ...verdict, isLate: blueNow() > late };
      await sleep(LOOK_EVERY_MS);
    }
  } finally {
    // For whoever goes on from here: until when the gates have been looked at.
    if (lookedAt !== undefined && !isFailed) {
      await within(keep(measurements.evidence()), LAST_WORD_MS, undefined).catch(() => undefined);
    }
    await measurements.close();
    await weights.close();
  }
}

/** When a watch has begun again after a while in which nobody had looked: its first looks alone can't see a gate fail. */
function resumed(known: StageEvidence | undefined, now: number, watchedMs: number): string | undefined {
  if (known?.lookedAt === undefined || now - Date.parse(known.lookedAt) < watchedMs) return known?.resumedAt;
  return new Date(now).toISOString();
}

/** Keeps what has been seen. A verdict by which this opening of the stage has failed stays: a worker that wakes up late has not seen it. */
async function writeEvidence(blue: Session, key: ProgressKey, seen: StageEvidence): Promise<void> {
  await blue.query(
    `INSERT INTO verdigris.progress AS known (run_id, step, object, state, done) VALUES ($1, $2, $3, $4, true)
     ON CONFLICT (run_id, step, object)
     DO UPDATE SET state = excluded.state, done = excluded.done, updated_at = clock_timestamp()
      WHERE NOT (known.state ? 'failed' AND known.state ->> 'openedAt' = excluded.state ->> 'openedAt')`,
    [key.runId, key.step, key.object, JSON.stringify(seen)],
  );
}

/**
 * Takes the reads back in the moment of the decision: whatever a failed gate leads to begins with it, and the way through
 * the workflow takes a second or two. Nothing happens when the stage is no longer the one that was judged: a worker that
 * was frozen meanwhile moves nobody.
 *
 * @returns whether it has taken them back
 */
async function leaveGreen(
  blue: Session,
  ref: RunRef,
  route: StageBaseline['route'],
  writeVerdict: () => Promise<void>,
): Promise<boolean> {
  if (route === undefined) return false;
  return inTransaction(blue, async () => {
    const generation = await setGreenReads(blue, { migration: ref.plan.name, ...route }, 0);
    if (generation !== undefined) await writeVerdict();
    return generation !== undefined;
  });
}

/**
 * HAProxies and flagd's file follow with it, whether or not Temporal answers. Who does not is told again by the step that
 * takes the reads back for the run, and named by it.
 */
async function allFollow(blue: Session, ref: RunRef, environment: Environment): Promise<void> {
  const all = Promise.allSettled([
    weightsFollowRouteOrWarn(ref, environment, () => Promise.resolve(blue)),
    readRoute(blue, ref.plan.name).then((route) => flagsFollowOrTell(ref, route)),
  ]);
  await within(all, FOLLOW_MS, undefined);
}

/**
 * Asked before what the gates of a stage allow is begun: whether one of them has failed meanwhile. What was waited for (an
 * approval, a window) may have come while no worker was there; or the worker that saw a gate fail died before it could
 * say so. Where nobody has looked for a while, or nobody had until a moment ago, the gates are looked at for as long as a late
 * look takes.
 *
 * @param stage in force until now; undefined where there is none
 * @returns what they say when one of them has failed: then the reads are on blue, or the next look takes them there
 */
export async function failedMeanwhile(
  work: Work,
  ref: RunRef,
  stage: Stage | undefined,
  environment: Environment,
  patience: StagePatience,
): Promise<readonly Evidence[] | undefined> {
  if (stage === undefined || stage.percent === 0 || askedIn(ref.plan.traffic.gates, stage).length === 0)
    return undefined;
  const blue = await work.session('blue', 'gates of before');
  const opened = (await readProgress<StageBaseline>(blue, stageKey(work, stage)))?.state;
  if (opened === undefined) return undefined;
  const row = (await readProgress<StageEvidence>(blue, evidenceKey(work, stage)))?.state;
  const known = row?.openedAt === opened.openedAt ? row : undefined;
  if (known?.failed !== undefined) return known.failed.evidence;
  const now = await serverClock(blue);
  const { watchedMs, lookMs } = patience;
  const isOlder = (at: string | undefined, ms: number): boolean => at === undefined || now() - Date.parse(at) >= ms;
  const isWatched = !isOlder(known?.lookedAt, watchedMs);
  if (isWatched && (known?.resumedAt === undefined || isOlder(known.resumedAt, lookMs))) return undefined;
  const unwatched = `nobody has looked at its gates ${isWatched ? 'until' : 'since'}`;
  const at = (isWatched ? known?.resumedAt : known?.lookedAt) ?? 'it was judged';
  log.warn(`stage ${stage.percent} %: ${unwatched} ${at}; they are looked at first`);
  const until = performance.now() + lookMs;
  for await (const { outcome, evidence } of verdicts(work, ref, stage, environment, patience)) {
    if (outcome === 'fail') return evidence;
    if (performance.now() >= until) break;
  }
  return undefined;
}

/** Why what a stage's gates must allow is not begun. */
export function refusedByGates(
  what: string,
  stage: Stage,
  evidence: readonly Evidence[],
  retryable: boolean,
): VerdigrisError {
  const failed = evidence.filter(hasFailed);
  return new VerdigrisError({
    type: 'GateFailed',
    message: `${what} is not begun: gate failed in stage ${stage.percent} % meanwhile: ${failed.map(({ metric, because }) => `${metric}: ${because}`).join('; ')}`,
    nextStep: 'nothing: the run does what the plan says of a gate that fails',
    retryable,
  });
}
