import { HAS_DEPENDENTS, sqlState, UNDEFINED_SCHEMA } from '../sqlstate.js';
import type { Session } from '../session.js';
import type { StepContext } from '../migrate/step-context.js';
import { hasState } from '../state.js';
import { shortLocks } from '../migrate/short-locks.js';
import { SCHEMA_STEP, readPreDataState } from './apply-pre-data.js';
import type { StatementState } from './apply-post-data.js';
import type { DatabaseObject } from './created-objects.js';
import { schemaCopyFailed } from './schema-copy-failed.js';
import { restoreSchemaRights } from './schema-rights.js';

/**
 * The compensation of the schema copy: drops on green what this run has written down as made by itself, and what hangs
 * on it; nothing else. A schema in which somebody has made things meanwhile stays. Run again after a crash it goes on
 * with what is left; without anything written down it does nothing.
 *
 * @returns the schemas that stay because they are not empty.
 */
export async function dropCopiedSchema(context: StepContext): Promise<string[]> {
  const { session, runId } = context;
  // A rollback that comes before anything was claimed, or after everything was removed.
  if (!(await hasState(session))) return [];
  const preData = await readPreDataState(session, runId);
  const later = await readLaterStatements(session, runId);
  for (const { undo } of later) if (undo !== null) await takeBack(context, undo);

  const made = [...(preData?.made ?? []), ...later.flatMap((state) => state.made)].sort(inOrderOfDropping);
  const left: string[] = [];
  for (const [i, object] of made.entries()) {
    if (!(await dropObject(context, object))) left.push(object.identity);
    context.onProgress({
      step: 'revert',
      object: object.identity,
      done: i + 1,
      total: made.length,
      rowsPerSecond: 0,
      etaSeconds: null,
    });
  }
  for (const rights of preData?.schemasBefore ?? []) await restoreSchemaRights(session, rights);
  await session.query('DELETE FROM verdigris.progress WHERE run_id = $1 AND step = $2', [runId, SCHEMA_STEP]);
  return left;
}

/** Event triggers first, or they would fire for each drop; extensions and schemas last, when nothing is in them. */
function inOrderOfDropping(a: DatabaseObject, b: DatabaseObject): number {
  return rank(a) - rank(b) || b.objectId - a.objectId;
}

function rank({ type }: DatabaseObject): number {
  if (type === 'event trigger') return 0;
  if (type === 'extension') return 2;
  return type === 'schema' ? 3 : 1;
}

/** Drops an object if it is still there; false when it is a schema that is not empty. */
async function dropObject(context: StepContext, object: DatabaseObject): Promise<boolean> {
  const { session } = context;
  const now = await findObject(session, object);
  if (now === undefined) return true;
  const what = `${DROP_TYPES[now.type] ?? now.type.toUpperCase()} ${now.identity}`;
  const statement = `DROP ${what}${now.type === 'schema' ? '' : ' CASCADE'}`;
  try {
    await shortLocks(context, session, { object: what }, () => session.query(statement));
    return true;
  } catch (error) {
    context.signal.throwIfAborted();
    if (now.type === 'schema' && sqlState(error) === HAS_DEPENDENTS) return false;
    throw schemaCopyFailed(statement, error);
  }
}

/** How DROP calls what pg_identify_object calls otherwise. */
const DROP_TYPES: Readonly<Record<string, string>> = { 'foreign-data wrapper': 'FOREIGN DATA WRAPPER' };

/** The object as it is called now; undefined when it is gone: dropped before, or together with another one. */
async function findObject(session: Session, object: DatabaseObject): Promise<DatabaseObject | undefined> {
  const { rows } = await session.query<{ type: string | null; identity: string | null }>(
    'SELECT type, identity FROM pg_identify_object($1::oid, $2::oid, 0)',
    [object.classId, object.objectId],
  );
  const { type = null, identity = null } = rows[0] ?? {};
  return type === object.type && identity !== null ? { ...object, identity } : undefined;
}

async function takeBack(context: StepContext, undo: string): Promise<void> {
  try {
    await shortLocks(context, context.session, { object: 'default privileges' }, () => context.session.query(undo));
  } catch (error) {
    context.signal.throwIfAborted();
    // It went with its schema, when this was run before.
    if (sqlState(error) !== UNDEFINED_SCHEMA) throw schemaCopyFailed(undo, error);
  }
}

async function readLaterStatements(session: Session, runId: string): Promise<Pick<StatementState, 'made' | 'undo'>[]> {
  const { rows } = await session.query<{ made: DatabaseObject[]; undo: string | null }>(
    `SELECT state -> 'made' AS made, state ->> 'undo' AS undo FROM verdigris.progress
      WHERE run_id = $1 AND step = $2 AND state ? 'undo' ORDER BY updated_at DESC`,
    [runId, SCHEMA_STEP],
  );
  return rows;
}
