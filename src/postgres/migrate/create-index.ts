import { VerdigrisError } from '../../errors.js';
import { formatTableName, type TableName } from '../../plan/table-name.js';
import type { CreateIndex } from '../../plan/schema.js';
import type { TableInfo } from '../catalog.js';
import { ident, qualified } from '../identifier.js';
import { isOffline } from '../offline.js';
import { partitionTree } from '../partition-tree.js';
import { byTable } from '../schema-copy/by-table.js';
import { closeSession, type Session } from '../session.js';
import { readTable, type ChangedTable } from './changed-table.js';
import { buildIndex, type Build } from './index-build.js';
import { createIndexSql, findIndex, leafIndexName, refuseAnother, shapeOf } from './index-definition.js';
import { longestFirst, SharedGreen, sizedBuild, type SizedBuild } from './index-effort.js';
import { inLanes } from './index-lanes.js';
import { planIndexFailed, TRIED_AGAIN } from './index-failed.js';
import { DEFAULT_INDEX_SETTINGS, whileOffline, type IndexSettings } from './index-settings.js';
import type { IndexWork } from './plan-work.js';
import { readProgress, writeProgress, type ProgressKey } from './progress-row.js';
import { shortLocks } from './short-locks.js';
import type { StepContext } from './step-context.js';
import { isTransient, passing, stepFailed } from './step-failed.js';

/** What a run writes down before it makes an index: only such indexes are dropped by its rollback. */
export function indexKey(runId: string, table: TableName, name: string): ProgressKey {
  return { runId, step: 'createIndex', object: `${formatTableName(table)} ${name}` };
}

export interface IndexState {
  /** False when the index was there before the run. */
  readonly ours: boolean;
}

/**
 * Builds indexes, several at a time, the longest first: in one pass while nobody writes green's tables, else
 * CONCURRENTLY. Concurrent builds on one table follow each other: each holds the lock that the next one needs, and two
 * of them would wait for each other's snapshot; plain ones run side by side. A partitioned table gets its index on every
 * leaf, then on itself.
 *
 * @throws VerdigrisError MigrationStepFailed; the other builds of the step are ended in order first.
 */
export async function createIndexes(
  context: StepContext,
  indexes: readonly IndexWork[],
  settings: IndexSettings = DEFAULT_INDEX_SETTINGS,
): Promise<void> {
  const session = await context.connect('prepare indexes');
  try {
    await context.join?.(session);
    let left = indexes;
    for (let round = 1; left.length > 0; round++) {
      if (round > ROUNDS) throw stillInvalid(left);
      const planned = await plannedBuilds(context, session, left);
      await build(context, session, planned, settings);
      left = await lackingLeaves(session, planned);
    }
    for (const { table, index } of indexes) await finished(session, context, table, index);
  } finally {
    await closeSession(session);
  }
}

/**
 * A partition that comes while the others' indexes are built gets none, and the index of its table stays invalid. From the
 * first round on the table has one, and a new partition gets its own by itself.
 */
const ROUNDS = 3;

async function build(
  context: StepContext,
  session: Session,
  planned: readonly PlannedIndex[],
  settings: IndexSettings,
): Promise<void> {
  const builds = longestFirst(planned.flatMap(({ builds: own }) => own));
  if (await isOffline(session)) {
    const green = new SharedGreen(builds, whileOffline(settings));
    await inLanes(context, 'index', green.settings, builds, (lane, one) => green.build(lane, one));
  } else {
    await inLanes(context, 'index', settings, byTable(builds), async (lane, piece) => {
      for (const one of piece) await buildIndex(lane, one, settings);
    });
  }
  for (const { changed, work } of planned) {
    if (changed.info.kind === 'partitioned') await attachLeaves(context, session, changed, work.index);
  }
}

/** Those of partitioned tables that are not valid, since a partition has none of it yet. */
async function lackingLeaves(session: Session, planned: readonly PlannedIndex[]): Promise<IndexWork[]> {
  const lacking: IndexWork[] = [];
  for (const { changed, work } of planned) {
    if (changed.info.kind !== 'partitioned') continue;
    const found = await findIndex(session, work.table.schema, work.index.name);
    if (found?.valid !== true) lacking.push(work);
  }
  return lacking;
}

function stillInvalid(left: readonly IndexWork[]): VerdigrisError {
  const names = left.map(({ table, index }) => `"${index.name}" of table ${formatTableName(table)}`).join(', ');
  return new VerdigrisError({
    type: 'MigrationStepFailed',
    message: `the index ${names} is not valid yet: a partition has come without its part of it, or its part is not valid`,
    nextStep: TRIED_AGAIN,
    retryable: true,
  });
}

/**
 * The builds of indexes of the plan, for whoever makes them before their step comes: it finds them there then.
 *
 * @throws VerdigrisError MigrationStepFailed
 */
export async function buildsAhead(context: StepContext, indexes: readonly IndexWork[]): Promise<SizedBuild[]> {
  const session = await context.connect('prepare indexes');
  try {
    await context.join?.(session);
    return (await plannedBuilds(context, session, indexes)).flatMap(({ builds }) => builds);
  } finally {
    await closeSession(session);
  }
}

/** An index of the plan, with its table and what is built for it: on each leaf, where that is partitioned. */
interface PlannedIndex {
  readonly work: IndexWork;
  readonly changed: ChangedTable;
  readonly builds: readonly SizedBuild[];
}

async function plannedBuilds(
  context: StepContext,
  session: Session,
  indexes: readonly IndexWork[],
): Promise<PlannedIndex[]> {
  const planned: PlannedIndex[] = [];
  for (const work of indexes) {
    const { table, index } = work;
    const changed = await readTable(context.session, table);
    await claim(session, context.runId, changed, index);
    planned.push({ work, changed, builds: await buildsOf(session, changed, index) });
  }
  return planned;
}

/** Written down before the build: a worker that dies in it leaves an index that the rollback knows as ours. */
async function claim(session: Session, runId: string, table: ChangedTable, index: CreateIndex): Promise<void> {
  const key = indexKey(runId, table.info.name, index.name);
  if ((await readProgress(session, key)) !== undefined) return;
  const found = await findIndex(session, table.info.name.schema, index.name);
  const state: IndexState = { ours: found === undefined };
  await writeProgress(session, key, state, false);
}

async function finished(session: Session, context: StepContext, table: TableName, index: CreateIndex): Promise<void> {
  const key = indexKey(context.runId, table, index.name);
  const state = (await readProgress<IndexState>(session, key))?.state ?? { ours: false };
  await writeProgress(session, key, state, true);
  context.onProgress({ step: 'index', object: index.name, done: 1, total: 1, rowsPerSecond: 0, etaSeconds: 0 });
}

async function buildsOf(
  session: Session,
  { info, leaves, searchPath }: ChangedTable,
  index: CreateIndex,
): Promise<SizedBuild[]> {
  await session.query(`SELECT set_config('search_path', $1, false)`, [searchPath]);
  let shape: string | undefined;
  try {
    shape = await shapeOf(session, info, index);
  } catch (error) {
    const what = `index "${index.name}" on table ${formatTableName(info.name)} is refused by PostgreSQL`;
    if (isTransient(error)) throw passing(what, error);
    throw stepFailed(what, error, 'correct it in the plan');
  }
  let covered: ReadonlySet<number> = new Set();
  if (info.kind === 'partitioned') {
    const there = await findIndex(session, info.name.schema, index.name);
    if (there !== undefined) refuseAnother(index.name, info.name, there, info.oid, shape);
    if (there?.valid === true) return [];
    if (there !== undefined) covered = await tablesOf(session, there.oid);
  }
  const named = (on: TableInfo): string =>
    info.kind === 'partitioned' ? leafIndexName(index.name, on.name) : index.name;
  const builds: SizedBuild[] = [];
  for (const on of leaves.filter(({ oid }) => !covered.has(oid))) {
    const build = planBuild({ info, on, index, name: named(on), shape, searchPath });
    builds.push(sizedBuild(build, index.method, await bytesOf(session, on.oid)));
  }
  return builds;
}

/** The tables that have their part of a partitioned index: built before, or made with them. */
async function tablesOf(session: Session, index: number): Promise<ReadonlySet<number>> {
  const { rows } = await session.query<{ oid: number }>(
    `SELECT i.indrelid::int8::float8 AS oid
       FROM pg_partition_tree($1::oid) t JOIN pg_index i ON i.indexrelid = t.relid WHERE i.indisvalid OR NOT t.isleaf`,
    [index],
  );
  return new Set(rows.map(({ oid }) => oid));
}

/** What is built where, for an index of the plan. */
interface PlanBuild {
  /** The table of the plan; its columns are those of every leaf. */
  readonly info: TableInfo;
  /** Where it is built: the table, or a leaf of it. */
  readonly on: TableInfo;
  readonly index: CreateIndex;
  readonly name: string;
  readonly shape: string | undefined;
  readonly searchPath: string;
}

/** The build of an index that the plan describes. */
export function planBuild({ info, on, index, name, shape, searchPath }: PlanBuild): Build {
  return {
    table: on.name,
    name,
    object: name,
    searchPath,
    sql: (how) => createIndexSql(info, index, { table: on.name, name }, how),
    accept: (found) => refuseAnother(name, on.name, found, on.oid, shape),
    failed: planIndexFailed(
      on.name,
      name,
      index,
      info.columns.map((column) => column.name),
    ),
  };
}

/** Not from pg_class: after a copy of the rows nobody has counted its pages yet. */
async function bytesOf(session: Session, table: number): Promise<number> {
  const { rows } = await session.query<{ bytes: string | null }>('SELECT pg_relation_size($1::oid) AS bytes', [table]);
  return Number(rows[0]?.bytes ?? 0);
}

/**
 * Makes the index of a partitioned table from those of its leaves: an empty one at each level, to which the ones below
 * are attached. The topmost becomes valid with the last of them.
 */
async function attachLeaves(
  context: StepContext,
  session: Session,
  { info, searchPath }: ChangedTable,
  index: CreateIndex,
): Promise<void> {
  const root = await findIndex(session, info.name.schema, index.name);
  const covered = root === undefined ? new Set<number>() : await tablesOf(session, root.oid);
  const { rows } = await session.query<Level>(
    `SELECT t.relid::oid::int8::float8 AS oid, n.nspname AS schema, c.relname AS name, t.isleaf AS "isLeaf",
            pn.nspname AS "parentSchema", p.relname AS "parentName"
       FROM ${partitionTree('$1::regclass')} t
       JOIN pg_class c ON c.oid = t.relid JOIN pg_namespace n ON n.oid = c.relnamespace
       LEFT JOIN pg_class p ON p.oid = t.parentrelid LEFT JOIN pg_namespace pn ON pn.oid = p.relnamespace
      ORDER BY t.level, 1, 2`,
    [qualified(info.name)],
  );
  const nameOn = (table: TableName): string =>
    table.schema === info.name.schema && table.name === info.name.name ? index.name : leafIndexName(index.name, table);
  const object = `index "${index.name}" on table ${formatTableName(info.name)}`;
  for (const level of rows.filter(({ isLeaf, oid }) => !isLeaf && !covered.has(oid))) {
    if ((await findIndex(session, level.schema, nameOn(level))) !== undefined) continue;
    const sql = createIndexSql(info, index, { table: level, name: nameOn(level) }, 'only');
    await shortLocks(context, session, { object, searchPath }, () => session.query(sql));
  }
  for (const level of [...rows].reverse()) {
    if (level.parentSchema === null || level.parentName === null) continue;
    const own = await findIndex(session, level.schema, nameOn(level));
    if (own === undefined || own.parent !== null) continue;
    const parent = { schema: level.parentSchema, name: level.parentName };
    await shortLocks(context, session, { object, searchPath }, () =>
      session.query(
        `ALTER INDEX ${ident(parent.schema)}.${ident(nameOn(parent))} ATTACH PARTITION ${ident(level.schema)}.${ident(nameOn(level))}`,
      ),
    );
  }
}

interface Level extends TableName {
  readonly oid: number;
  readonly isLeaf: boolean;
  readonly parentSchema: string | null;
  readonly parentName: string | null;
}
