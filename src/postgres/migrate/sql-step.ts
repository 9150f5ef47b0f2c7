import { VerdigrisError } from '../../errors.js';
import { isObject, parseStatements, type Statement } from '../../plan/sql-tree.js';
import type { SqlStep } from '../../plan/schema.js';
import type { TableName } from '../../plan/table-name.js';
import { withoutEventTriggersButOthers } from '../event-triggers.js';
import { pastTheFence } from '../fence.js';
import { ident } from '../identifier.js';
import { inTransaction, type Session } from '../session.js';
import { runAsOwnerWhereNeeded } from '../subscription.js';
import { dropIndex } from './index-build.js';
import { findIndex } from './index-definition.js';
import { lockProgress, readProgress, writeProgress, type ProgressKey } from './progress-row.js';
import { aloneWithShortLocks, shortLocks } from './short-locks.js';
import type { StepContext } from './step-context.js';
import { isTransient, passing, stepFailed } from './step-failed.js';

/** Which half of a step is run. */
export type SqlHalf = 'up' | 'down';

export function sqlKey(runId: string, position: number, half: SqlHalf): ProgressKey {
  return { runId, step: half === 'up' ? 'sql' : 'sql-down', object: `migrations[${position}]` };
}

interface SqlState {
  readonly name: string;
  /** Statements that are done. */
  readonly next: number;
  /** The statement outside a transaction that was begun; it may have been done when the worker died. */
  readonly begun: number;
}

/**
 * Runs the SQL of a step: in one transaction with its row in verdigris.progress, which is locked and read first, so it is
 * done once or not at all, whoever else does the step. A text with statements that PostgreSQL refuses in a transaction is
 * run statement by statement.
 *
 * @throws VerdigrisError MigrationStepFailed with PostgreSQL's message.
 */
export async function runSql(context: StepContext, position: number, step: SqlStep, half: SqlHalf): Promise<void> {
  await runOnce(context, position, step, half);
  // Also for a step that an attempt has done which died here.
  if (half === 'up') await runAsOwnerWhereNeeded(context.session, { signal: context.signal });
}

async function runOnce(context: StepContext, position: number, step: SqlStep, half: SqlHalf): Promise<void> {
  const { session } = context;
  const object = `SQL step "${step.name}" (${half})`;
  const key = sqlKey(context.runId, position, half);
  const known = await readProgress<SqlState>(session, key);
  if (known?.done === true) return;
  const statements = await statementsOf(step[half], object);
  const searchPath = await userPath(session);
  const state = known?.state ?? { name: step.name, next: 0, begun: -1 };
  try {
    await withoutEventTriggersButOthers(session, async () => {
      if (statements.some(isOutsideTransaction)) {
        await oneByOne(context, statements, object, searchPath, key, state, half);
        return;
      }
      await shortLocks(context, session, { object, writesRows: true }, async () => {
        if ((await lockProgress(session, key, state)).done) return;
        await runStatements(session, statements, searchPath, half);
        await writeProgress(session, key, { ...state, next: statements.length }, true);
      });
    });
  } catch (error) {
    if (context.signal.aborted || isTransient(error)) throw passing(`${object} failed`, error);
    throw stepFailed(`${object} failed`, error, 'correct it in the plan and start again');
  }
  report(context, object, statements.length, statements.length);
}

async function oneByOne(
  context: StepContext,
  statements: readonly Statement[],
  object: string,
  searchPath: string,
  key: ProgressKey,
  from: SqlState,
  half: SqlHalf,
): Promise<void> {
  const { session } = context;
  let state = from;
  for (const [i, statement] of statements.entries()) {
    if (i < state.next) continue;
    report(context, object, i, statements.length);
    const last = i === statements.length - 1;
    // In a transaction. Another attempt may have done the statement since, and more.
    const unlessDone = async (then: Partial<SqlState>, work?: (now: SqlState) => Promise<void>): Promise<SqlState> => {
      const { state: now } = await lockProgress(session, key, from);
      if (now.next > i) return now;
      await work?.(now);
      const after = { ...now, ...then };
      await writeProgress(session, key, after, last && after.next > i);
      return after;
    };
    const done = { next: i + 1 };
    if (isOutsideTransaction(statement)) {
      let begunBefore = false;
      state = await inTransaction(session, () =>
        unlessDone({ begun: i }, ({ begun }) => {
          begunBefore = begun === i;
          return Promise.resolve();
        }),
      );
      if (state.next > i) continue;
      await outsideTransaction(context, object, statement, searchPath, begunBefore);
      state = await inTransaction(session, () => unlessDone(done));
    } else {
      state = await shortLocks(context, session, { object, writesRows: true }, () =>
        unlessDone(done, () => runStatements(session, [statement], searchPath, half)),
      );
    }
  }
}

/**
 * Statements of a step, in the transaction that is open on the session, and its path afterwards as it is without a
 * step. A `down` is run on a green that may be fenced already, and may change rows of what it takes away.
 */
async function runStatements(
  session: Session,
  statements: readonly Statement[],
  searchPath: string,
  half: SqlHalf,
): Promise<void> {
  const work = async (): Promise<void> => {
    for (const { text } of statements) await session.query(text);
  };
  await session.query(`SELECT set_config('search_path', $1, true)`, [searchPath]);
  await (half === 'down' ? pastTheFence(session, work) : work());
  await session.query(`SELECT set_config('search_path', 'pg_catalog', true)`);
}

async function outsideTransaction(
  context: StepContext,
  object: string,
  statement: Statement,
  searchPath: string,
  begunBefore: boolean,
): Promise<void> {
  const { session } = context;
  if (begunBefore && (await alreadyDone(context, statement, searchPath))) return;
  const builds = 'IndexStmt' in statement.node || 'ReindexStmt' in statement.node;
  const before = builds ? await invalidIndexes(session) : undefined;
  const patience = isConcurrent(statement) ? 'patient' : 'brief';
  await aloneWithShortLocks(
    context,
    session,
    {
      object,
      searchPath,
      patience,
      writesRows: true,
      ...(before === undefined ? {} : { afterFailure: () => dropLeftovers(context, before) }),
    },
    () => session.query(statement.text),
  );
}

/** INVALID indexes by oid, without those that somebody is building. */
async function invalidIndexes(session: Session): Promise<Map<number, TableName>> {
  const { rows } = await session.query<TableName & { oid: number }>(
    `SELECT c.oid::int8::float8 AS oid, n.nspname AS schema, c.relname AS name
       FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE NOT i.indisvalid AND c.relkind = 'i'
        AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index p WHERE p.index_relid = c.oid)`,
  );
  return new Map(rows.map(({ oid, schema, name }) => [oid, { schema, name }]));
}

/** What CREATE INDEX and REINDEX CONCURRENTLY leave when they are stopped: a unique one would still refuse rows. */
async function dropLeftovers(context: StepContext, before: ReadonlyMap<number, TableName>): Promise<void> {
  if (context.signal.aborted) return;
  for (const [oid, { schema, name }] of await invalidIndexes(context.session)) {
    if (!before.has(oid)) await dropIndex(context, context.session, schema, name);
  }
}

/** What became of an index statement in whose middle a worker died. An index that was not finished is removed. */
async function alreadyDone(context: StepContext, statement: Statement, searchPath: string): Promise<boolean> {
  const node = 'IndexStmt' in statement.node ? statement.node.IndexStmt : undefined;
  if (node?.idxname === undefined || node.relation?.relname === undefined) return false;
  const { schemaname, relname } = node.relation;
  const schema = await inTransaction(context.session, async () => {
    await context.session.query(`SELECT set_config('search_path', $1, true)`, [searchPath]);
    const { rows } = await context.session.query<{ schema: string }>(
      `SELECT n.nspname AS schema FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass($1)`,
      [schemaname === undefined ? ident(relname) : `${ident(schemaname)}.${ident(relname)}`],
    );
    return rows[0]?.schema;
  });
  const found = schema === undefined ? undefined : await findIndex(context.session, schema, node.idxname);
  if (schema === undefined || found === undefined) return false;
  if (!found.valid) await dropIndex(context, context.session, schema, node.idxname);
  return found.valid;
}

async function statementsOf(text: string, object: string): Promise<Statement[]> {
  let statements: Statement[];
  try {
    statements = await parseStatements(text);
  } catch (error) {
    throw stepFailed(`${object} is not SQL`, error, 'correct it in the plan');
  }
  if (!statements.some(({ node }) => 'TransactionStmt' in node)) return statements;
  throw new VerdigrisError({
    type: 'MigrationStepFailed',
    message: `${object} begins or ends a transaction itself`,
    nextStep: 'leave BEGIN, COMMIT and ROLLBACK out: the step is run in one transaction',
  });
}

/** Statements that PostgreSQL refuses inside a transaction block. */
export function isOutsideTransaction(statement: Statement): boolean {
  const [type, fields] = Object.entries(statement.node)[0] ?? [];
  if (!isObject(fields)) return false;
  if (type === 'VacuumStmt') return fields['is_vacuumcmd'] === true;
  if (isConcurrent(statement)) return true;
  return (
    type === 'AlterSystemStmt' || type === 'CreatedbStmt' || type === 'DropdbStmt' || type === 'CreateTableSpaceStmt'
  );
}

/** Waits in its middle for transactions of others, and begins anew when that is cut short. */
function isConcurrent({ node }: Statement): boolean {
  const [type, fields] = Object.entries(node)[0] ?? [];
  if (!isObject(fields)) return false;
  if (type === 'IndexStmt' || type === 'DropStmt') return fields['concurrent'] === true;
  return (type === 'ReindexStmt' || type === 'AlterTableStmt') && /"concurrent(ly)?"/.test(JSON.stringify(fields));
}

/** Where the role's own sessions look for names: ours have another path, and the step was written for theirs. */
async function userPath(session: Session): Promise<string> {
  const { rows } = await session.query<{ path: string }>(
    `SELECT reset_val AS path FROM pg_settings WHERE name = 'search_path'`,
  );
  return rows[0]?.path ?? '"$user", public';
}

function report(context: StepContext, object: string, done: number, total: number): void {
  context.onProgress({ step: 'sql', object, done, total, rowsPerSecond: 0, etaSeconds: null });
}
