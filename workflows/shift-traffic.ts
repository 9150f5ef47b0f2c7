import { ApplicationFailure, CancellationScope, patched, sleep } from '@temporalio/workflow';
import type { Verdict } from '../activities/stage-verdict.js';
import type { ReadsOwed } from '../activities/traffic.js';
import { parseDuration } from '../src/plan/duration.js';
import type { Stage } from '../src/plan/schema.js';
import { fenceGreen } from './fence-green.js';
import { act, actFast, actFastUpTo } from './lib/activities.js';
import { nameRows } from './lib/differing-rows.js';
import { hasFailed, type Evidence } from './lib/evidence.js';
import { failureMessage, isCancelled, mayPass } from './lib/failure.js';
import type { RunRef } from './lib/run-ref.js';
import type { Compensation, Saga } from './lib/saga.js';
import type { Story } from './lib/story.js';
import { wasReset } from './lib/was-reset.js';
import { opened } from './open-stage.js';
import { untilStageMayOpen } from './stage-may-open.js';
import { stillThere, warnOfColumns } from './verify.js';
import { askSinceReset } from './writes-since-reset.js';

/** Phase 5: reads of more and more users go to green. A stage is left on evidence only, and by approval where asked. */
export async function shiftTraffic(story: Story, ref: RunRef, saga: Saga): Promise<void> {
  const { run } = story;
  const { traffic } = ref.plan;
  run.enter('traffic');
  story.webhooks.begin(ref.plan, saga);
  await fenceGreen(story, ref, saga);
  saga.push(undoingOfStages(story, ref));
  // The fence takes back what routers have led to green before a reset.
  if (story.webhooks.mustKnow) {
    await story.step('leading back reads of before the reset', () => allReadsBack(story, ref));
  }
  const { warnings } = await story.step('counting the reads of now', () =>
    act('which gates can decide').forecastGates(ref),
  );
  run.warn(warnings);

  let current: Stage | null = null;
  for (const stage of traffic.stages) {
    await untilStageMayOpen(story, ref, stage, current);
    await runStage(story, ref, stage, current);
    current = stage;
  }
}

function undoingOfStages(story: Story, ref: RunRef): Compensation {
  return {
    name: READS_BACK,
    undo: () => readsBack(story, ref),
    // Who still reads on green needs its columns, and the feed to it.
    critical: () => (patched('what readers of green need stays until they are back') ? 'reads are not back' : null),
  };
}

/**
 * A run that was reset to a point before its stages does not know of one that is open. Each undoing takes back the reads
 * that routers and the like lead to green, but what webhooks lead there goes back only when they are told: so its rollback
 * begins as that of a stage does, also where this phase has just begun. Does nothing in any other run.
 */
export function undoUnknownStages(story: Story, saga: Saga): void {
  const { plan, status } = story.run;
  const isUnknown = plan?.traffic.webhooks !== undefined && !saga.has(READS_BACK) && !saga.isEmpty;
  if (!isUnknown || !wasReset()) return;
  if (!story.webhooks.areThere) story.webhooks.begin(plan, saga);
  saga.push(undoingOfStages(story, { plan, runId: status.runId }));
}

/** One stage: opened, timed durably, watched all the time, left when its evidence suffices. */
async function runStage(story: Story, ref: RunRef, stage: Stage, before: Stage | null): Promise<void> {
  await opened(story, ref, stage, `${stage.percent} % of the reads to green`, before);
  await untilJudged(story, ref, stage);
  while (!(await untilGoingOn(story, ref, stage))) continue;
}

/** What is done while a stage is opened, for people. */
export function readsGo({ percent }: Stage): string {
  return `reads of ${percent} % of the users go to green`;
}

/** The name of the compensation that takes the reads back. */
export const READS_BACK = 'all reads back to blue';

/**
 * Returns when a stage that is open may be left: it has lasted its time, and then its evidence suffices. Whenever it was
 * opened again, it has to show both again: what was seen before counts no more.
 */
async function untilJudged(story: Story, ref: RunRef, stage: Stage): Promise<void> {
  for (;;) {
    const { outcome, evidence } = await judgedOnce(story, ref, stage);
    if (outcome === 'pass') break;
    if (outcome === 'fail') await onFailedGate(story, ref, stage, evidence);
    else await onMissingEvidence(story, ref, stage, evidence);
  }
  story.run.waitFor(null);
}

interface Judged {
  readonly outcome: Evidence['outcome'];
  readonly evidence: readonly Evidence[];
}

async function judgedOnce(story: Story, ref: RunRef, stage: Stage): Promise<Judged> {
  const { run } = story;
  const label = `${stage.percent} %`;
  run.waitFor({ for: 'stage', why: `stage ${label} lasts ${stage.for}` });
  const failed = await untilGateFails(story, ref, stage, () =>
    sleep(parseDuration(stage.for), { summary: `stage ${label} for ${stage.for}` }),
  );
  if (failed !== null) return { outcome: 'fail', evidence: failed };
  run.waitFor({ for: 'gate', why: `evidence for stage ${label}` });
  const verdict = await verdictOf(story, ref, stage);
  run.keep(verdict.evidence);
  run.sawLag(verdict.lagSeconds, verdict.evidence.at(-1)?.at);
  // Those of the stage before may have fallen silent; only an answer says that this is over.
  if (verdict.outcome === 'pass') run.allClear('gates');
  return verdict.outcome === 'pass' ? rowsCompared(story, ref, stage) : verdict;
}

/** A look at the gates that fails for good holds the run like any step, where the plan says so. */
const HOLDS = 'gates that can not be looked at hold the run where failures do';

async function verdictOf(story: Story, ref: RunRef, stage: Stage): Promise<Verdict> {
  const label = `${stage.percent} %`;
  for (;;) {
    try {
      return await act(`gates of stage ${label}`).judgeStage(ref, stage);
    } catch (error) {
      if (isCancelled(error) || !story.holdsAfter(error) || !patched(HOLDS)) throw error;
      await holdUnwatched(story, stage, error);
    }
  }
}

async function holdUnwatched(story: Story, { percent }: Stage, error: unknown): Promise<void> {
  const { waiting } = story.run.status;
  await story.hold(
    `the gates of stage ${percent} % are not watched, and its reads stay where they are: ${failureMessage(error)}`,
  );
  // What is begun again then does not say it anew.
  if (waiting?.for === 'stage' || waiting?.for === 'gate') story.run.waitFor(waiting);
}

/**
 * Goes no further while the run is paused, or held by something beside the work: the gates keep their authority.
 *
 * @returns as `watched`
 */
export async function untilGoingOn(story: Story, ref: RunRef, stage: Stage | null): Promise<boolean> {
  const stands = story.run.paused || story.isHeld;
  const isAsBefore = !stands || (await watched(story, ref, stage, () => story.untilNotPaused()));
  story.proceed();
  return isAsBefore;
}

/** Nothing is known to be wrong, and nothing has been shown to be right: the reads stay where they are, watched, until somebody decides. */
async function onMissingEvidence(
  story: Story,
  ref: RunRef,
  stage: Stage,
  evidence: readonly Evidence[],
): Promise<void> {
  const missing = counting(evidence, (outcome) => outcome !== 'pass');
  const why = `stage ${stage.percent} % has no sufficient evidence after ${ref.plan.traffic.maxStageDuration}: ${missing}`;
  const failed = await untilGateFails(story, ref, stage, () => story.hold(why));
  if (failed !== null) await onFailedGate(story, ref, stage, failed);
  else await opened(story, ref, stage, `${stage.percent} % of the reads to green, again`, stage);
}

/**
 * The gate `rowDifferences`: what was written since the last comparison is the same on both sides. Rows that are left of a
 * partition which was emptied on blue can be mended by hand: they hold the run, as in every other comparison.
 */
async function rowsCompared(story: Story, ref: RunRef, stage: Stage): Promise<Judged> {
  const gate = ref.plan.traffic.gates.find((one) => one.metric === 'rowDifferences');
  if (gate === undefined) return { outcome: 'pass', evidence: [] };
  let pass = story.nextPass();
  story.run.waitFor({ for: 'gate', why: `comparing what has changed on blue and green` });
  const compared: Evidence[] = [];
  const failed = await untilGateFails(story, ref, stage, async () => {
    const summary = 'compare what has changed on blue and green';
    const found = await story.step(summary, async () => {
      const { emptied = [], ...compared } = await act(summary).verify(ref, 'blue', 'changed', pass);
      const { differingRows, examples } = compared;
      const counts = differingRows > gate.max && gate.dryRun !== true;
      if (emptied.length === 0 || !counts || !patched('rows of an emptied partition fail no gate')) return compared;
      // A pass that is over finds what it has found without reading a row.
      pass = story.nextPass();
      throw stillThere(differingRows, examples, emptied);
    });
    const { examples, scope, notCompared, ...result } = found;
    story.run.verified({ ...result, scope });
    warnOfColumns(story.run, notCompared);
    const { differingRows, rowsVerified, at } = result;
    compared.push({
      ...{ at, where: `stage ${stage.percent} %`, metric: gate.metric, windowSeconds: 0 },
      outcome: differingRows <= gate.max ? 'pass' : 'fail',
      because: `${differingRows} of ${rowsVerified} compared rows differ${examples.length === 0 ? '' : `: ${nameRows(examples)}`}`,
      green: { requests: 0, errors: 0 },
      blue: { requests: 0, errors: 0 },
      onFail: gate.onFail ?? ref.plan.traffic.onFail,
      ...(gate.dryRun === true ? { dryRun: true } : {}),
    });
  });
  if (failed !== null) return { outcome: 'fail', evidence: failed };
  story.run.keep(compared);
  const differ = compared.some(hasFailed);
  return { outcome: differ ? 'fail' : 'pass', evidence: compared };
}

/**
 * Does `work` while the gates keep their authority: one that fails meanwhile ends it. Where that does not end the run, the
 * stage is opened again and judged anew.
 *
 * @returns false then: the work is not done, and whatever led to it (an approval, a window, a webhook) is out of date
 */
export async function watched(
  story: Story,
  ref: RunRef,
  stage: Stage | null,
  work: () => Promise<void>,
): Promise<boolean> {
  if (stage === null) {
    await work();
    return true;
  }
  const failed = await untilGateFails(story, ref, stage, work, watchAndTell);
  if (failed === null) return true;
  await onFailedGate(story, ref, stage, failed);
  await untilJudged(story, ref, stage);
  return false;
}

type Watch = (story: Story, ref: RunRef, stage: Stage) => Promise<readonly Evidence[]>;

const watchOnly: Watch = (_story, ref, stage) => watching(stage).watchGates(ref, stage);

const TELLS = 'people are told when the gates of a stage that has passed say nothing any more';
/** So often in one wait: each time takes events of the history. */
const TOLD_AT_MOST = 5;

/**
 * A stage that has passed may be waited behind for days, and whoever approves what comes next goes by what its gates have
 * said: that they are silent now neither holds nor ends anything, so people are told.
 */
const tellingWatch: Watch = async (story, ref, stage) => {
  const { run } = story;
  for (let told = 0; ;) {
    const silent = run.status.alarms?.some(({ about }) => about === 'gates') ?? false;
    if (!silent && told >= TOLD_AT_MOST) return watchOnly(story, ref, stage);
    const evidence = await watching(stage).watchGates(ref, stage, { silent });
    // What passes may have nothing to say, as HAProxies that follow again.
    if (evidence.some(hasFailed)) return evidence;
    run.keep(evidence);
    if (silent) run.allClear('gates');
    else {
      told += 1;
      const missing = counting(evidence, (outcome) => outcome !== 'pass');
      run.alarm(
        'gates',
        'silent',
        `stage ${stage.percent} % has passed, but its gates don't any more: ${missing}`,
        SILENT_NEXT,
      );
    }
  }
};

// A promise of its own would settle later than the activity's, which runs of earlier versions were recorded with.
const watchAndTell: Watch = (...of) => (patched(TELLS) ? tellingWatch(...of) : watchOnly(...of));

const SILENT_NEXT =
  'see why. They hold nothing back: an approval of now rests on what they said before; `pause` keeps the run where it is';

function watching({ percent }: Stage): ReturnType<typeof act> {
  return act(`watch the gates of stage ${percent} %`);
}

const AGAIN = 'again';

/** Does `work` and watches the gates of a stage. @returns what they say when one of them has ended it; else null */
async function untilGateFails(
  story: Story,
  ref: RunRef,
  stage: Stage,
  work: () => Promise<void>,
  watch: Watch = watchOnly,
): Promise<readonly Evidence[] | null> {
  if (stage.percent === 0) return work().then(() => null);
  const waiting = new CancellationScope();
  const beside = new CancellationScope();
  const failed = beside
    .run(() => watch(story, ref, stage))
    .then(
      (evidence) => {
        waiting.cancel();
        return evidence;
      },
      (error: unknown) => {
        if (isCancelled(error)) return null;
        waiting.cancel();
        throw error;
      },
    );
  // Awaited below, when the work has stopped; until then it must not count as unhandled, which would stop everything.
  failed.catch(() => undefined);
  let ended: unknown = null;
  try {
    await waiting.run(work);
  } catch (error) {
    ended = error;
  }
  beside.cancel();
  // Also when the waiting has ended well: the gate may have failed in that very moment.
  const evidence = await failed.catch(async (error: unknown) => {
    const isWorkStopped = ended === null || isCancelled(ended);
    if (story.isAbandoned || !isWorkStopped || !story.holdsAfter(error) || !patched(HOLDS)) throw error;
    await holdUnwatched(story, stage, error);
    return ended === null ? null : AGAIN;
  });
  if (evidence === AGAIN) return untilGateFails(story, ref, stage, work, watch);
  const gateFailed = evidence !== null && evidence.length > 0;
  if (ended !== null && !(gateFailed && isCancelled(ended) && !story.isAbandoned)) throw ended;
  if (!gateFailed) return null;
  story.run.keep(evidence);
  return evidence;
}

/** A gate that failed rolls the run back, or takes the reads back and holds, as it says. The sternest of several counts. */
async function onFailedGate(story: Story, ref: RunRef, stage: Stage, evidence: readonly Evidence[]): Promise<void> {
  const failed = evidence.filter(hasFailed);
  story.run.allClear('gates');
  const message = `gate failed in stage ${stage.percent} %: ${counting(evidence, (outcome) => outcome === 'fail')}`;
  if (failed.some(({ onFail }) => (onFail ?? ref.plan.traffic.onFail) === 'rollback')) {
    await readsBackAtOnce(story, ref);
    throw ApplicationFailure.nonRetryable(
      `${message}\nNext step: mend green, then start again; query "evidence" has the numbers.`,
      'GateFailed',
    );
  }
  // Who has approved what comes next had seen other numbers.
  story.run.voidApprovals();
  await allReadsBack(story, ref);
  await story.hold(`${message}; all reads are on blue`);
  await untilStageMayOpen(story, ref, stage, null);
  await opened(story, ref, stage, `${stage.percent} % of the reads to green, again`, null);
}

/** All reads back to blue while the run goes on, and the webhooks with them. */
export async function allReadsBack(story: Story, ref: RunRef): Promise<void> {
  if (story.webhooks.mustKnow) await askSinceReset(story, ref);
  story.webhooks.tell('readsBack', 0);
  story.run.onReadsBack(ref, await actFast('all reads back to blue').readsToBlue(ref));
  story.run.saw({ greenReadPercent: 0 });
}

/** The rollback does the same, but begins only when everything that runs has stopped. */
async function readsBackAtOnce(story: Story, ref: RunRef): Promise<void> {
  // A promotion that has been tried is taken back as one, by "rollingBack" and what follows it.
  // Those of a run that was reset are told by the rollback, which asks first whether that is so.
  if (!story.webhooks.mustKnow) story.webhooks.tell(story.run.promotionStarted ? 'readsBack' : 'rolledBack', 0);
  try {
    const summary = 'all reads back to blue';
    const activities = patched(SAYS_WHY) ? actFastUpTo(summary, TRIES) : actFast(summary);
    story.run.onReadsBack(ref, await activities.readsToBlue(ref));
    story.run.saw({ greenReadPercent: 0 });
  } catch (error) {
    // It is the gate that people must read of; the rollback tries again.
    if (isCancelled(error)) throw error;
  }
}

/** What the gates that count say, for people. */
function counting(evidence: readonly Evidence[], wanted: (outcome: Evidence['outcome']) => boolean): string {
  return evidence
    .filter((one) => one.dryRun !== true && wanted(one.outcome))
    .map((one) => `${one.metric}: ${one.because}`)
    .join('; ');
}

async function readsBack(story: Story, ref: RunRef): Promise<void> {
  if (!story.webhooks.mustKnow) story.webhooks.tell('rolledBack');
  story.run.onReadsBack(ref, await untilReadsAreBack(story, ref));
  story.run.allClear('gates');
  if (story.run.status.writesOn === 'blue') story.run.saw({ greenReadPercent: 0 });
}

const SAYS_WHY = 'a rollback says why reads can not be taken back';
/** Then people are told. */
const TRIES = 5;

/**
 * For as long as blue does not answer: its route sends readers to green for as long as nobody has changed it, so nothing
 * that they need may be taken away before.
 */
async function untilReadsAreBack(story: Story, ref: RunRef): Promise<ReadsOwed | null> {
  const { run, webhooks } = story;
  const summary = 'compensate: all reads back to blue';
  if (!patched(SAYS_WHY)) return actFast(summary).readsToBlue(ref);
  for (let attempt = 0; ; attempt++) {
    try {
      if (webhooks.mustKnow) {
        await askSinceReset(story, ref, (what) => actFastUpTo(what, TRIES));
        webhooks.tell('rolledBack');
      }
      const owed = await actFastUpTo(summary, TRIES).readsToBlue(ref);
      run.waitFor(null);
      return owed;
    } catch (error) {
      if (isCancelled(error) || !mayPass(error)) throw error;
      const why = `reads can't be taken back to blue, so the rollback waits: ${failureMessage(error)}`;
      run.waitFor({ for: 'retry', why, answer: run.doctor('--who-is-primary') });
      const seconds = attempt >= OFTEN ? 3_600 : Math.min(300, 5 * 2 ** attempt);
      await sleep(seconds * 1_000, { summary: 'all reads back to blue: try again' });
    }
  }
}

/** So often it is tried every five minutes at least; then once an hour, so that months fit into the history. */
const OFTEN = 50;
