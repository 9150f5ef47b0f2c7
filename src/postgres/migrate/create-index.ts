import PQueue from 'p-queue';
import { formatTableName, type TableName } from '../../plan/table-name.js';
import type { CreateIndex } from '../../plan/schema.js';
import { ident, qualified } from '../identifier.js';
import { closeSession, type Session } from '../session.js';
import { readTable, type ChangedTable } from './changed-table.js';
import { buildConcurrently, refuseAnother, type Build } from './index-build.js';
import { createIndexSql, findIndex, leafIndexName, shapeOf } from './index-definition.js';
import type { IndexWork } from './plan-work.js';
import { readProgress, writeProgress, type ProgressKey } from './progress-row.js';
import { shortLocks } from './short-locks.js';
import type { StepContext } from './step-context.js';
import { isTransient, stepFailed } from './step-failed.js';

/** How many indexes are built at once, each on a session of its own. */
const PARALLEL_BUILDS = 2;

/** What a run writes down before it makes an index: only such indexes are dropped by its rollback. */
export function indexKey(runId: string, table: TableName, name: string): ProgressKey {
  return { runId, step: 'createIndex', object: `${formatTableName(table)} ${name}` };
}

export interface IndexState {
  /** False when the index was there before the run. */
  readonly ours: boolean;
}

/**
 * Builds indexes CONCURRENTLY, several at a time. Builds on one table follow each other: each holds the lock that the
 * next one needs, and two of them would wait for each other's snapshot. A partitioned table gets its index on every
 * leaf, then on itself.
 *
 * @throws VerdigrisError MigrationStepFailed; the other builds of the step are ended in order first.
 */
export async function createIndexes(
  context: StepContext,
  indexes: readonly IndexWork[],
  parallel = PARALLEL_BUILDS,
): Promise<void> {
  const session = await context.connect('prepare indexes');
  const stop = new AbortController();
  const signal = AbortSignal.any([context.signal, stop.signal]);
  try {
    const queue = new PQueue({ concurrency: parallel });
    const lanes = new Map<number, Build[]>();
    const finish: (() => Promise<void>)[] = [];
    for (const { table, index } of indexes) {
      const changed = await readTable(context.session, table);
      await claim(session, context.runId, changed, index);
      const builds = await buildsOf(context, session, changed, index);
      for (const build of builds) lanes.set(build.on.oid, [...(lanes.get(build.on.oid) ?? []), build]);
      if (changed.info.kind === 'partitioned') finish.push(() => attachLeaves(context, session, changed, index));
    }
    const outcomes = await Promise.allSettled(
      [...lanes.values()].map((lane) =>
        queue
          .add(async () => {
            for (const build of lane) await buildConcurrently({ ...context, signal }, build);
          })
          .catch((error: unknown) => {
            // The first failure decides; what still runs is ended and left for the next try to clear away.
            stop.abort(error);
            throw error;
          }),
      ),
    );
    context.signal.throwIfAborted();
    if (outcomes.some(({ status }) => status === 'rejected')) throw stop.signal.reason;
    for (const step of finish) await step();
    for (const { table, index } of indexes) await finished(session, context, table, index);
  } finally {
    await closeSession(session);
  }
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
  context: StepContext,
  session: Session,
  { info, leaves, searchPath }: ChangedTable,
  index: CreateIndex,
): Promise<Build[]> {
  await session.query(`SELECT set_config('search_path', $1, false)`, [searchPath]);
  let shape: string | undefined;
  try {
    shape = await shapeOf(session, info, index);
  } catch (error) {
    if (isTransient(error)) throw error;
    throw stepFailed(
      `index "${index.name}" on table ${formatTableName(info.name)} is refused by PostgreSQL`,
      error,
      'correct it in the plan',
    );
  }
  const common = { table: info, index, shape, searchPath };
  if (info.kind !== 'partitioned') return [{ ...common, on: info, name: index.name }];
  const there = await findIndex(session, info.name.schema, index.name);
  if (there !== undefined) refuseAnother(index.name, info.name, there, info.oid, shape);
  if (there?.valid === true) return [];
  return leaves.map((leaf) => ({ ...common, on: leaf, name: leafIndexName(index.name, leaf.name) }));
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
  const { rows } = await session.query<Level>(
    `SELECT n.nspname AS schema, c.relname AS name, t.isleaf AS "isLeaf",
            pn.nspname AS "parentSchema", p.relname AS "parentName"
       FROM pg_partition_tree($1::regclass) t
       JOIN pg_class c ON c.oid = t.relid JOIN pg_namespace n ON n.oid = c.relnamespace
       LEFT JOIN pg_class p ON p.oid = t.parentrelid AND t.level > 0 LEFT JOIN pg_namespace pn ON pn.oid = p.relnamespace
      ORDER BY t.level, 1, 2`,
    [qualified(info.name)],
  );
  const nameOn = (table: TableName): string =>
    table.schema === info.name.schema && table.name === info.name.name ? index.name : leafIndexName(index.name, table);
  const object = `index "${index.name}" on table ${formatTableName(info.name)}`;
  for (const level of rows.filter(({ isLeaf }) => !isLeaf)) {
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
  readonly isLeaf: boolean;
  readonly parentSchema: string | null;
  readonly parentName: string | null;
}
