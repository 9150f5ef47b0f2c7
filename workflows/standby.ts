import { condition, patched, sleep } from '@temporalio/workflow';
import { parseDuration } from '../src/plan/duration.js';
import { closesBlue } from '../src/doctor-call.js';
import type { StandbyHealth, StandbyState } from '../src/postgres/standby.js';
import { compareRegularly } from './compare-regularly.js';
import { finishLater, opensIt } from './finish-move.js';
import { watchBlueSchema, watchGreenSchema } from './guard-schema.js';
import { NAME_REPLICAS } from './guard-wal.js';
import { act } from './lib/activities.js';
import { expiredApproval } from './lib/approval-question.js';
import { beside } from './lib/beside.js';
import { failureMessage, isCancelled } from './lib/failure.js';
import { restMs, spareHistory } from './lib/history-room.js';
import { inParallel } from './lib/in-parallel.js';
import type { MigrationRun } from './lib/migration-run.js';
import { retirementEvidence } from './lib/retirement-evidence.js';
import type { RunRef } from './lib/run-ref.js';
import { answerWith, type Story } from './lib/story.js';
import { whileNotPaused } from './lib/while-not-paused.js';
import { nameReadersOfBlue } from './readers-of-blue.js';
import { untilReadsHaveLeftBlue } from './reads-leave-blue.js';

const APPROVAL = 'approval before replication is taken down and the way back ends';

/** Phase 7: blue follows green for the standby window, so that a rollback loses nothing. The feed is watched. */
export async function standby(story: Story, ref: RunRef): Promise<void> {
  const { run } = story;
  run.enter('standby');
  const ends = Date.now() + parseDuration(ref.plan.standby.for);
  const columns = unaskedColumns(ref, ends);
  const until = `the standby window lasts until ${new Date(ends).toISOString()}; \`retire\` ends it sooner`;
  run.waitFor({ for: 'standby', why: [until, ...columns].join('; ') });
  run.warn(columns);
  const watch = watchOfWindow(story, ref);
  // The feed is watched as long as it is there: also while an approval is waited for, or the run is paused. Whatever comes
  // next, a rollback included, begins when both have really stopped.
  await beside(watch, () => untilRetirement(story, ref, ends));
  await untilItMayRetire(story, ref, watch);
  run.waitFor(null);
}

/** Until the watch has stopped, a pause was accepted, and an approval may have ended: the one step that can't be taken back waits. */
export async function untilItMayRetire(story: Story, ref: RunRef, watch: () => Promise<void>): Promise<void> {
  while (
    isKeptByPeople(story) &&
    patched('what comes while the watch of the standby window ends keeps the retirement')
  ) {
    await beside(watch, () => untilRetirementIsApproved(story, ref));
  }
}

/** Whether the run is paused, or what was approved does not count any more. */
export function isKeptByPeople({ run }: Story): boolean {
  return run.paused || run.approvalExpired('retire') !== undefined;
}

/** What is watched as long as there is a way back. */
export function watchOfWindow(story: Story, ref: RunRef): () => Promise<void> {
  const { run } = story;
  const feed = ({ run }: Story): Promise<never> =>
    watchFeed(run, ref, feedAlarm(run), (missed) => sawMissed(run, missed));
  // A run that an earlier version has brought here looks at green alone.
  const blue = patched('blue is watched for DDL in the standby window') ? [watchBlueSchema] : [];
  const owed = run.finishOwed === null ? [] : [finishLater];
  const isAlarm = run.unservedPools.length > 0;
  const clients = isAlarm && patched('clients of poolers are looked at until they are served') ? [untilServed] : [];
  const fence = patched("green's fence is switched off in the standby window") ? [untilFenceIsOff] : [];
  const looks = [feed, compareRegularly, watchGreen, ...blue, ...owed, ...clients, ...fence];
  return () =>
    inParallel(looks, looks.length, async (look) => {
      await look(story, ref);
      return true;
    });
}

/** The question before the retirement names them. Where nobody is asked, writes would fail before anybody has heard of it. */
function unaskedColumns({ plan }: RunRef, ends: number): string[] {
  if (plan.traffic.approval.before.includes('retire')) return [];
  const when = `nobody is asked before that, and it comes at ${new Date(ends).toISOString()}: deploy code that writes them by then`;
  return retirementEvidence(plan).map((columns) => `${columns}; ${when}`);
}

async function untilRetirement(story: Story, ref: RunRef, ends: number): Promise<void> {
  const { run } = story;
  await condition(() => run.retireRequest !== null, Math.max(1, ends - Date.now()), {
    summary: `standby window of ${ref.plan.standby.for}`,
  });
  run.waitFor(null);
  if (story.webhooks.untold.length > 0) await untilWebhooksAreTold(story);
  await untilRetirementIsApproved(story, ref);
}

/** Whoever ends the window does not approve the retirement with it. An approval that expires in a pause, or while reads leave blue, is asked for again. */
async function untilRetirementIsApproved(story: Story, ref: RunRef): Promise<void> {
  const { run } = story;
  const isAsked = ref.plan.traffic.approval.before.includes('retire');
  for (;;) {
    const expired = run.approvalExpired('retire');
    if (expired !== undefined) run.warn([expiredApproval('the retirement', expired)]);
    const why = expired === undefined ? APPROVAL : expiredApproval('the retirement', expired);
    const isOpen = expired !== undefined || !run.isApproved('retire');
    if (!isAsked || isOpen) await nameReadersOfBlue(story, ref);
    if (isAsked && isOpen) await story.approval('retire', why);
    else if (!isAsked) run.warn(run.readersOfBlue);
    await story.untilNotPaused();
    await untilReadsHaveLeftBlue(story, ref);
    if (run.approvalExpired('retire') === undefined) return;
  }
}

/** Who is not told that writes are on green still leads clients to blue: the way back stays open for as long as that. */
async function untilWebhooksAreTold({ run, webhooks }: Story): Promise<void> {
  // A request that came before this was said does not answer it.
  const { retireRequest } = run;
  const isTold = (): boolean => webhooks.untold.length === 0 || run.retireRequest !== retireRequest;
  const why = `the retirement waits: ${webhooks.untold.join('; ')}; \`retire\` goes on without it`;
  run.waitFor({ for: 'retry', why, answer: answerWith(run, 'retire') });
  await condition(isTold);
  run.waitFor(null);
}

async function watchGreen(story: Story, ref: RunRef): Promise<void> {
  try {
    await act("green's schema as blue gets its rows").beginSchemaWatch(ref, 'green');
  } catch (error) {
    if (isCancelled(error)) throw error;
    story.run.warn([`DDL on green is not watched: ${failureMessage(error)}`]);
    return;
  }
  await watchGreenSchema(story, ref);
}

/** Nothing, as a rule: the end of the promotion has done it, unless somebody locked a table. */
async function untilFenceIsOff({ run }: Story, ref: RunRef): Promise<void> {
  try {
    const summary = "green's fence, where it could not be switched off";
    await whileNotPaused(run, () => act(summary).switchFenceOff(ref));
  } catch (error) {
    if (isCancelled(error)) throw error;
    const until = 'until the retirement its writers pay for it';
    run.warn([`green's fence is not switched off everywhere, and ${until}: ${failureMessage(error)}`]);
  } finally {
    run.progress([]);
  }
}

/** Ends the alarm when clients have been let in, or have only come late. */
async function untilServed({ run }: Story, ref: RunRef): Promise<void> {
  try {
    await act('do clients of poolers have connections to green?').awaitServed(ref, run.unservedPools);
    run.allClear('clients');
  } catch (error) {
    if (isCancelled(error)) throw error;
    run.warn([`whether clients of poolers have got connections since is not known: ${failureMessage(error)}`]);
  } finally {
    run.progress([]);
  }
}

/** How long the feed is not watched between two tries, ms: it may hold back WAL on green meanwhile. */
const UNWATCHED_MS = 300_000;

/**
 * Watches until it is cancelled. Each change of the feed's health is one return of the activity.
 *
 * @param told the health that people have been told of: another one is news. Default: that it is well
 * @param missed told how many changes of green have met no row on blue. Default: nobody compares
 */
export async function watchFeed(
  run: MigrationRun,
  ref: RunRef,
  told = 'healthy',
  missed: (count: number) => void = () => undefined,
): Promise<never> {
  let known = run.finishOwed === null ? told : 'unfinished';
  let comparedFor: string | null = null;
  for (;;) {
    const seen = await watchOnce(run, ref, known, comparedFor);
    comparedFor = sawCall(run, seen, comparedFor);
    known = seen.health;
    run.saw({ lagSeconds: seen.lagSeconds });
    run.wayBack.sawFeed(
      seen.rollbackSafe
        ? { safe: true, why: whyItIsSafe(seen) }
        : { safe: false, why: seen.why, ...(seen.loses === null ? {} : { loses: seen.loses }) },
      seen.comparisonEndsIt !== undefined,
    );
    if (seen.missed !== undefined) missed(seen.missed);
    if (seen.health === 'healthy') run.allClear('feed');
    else run.alarm('feed', seen.health, seen.why, nextStep(seen.health, run));
    await spareHistory(UNWATCHED_MS);
  }
}

/**
 * Told again and again, with what a rollback would lose: one comparison is enough, and the next one comes at its time. A
 * blue that fails over once more calls for another one.
 *
 * @returns what rows are compared for now
 */
function sawCall(run: MigrationRun, seen: StandbyState, comparedFor: string | null): string | null {
  if (seen.rollbackSafe) return null;
  const calls = seen.comparisonEndsIt ?? comparedFor;
  if (calls !== comparedFor && patched('what only a comparison ends has rows compared at once')) {
    run.wayBack.compareAgain();
  }
  return calls;
}

/**
 * A change that has met no row on blue was left out there, so blue is not what green is: nobody is to rely on it before rows
 * have been compared. What is known to differ is missed again with each change of it.
 */
export function sawMissed(run: MigrationRun, count: number): void {
  const { wayBack } = run;
  if (!wayBack.sawMissed(count) || wayBack.strands.rows !== undefined) return;
  if (!patched('changes that meet no row on blue have it compared at once')) return;
  const why = `${count} changes that were made on green have met no row on blue`;
  wayBack.sawDifference(`${why}; which rows is being compared`);
  run.alarm('rows', 'missed', why, 'see what has deleted rows on blue; the comparison names them');
  wayBack.compareAgain();
}

/** What a watch that has ended has told last; undefined while the feed was well. */
export function feedAlarm({ status: { alarms = [] } }: MigrationRun): string | undefined {
  return alarms.find(({ about }) => about === 'feed')?.state;
}

/** One that is late loses nothing, but not at once. */
function whyItIsSafe({ health, why }: StandbyState): string {
  if (health === 'lagging') return `${why}; a rollback waits until it has caught up, and loses nothing then`;
  return 'blue follows green: writes can go back without a loss';
}

function nextStep(health: Exclude<StandbyHealth, 'healthy'>, run: MigrationRun): string {
  if (health === 'notOpened') return opensIt(run);
  if (health === 'open') return closesBlue(run.doctor('--close --yes'));
  return health === 'greenAway' ? untilGreenAnswers(run) : NEXT[health];
}

function untilGreenAnswers(run: MigrationRun): string {
  const opens = run.doctor(`--open --green-is-gone ${run.status.name}`);
  return `see whether the application reaches green, and bring it back: nothing moves by itself, and a rollback waits for it. Only where it is lost for good: see that it can't come back, end the run (temporal workflow terminate), then: ${opens}`;
}

/** What people can do about a feed that is not as it should be. */
const NEXT: Readonly<Record<Exclude<StandbyHealth, 'healthy' | 'notOpened' | 'open' | 'greenAway'>, string>> = {
  lagging: "see what blue's apply worker waits for; a rollback waits until it has caught up",
  retaining: 'have blue catch up before the limit is reached',
  broken: 'mend what it names; or stay on green (`retire`), or accept the loss (`rollback` with "acceptLoss")',
  dropped: 'stay on green (`retire`), or accept the loss (`rollback` with "acceptLoss")',
  unreachable: 'bring blue back, or have the worker reach it; `retire` stays on green without a way back',
  filling: 'bring blue back before the limit is reached; `retire` stays on green without a way back',
  synchronous: NAME_REPLICAS,
  numbersTaken:
    'lead whoever takes them to green (pg_stat_activity on blue names them), and have them drop numbers that they keep; a rollback loses nothing',
  undroppable: 'do what it names, and see that green has room: the feed is dropped as soon as it can be',
};

/** A watch that fails says nothing about green, which serves: people are told, nothing is moved, and it is begun again. */
async function watchOnce(
  run: MigrationRun,
  ref: RunRef,
  known: string,
  comparedFor: string | null,
): Promise<StandbyState> {
  for (;;) {
    try {
      return await act('watch the feed to blue').watchStandby(ref, known, run.epoch, run.wayBack.missed, comparedFor);
    } catch (error) {
      if (isCancelled(error)) throw error;
      const why = `the feed to blue can't be watched: ${failureMessage(error)}`;
      run.wayBack.sawFeed({ safe: false, why });
      run.alarm('feed', 'unwatched', why, 'mend what it names: the watch is begun again every 5 minutes');
      await sleep(Math.max(UNWATCHED_MS, restMs()), { summary: 'watch the feed to blue again' });
    }
  }
}
