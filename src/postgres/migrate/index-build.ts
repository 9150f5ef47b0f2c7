import { setTimeout as sleep } from 'node:timers/promises';
import { VerdigrisError } from '../../errors.js';
import type { CreateIndex } from '../../plan/schema.js';
import { formatTableName, type TableName } from '../../plan/table-name.js';
import type { TableInfo } from '../catalog.js';
import { ident } from '../identifier.js';
import { closeSession, type Session } from '../session.js';
import { sqlState } from '../sqlstate.js';
import { createIndexSql, findIndex, type FoundIndex } from './index-definition.js';
import { watchBuild } from './index-watch.js';
import { backendPid, cancellable, type StepContext } from './step-context.js';
import { stepFailed } from './step-failed.js';

/** One CREATE INDEX CONCURRENTLY. */
export interface Build {
  /** The table of the plan; its columns are those of every leaf. */
  readonly table: TableInfo;
  readonly index: CreateIndex;
  /** Where it is built: the table, or a leaf of it. */
  readonly on: TableInfo;
  readonly name: string;
  readonly shape: string | undefined;
  readonly searchPath: string;
}

/** A build that holds up the application is cancelled and tried again so often. */
const MAX_TRIES = 5;

/**
 * Builds one index concurrently, unless it is there. An INVALID leftover is dropped and built again; a build that
 * another session still runs (its worker died, the server did not) is waited for.
 */
export async function buildConcurrently(context: StepContext, build: Build): Promise<'built' | 'there'> {
  const session = await context.connect(`index ${build.name}`);
  try {
    // The locks of CONCURRENTLY stop neither reads nor writes, so it may wait for them as long as it takes.
    await session.query(`SELECT set_config('lock_timeout', '0', false), set_config('search_path', $1, false)`, [
      build.searchPath,
    ]);
    for (let attempt = 1; ; attempt++) {
      if (await isThere(context, session, build)) return attempt === 1 ? 'there' : 'built';
      try {
        await createWatched(context, session, build);
        return 'built';
      } catch (error) {
        await afterFailure(context, session, build, error, attempt);
      }
    }
  } finally {
    await closeSession(session);
  }
}

/** Looks at what is there under the name, and clears away what is not usable. */
async function isThere(context: StepContext, session: Session, build: Build): Promise<boolean> {
  for (;;) {
    context.signal.throwIfAborted();
    const found = await findIndex(session, build.on.name.schema, build.name);
    if (found === undefined) return false;
    if (found.valid) {
      refuseAnother(build.name, build.on.name, found, build.on.oid, build.shape);
      return true;
    }
    if (!(await isBeingBuilt(session, found.oid))) {
      await dropIndex(context, session, build.on.name.schema, build.name);
      return false;
    }
    progress(context, build, 'another session builds it: waits for it');
    await sleep(500, undefined, { signal: context.signal });
  }
}

/** @throws VerdigrisError MigrationStepFailed when the name is taken by an index that is not the plan's. */
export function refuseAnother(
  name: string,
  table: TableName,
  found: FoundIndex,
  tableOid: number,
  shape: string | undefined,
): void {
  if (found.table === tableOid && (shape === undefined || found.shape === shape)) return;
  throw new VerdigrisError({
    type: 'MigrationStepFailed',
    message: `there is an index "${name}" already, and it is not what the plan says of table ${formatTableName(table)}`,
    nextStep: 'give the new index another name in the plan',
  });
}

async function createWatched(context: StepContext, session: Session, build: Build): Promise<void> {
  const sql = createIndexSql(build.table, build.index, { table: build.on.name, name: build.name }, 'concurrently');
  const over = new AbortController();
  const watching = watchBuild(context, backendPid(session), build, over.signal);
  try {
    await cancellable(context, session, () => session.query(sql));
  } finally {
    over.abort();
    await watching;
  }
}

/** What is left of a failed build goes at once: an INVALID unique index still refuses rows, and would stop the feed. */
async function afterFailure(
  context: StepContext,
  session: Session,
  build: Build,
  error: unknown,
  attempt: number,
): Promise<void> {
  context.signal.throwIfAborted();
  const state = sqlState(error);
  const found = await findIndex(session, build.on.name.schema, build.name);
  if (found !== undefined && !found.valid && !(await isBeingBuilt(session, found.oid))) {
    await dropIndex(context, session, build.on.name.schema, build.name);
  }
  // 57014: the watcher cancelled it; 40P01, 55P03: lost a race; 42P07: another session was faster.
  if (['57014', '40P01', '55P03', '42P07'].includes(state ?? '') && attempt < MAX_TRIES) {
    await sleep(1_000 + Math.random() * 2_000, undefined, { signal: context.signal });
    return;
  }
  const what = `index "${build.name}" on table ${formatTableName(build.on.name)}`;
  if (state === '23505') throw duplicates(build, what, error);
  if (state === '57014') {
    throw stepFailed(
      `${what} was given up ${MAX_TRIES} times, since it held up other sessions`,
      error,
      'run it at a quieter time',
    );
  }
  throw stepFailed(`${what} can't be built`, error, 'correct it in the plan; what was begun of it has been removed');
}

function duplicates(build: Build, what: string, cause: unknown): VerdigrisError {
  const columns = build.index.columns.join(', ');
  const where = build.index.where === undefined ? '' : ` WHERE ${build.index.where}`;
  return new VerdigrisError({
    type: 'MigrationStepFailed',
    message: `unique ${what} can't be built: several rows have the same value of ${columns}`,
    nextStep: `find them by SELECT ${columns}, count(*) FROM ${formatTableName(build.on.name)}${where} GROUP BY ${build.index.columns.map((_, i) => i + 1).join(', ')} HAVING count(*) > 1, correct them on blue and start again`,
    cause,
  });
}

export async function dropIndex(context: StepContext, session: Session, schema: string, name: string): Promise<void> {
  await cancellable(context, session, () =>
    session.query(`DROP INDEX CONCURRENTLY IF EXISTS ${ident(schema)}.${ident(name)}`),
  );
}

async function isBeingBuilt(session: Session, index: number): Promise<boolean> {
  const { rowCount } = await session.query(
    'SELECT FROM pg_stat_progress_create_index WHERE index_relid = $1::oid AND pid <> pg_backend_pid()',
    [index],
  );
  return rowCount !== 0;
}

function progress(context: StepContext, build: Build, note: string): void {
  context.onProgress({
    step: 'index',
    object: build.name,
    done: 0,
    total: 0,
    rowsPerSecond: 0,
    etaSeconds: null,
    note,
  });
}
