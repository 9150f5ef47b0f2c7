import { copyAnew } from '../src/postgres/bootstrap/copy-anew.js';
import { replicatedRoots, type TableInfo } from '../src/postgres/catalog.js';
import { VerdigrisError } from '../src/errors.js';
import { parseDuration } from '../src/plan/duration.js';
import { formatTableName, type TableName } from '../src/plan/table-name.js';
import { tableFilter } from '../src/postgres/catalog-pattern.js';
import { directionTo } from '../src/postgres/feed.js';
import { firstPartitions, maybeEmptied, type MaybeEmptied } from '../src/postgres/partition-files.js';
import { measureLag } from '../src/postgres/marker.js';
import { onlyOnGreen } from '../src/postgres/only-on-green.js';
import { planWork } from '../src/postgres/migrate/plan-work.js';
import { FeedErrors } from '../src/postgres/stuck-feed.js';
import type { Session } from '../src/postgres/session.js';
import type { Difference } from '../src/postgres/verify/difference.js';
import { verifyTables, type VerifyScope } from '../src/postgres/verify/verify-tables.js';
import { otherSide, type Side } from '../src/side.js';
import type { Environment } from '../src/worker/connections.js';
import { NAMED } from '../workflows/lib/differing-rows.js';
import type { RunRef } from '../workflows/lib/run-ref.js';
import type { VerificationSummary } from '../workflows/lib/status.js';
import { perform, watching, type ActivityDependencies, type Work } from './context.js';
import { executionId } from './execution-id.js';
import { readsAreBack } from './reads-to-blue.js';
import { compareInTurn, type ComparisonNews, type Round } from './regular-comparison.js';
import { movedTables } from './run-tables.js';

export interface VerificationResult extends VerificationSummary {
  /** What was compared in the end: `changed` becomes `all` where no earlier pass is known. */
  readonly scope: VerifyScope;
  /** Columns that were left out, the first of them. An older worker does not say. */
  readonly notCompared?: readonly string[];
  /** The first differing rows, up to a hundred, a line each: table, key, what differs. An older worker has ten. */
  readonly examples: readonly string[];
  /** Partitions of blue that may have been emptied, where green has rows too many. */
  readonly emptied?: readonly string[];
  /** Tables of the plan that green alone has, the first of them; only of a comparison of all tables while blue takes the writes. */
  readonly onlyOnGreen?: readonly string[];
}

/** So much of the history the rows that no message names may take, in characters: a standby window may have hundreds of comparisons. */
const EXAMPLES_LENGTH = 20_000;

/** Activities of phase 4. */
export function verifyActivities(dependencies: ActivityDependencies) {
  return {
    /**
     * Compares every moved row of the side that takes writes with the other side, while both live; or the rows that
     * were written since the last pass that found no difference, and that none is missing or left over.
     *
     * @param pass names it: called again by the same name, after a pause or by another worker, it goes on where it was
     * @param only `emptied`: the tables alone of which partitions may have been emptied since they were compared. Default: all
     */
    verify: (
      ref: RunRef,
      source: Side,
      scope: VerifyScope,
      pass: string,
      only?: 'emptied',
    ): Promise<VerificationResult> =>
      perform(dependencies, ref, (work) =>
        compareSides(work, ref, dependencies.environment, { source, scope, pass, isPartial: only === 'emptied' }),
      ),

    /**
     * Compares blue with green, which serves, as often as the plan says: what has changed since the last comparison. Returns
     * with news, and twice a day without any; see compareInTurn().
     */
    compareRegularly: (ref: RunRef, round: Round): Promise<ComparisonNews> =>
      perform(dependencies, ref, (work) =>
        compareInTurn(round, {
          everyMs: parseDuration(ref.plan.standby.verifyEvery),
          signal: work.signal,
          report: work.report,
          compare: (pass, report) =>
            compareSides({ ...work, report }, ref, dependencies.environment, {
              source: 'green',
              scope: 'changed',
              pass,
              isPartial: false,
            }),
        }),
      ),
  };
}

interface Comparison {
  /** The side that takes writes. */
  readonly source: Side;
  readonly scope: VerifyScope;
  readonly pass: string;
  /** Whether only those tables are compared of which partitions may have been emptied. */
  readonly isPartial: boolean;
}

async function compareSides(
  work: Work,
  ref: RunRef,
  environment: Environment,
  { source, scope, pass, isPartial }: Comparison,
): Promise<VerificationResult> {
  const target = otherSide(source);
  // Later green serves reads, from which no table may be missing.
  const mends = source === 'blue' && scope === 'all';
  const feed = { databases: work.databases, run: work.run, plan: ref.plan, signal: work.signal };
  if (mends) await readsAreBack(work, ref, environment);
  if (mends) await copyAnew({ ...feed, report: work.report });
  const [from, to] = [
    await work.session(source, 'verify lag', watching(work.signal)),
    await work.session(target, 'verify lag', watching(work.signal)),
  ];
  const errors = mends ? new FeedErrors(feed, from, to) : undefined;
  const tables = await movedTables(await work.session('blue', 'verify', watching(work.signal, 60_000)), ref.plan);
  const lookForEmptied = (): Promise<MaybeEmptied> => maybeEmptied(from, work.run.runId, tableFilter(ref.plan.tables));
  const all = replicatedRoots(tables).map((table) => table.name);
  const emptiedRoots = isPartial ? new Set((await lookForEmptied()).roots.map(formatTableName)) : undefined;
  const found = await verifyTables({
    source: work.databases[source],
    target: work.databases[target],
    direction: directionTo(target),
    runId: work.run.runId,
    pass: ofExecution(pass, ref),
    tables: all.filter((name) => emptiedRoots?.has(formatTableName(name)) ?? true),
    isPartial,
    work: await planWork(ref.plan),
    scope,
    parallel: ref.plan.verify.parallel,
    rest: ref.plan.verify.rest,
    mayWork: whileFollowing(from, to, target, work.signal, errors),
    signal: work.signal,
    onProgress: work.report,
  });
  const emptied =
    source === 'blue' && found.differing.some(({ kind }) => kind === 'extra')
      ? (await lookForEmptied()).partitions
      : [];
  const alone = source === 'blue' && !isPartial ? await tablesOfGreen(work, ref, tables) : [];
  return {
    scope: found.scope,
    tables: found.tables,
    rowsVerified: found.rowsVerified,
    differingRows: found.differingRows,
    at: new Date().toISOString(),
    notCompared: firstOf(found.notCompared),
    examples: examplesOf(found.differing),
    ...(emptied.length === 0 ? {} : { emptied: firstPartitions(emptied) }),
    ...(alone.length === 0 ? {} : { onlyOnGreen: firstOf(alone.map(formatTableName)) }),
  };
}

/**
 * A run that was reset gives the names of passes a second time. What the earlier one has found says nothing of the rows of
 * now, so its cursors are not those of this one. Before a reset a name stays as it is: an upgrade begins no pass anew.
 */
function ofExecution(pass: string, ref: RunRef): string {
  const execution = executionId(ref);
  return execution === ref.runId ? pass : `${pass} of ${execution}`;
}

/** Tables of the plan that green alone has. */
async function tablesOfGreen(
  { session, signal }: Work,
  { plan }: RunRef,
  blue: readonly TableInfo[],
): Promise<TableName[]> {
  return onlyOnGreen(blue, await movedTables(await session('green', 'verify', watching(signal, 60_000)), plan));
}

/** Names that go into the history: a table may have a thousand columns. */
const NAMES = 20;

function firstOf(columns: readonly string[]): readonly string[] {
  if (columns.length <= NAMES) return columns;
  return [...columns.slice(0, NAMES), `${columns.length - NAMES} more`];
}

/** A target that is so far behind is left alone until it has caught up: each range would wait for it anyway. */
const MAX_LAG_MS = 5_000;
/** After so long the feed does not lag: it stands. */
const STANDS_AFTER_MS = 600_000;

/** Leave to work as long as the target follows the source. */
function whileFollowing(
  source: Session,
  target: Session,
  side: Side,
  signal: AbortSignal,
  errors?: FeedErrors,
): () => Promise<string | undefined> {
  let behindSince: number | undefined;
  return async () => {
    if (Number.isFinite(await measureLag(source, target, directionTo(side), MAX_LAG_MS, signal))) {
      behindSince = undefined;
      return undefined;
    }
    behindSince ??= performance.now();
    await errors?.refuse();
    if (performance.now() - behindSince < STANDS_AFTER_MS) return `${side} is more than ${MAX_LAG_MS / 1_000} s behind`;
    throw new VerdigrisError({
      type: 'ReplicationStalled',
      message: `verification: ${side} has been behind by more than ${MAX_LAG_MS / 1_000} s for ${STANDS_AFTER_MS / 60_000} minutes`,
      nextStep: `look at pg_stat_subscription and the log of ${side}; verification goes on where it was`,
      retryable: true,
    });
  };
}

/** Lines for the history. A line may be long: a key of text, or the names of a thousand columns. */
function examplesOf(differing: readonly Difference[]): string[] {
  let length = 0;
  return differing.map(describeDifference).filter((line, i) => (length += line.length) <= EXAMPLES_LENGTH || i < NAMED);
}

function describeDifference({ table, key, kind, columns = [] }: Difference): string {
  if (columns.length === 0) return `${table} ${key}: ${kind}`;
  const more = columns.length > NAMED ? ` and ${columns.length - NAMED} more columns` : '';
  return `${table} ${key}: ${kind} (${columns.slice(0, NAMED).join(', ')}${more})`;
}
