import { reasonOf } from '../src/failure-text.js';
import type { TableName } from '../src/plan/table-name.js';
import type { TableInfo } from '../src/postgres/catalog.js';
import { tableFilter } from '../src/postgres/catalog-pattern.js';
import { lookAtSchema, rememberClosedGreen } from '../src/postgres/ddl/schema-watch.js';
import { readFencedTables } from '../src/postgres/fenced-tables.js';
import { feedGoesOn, feedLeftBehind, wasForced, type FeedLeftBehind } from '../src/postgres/forced-way-back.js';
import { refuseFullIdentity } from '../src/postgres/full-identity.js';
import { promotionBlocked } from '../src/postgres/hold.js';
import { whoLocksReadersOut } from '../src/postgres/locks.js';
import { describeMissingRights, inTheWay, missingRights } from '../src/postgres/missing-rights.js';
import { describeMissingSettings, missingSettings, settingsInTheWay } from '../src/postgres/missing-settings.js';
import {
  comparedPartitions,
  readPartitionFiles,
  rememberedFiles,
  rememberFiles,
} from '../src/postgres/partition-files.js';
import { planWork } from '../src/postgres/migrate/plan-work.js';
import { describePlanRights, missingPlanRights, rolesToAsk } from '../src/postgres/plan-rights.js';
import { releaseAll } from '../src/postgres/pools.js';
import { preparePromotion, refuseChangedSchema } from '../src/postgres/prepare-promotion.js';
import { replacedSinceCompared } from '../src/postgres/promotion-readiness.js';
import { refuseLate, type Promotion } from '../src/postgres/promotion.js';
import { retryOnLock } from '../src/postgres/retry.js';
import { SHORT_STATEMENTS, type Session } from '../src/postgres/session.js';
import { SCHEMA_IN_CHANGE, sqlState } from '../src/postgres/sqlstate.js';
import { readConfirmed } from '../src/postgres/standby-loss.js';
import { readRoute } from '../src/postgres/state.js';
import { refuseUnmovedContents } from '../src/postgres/unmoved-contents.js';
import { readLastPass, type Since } from '../src/postgres/verify/last-pass.js';
import type { RunRef } from '../workflows/lib/run-ref.js';
import { watching, type Work } from './context.js';
import { readsGoFirst } from './haproxy.js';
import { refuseCutOff, refuseOtherFollowers, refuseUndeployed } from './instances.js';
import type { Attempt } from './promotion-attempt.js';
import { refuseAgain, refuseGrown, refuseLostWayBack, refuseReplacedBlue } from './promotion-loss.js';
import { movedTables, publishedBackward } from './run-tables.js';
import { failedMeanwhile, refusedByGates } from './stage-watch.js';
import { onThisMachine } from './temporal-clock.js';

/** What the tries go by. */
type Prepared = Pick<
  Promotion,
  | 'notAfter'
  | 'fenced'
  | 'knownTables'
  | 'comparedPartitions'
  | 'comparedOn'
  | 'refuseOthers'
  | 'lastLook'
  | 'feedLeftBehind'
>;

/**
 * All that comes before the first try, while nobody waits: who is in the way is asked and told, the way back is proven, the
 * fence is armed, and each pooler shows that it can follow.
 */
export async function prepareTries(attempt: Attempt): Promise<Prepared> {
  const { work, ref, pools, session, from, epoch, acceptLoss, notAfter, environment } = attempt;
  // A worker that was killed in its hold has left them paused.
  await releaseAll(pools, work.signal);
  // Tried again for as long as a server was away, it must not move writes hours after it was asked to.
  const begins = notAfter === undefined ? {} : { notAfter: await onThisMachine(notAfter) };
  if (from === 'blue') await refuseFailed(attempt);
  refuseLate(begins);
  // What must not have been emptied since: the way back names what it has, and somebody accepts it.
  const relied = await rememberedFiles(session, work.run.runId, from === 'blue' ? 'compared' : 'looked at');
  const partitions = await comparedPartitions(session, from, relied, tableFilter(ref.plan.tables));
  const fenced = await readFencedTables(session, ref.plan.tables);
  const knownTables = await proveWayBackAndArm(attempt, fenced);
  await pools.prepare(from, epoch);
  // Blue is close behind green: what it lacks would only be missed where a loss was accepted.
  if (from === 'green' && !acceptLoss) await readsGoFirst(ref, environment, session, epoch);
  return {
    ...{ ...begins, fenced, knownTables, comparedPartitions: partitions },
    ...(from === 'blue'
      ? { comparedOn: await comparedServers(work), lastLook: () => refuseDdl(work, ref, session) }
      : {}),
    // Arming may take minutes: blue may have failed over since its feed was looked at.
    ...(from === 'green' && !acceptLoss
      ? { refuseOthers: (green, blue) => refuseReplacedBlue(work.run, green, blue) }
      : {}),
    ...(acceptLoss ? { feedLeftBehind: feedWithLoss(attempt) } : {}),
  };
}

/** Between the acceptance and the hold may lie minutes: what blue lacks by then is counted once more. */
function feedWithLoss({ work, session, epoch, accepted }: Attempt): FeedLeftBehind {
  const { databases, run, signal } = work;
  const counted = (green: Session): Promise<void> => refuseGrown(green, run, accepted);
  return feedLeftBehind({ databases, run, epoch, green: session, refuseGrown: counted, signal });
}

/** What led here (an approval, a window) may have come while no worker watched the last stage. */
async function refuseFailed({ work, ref, environment, patience }: Attempt): Promise<void> {
  const last = ref.plan.traffic.stages.at(-1);
  if (last === undefined) return;
  const evidence = await failedMeanwhile(work, ref, last, environment, patience);
  if (evidence !== undefined) throw refusedByGates('the promotion', last, evidence, false);
}

/** @returns every table (oid) that was there when the fence was armed */
async function proveWayBackAndArm(
  { work, ref, from, acceptLoss }: Attempt,
  fenced: readonly TableName[],
): Promise<number[]> {
  const { databases, run, signal } = work;
  // Before anything is made, and whether or not a stage has asked: an old version may have been deployed since.
  if (from === 'blue') await refuseInstances(work, ref);
  const onBlue = await work.session('blue', 'catalog', SHORT_STATEMENTS);
  const onGreen = await work.session('green', 'catalog', SHORT_STATEMENTS);
  const blue = await movedTables(onBlue, ref.plan);
  const green = await movedTables(onGreen, ref.plan);
  const published = publishedBackward(blue, green);
  if (from === 'blue') {
    await refuseDdl(work, ref, onBlue);
    await refuseUnmovedContents(onBlue, onGreen, { runId: run.runId, patterns: ref.plan.tables });
    await refuseMissingRights(onBlue, onGreen, ref);
    refuseFullIdentity(published, green);
    await rememberFilesOfGreen(onGreen, ref);
    await rememberGreen(work, ref, blue);
  } else {
    if (acceptLoss) refuseAgain();
    await feedGoesOn(databases, run, onGreen, signal);
    if (!acceptLoss) await refuseLostWayBack(work);
  }
  return preparePromotion({
    databases,
    migration: run.migration,
    from,
    fenced,
    patterns: ref.plan.tables,
    wayBack: from === 'blue' ? published : undefined,
    acceptLoss,
    onArmed: (armed, of) => work.report({ fence: from, armed, of }),
    signal,
  });
}

/** The application's instances that could not follow the promotion, or would not work after it. */
async function refuseInstances({ session, run }: Work, { plan }: RunRef): Promise<void> {
  const blue = await session('blue', 'instances', SHORT_STATEMENTS);
  await refuseCutOff(blue, run.migration);
  await refuseOtherFollowers(blue, plan);
  await refuseUndeployed(blue, plan, {
    ...{ name: 'the promotion', type: 'PromotionBlocked', retryable: false },
    nextStep: 'deploy the application with the code that works with both schemas, then approve the promotion again',
  });
}

/** Asked at first, and once more right before writers are asked to wait: minutes may lie between. */
async function refuseDdl({ run }: Work, { plan }: RunRef, blue: Session): Promise<void> {
  refuseChangedSchema(await lookAtSchema({ session: blue, side: 'blue', runId: run.runId, patterns: plan.tables }));
}

/** The application would meet "permission denied" with its first request on green, or fewer rows, or other tables. */
async function refuseMissingRights(blue: Session, green: Session, { plan }: RunRef): Promise<void> {
  const ofPlan = await missingPlanRights(green, await rolesToAsk(blue, green), await planWork(plan));
  const missing = [
    ...describeMissingRights(inTheWay(await missingRights(blue, green))),
    // A role that reads by columns may be meant not to read a new one, and has been told of.
    ...describePlanRights(ofPlan.filter(({ to }) => to === 'write')),
    ...describeMissingSettings(settingsInTheWay(await missingSettings(blue, green))),
  ];
  if (missing.length > 0) throw promotionBlocked(missing.join('; '));
}

/** Until green is open, only the feed empties something there. A worker that was frozen wakes up with what it has read before. */
async function rememberFilesOfGreen(green: Session, { plan, runId }: RunRef): Promise<void> {
  const files = await readPartitionFiles(green, tableFilter(plan.tables));
  if ((await readRoute(green, plan.name))?.writesOn === 'green') return;
  await rememberFiles(green, runId, 'compared', files);
}

/** How long one statement may take that describes all tables, ms: thousands of them take some seconds. */
const DESCRIBED_WITHIN_MS = 60_000;
/** And how long somebody's DDL there is waited for, as for the way back: then people are told who it is. */
const GREEN_IS_LOCKED_MS = 15_000;

/** Until green is open nobody makes or fills there what the way back would have to bring to blue. */
async function rememberGreen(
  { session, run, signal }: Work,
  { plan }: RunRef,
  blue: readonly TableInfo[],
): Promise<void> {
  const green = await session('green', 'schema watch', watching(signal, DESCRIBED_WITHIN_MS));
  const watched = { session: green, side: 'green', runId: run.runId, patterns: plan.tables } as const;
  try {
    const remember = (): Promise<void> => rememberClosedGreen(watched, run.migration, blue);
    await retryOnLock(remember, { forMs: GREEN_IS_LOCKED_MS, signal, codes: SCHEMA_IN_CHANGE });
  } catch (error) {
    if (!SCHEMA_IN_CHANGE.has(sqlState(error) ?? '')) throw error;
    const who = await whoLocksReadersOut(green).catch(() => null);
    const what = `green: its tables can't be described: ${reasonOf(error)}`;
    throw promotionBlocked(who === null ? what : `${what}. ${who}`, error);
  }
}

/**
 * The server of the new side as it is known from before the decision: green by the last comparison of rows, blue by the last
 * moment at which it had everything. Nothing is asked where writes have left green with a loss: that blue is what it is.
 */
export function decidedFor({ work, from, session }: Attempt): Promotion['decidedFor'] {
  const { runId, migration } = work.run;
  if (from === 'blue') return async (green) => (await readLastPass(green, runId))?.began.green;
  return async () => {
    const route = await readRoute(session, migration);
    if (route !== undefined && (await wasForced(session, runId, route.epoch))) return undefined;
    return (await readConfirmed(session, runId))?.blue;
  };
}

/**
 * Green's record of it goes back with green: an older comparison tells other servers as well, and a green that knows of none
 * is of before the first one.
 */
async function comparedServers({ run, session }: Work): Promise<Since> {
  const green = await session('green', 'compared', SHORT_STATEMENTS);
  const last = await readLastPass(green, run.runId);
  if (last === undefined) {
    throw replacedSinceCompared(
      'green does not know that its rows were compared: it was put back from a copy of before, and may lack some of them',
    );
  }
  return last.began;
}
