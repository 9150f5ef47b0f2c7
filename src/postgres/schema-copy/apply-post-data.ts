import { createHash } from 'node:crypto';
import { shortLocks } from '../migrate/short-locks.js';
import { writeProgress } from '../migrate/progress-row.js';
import type { StepContext } from '../migrate/step-context.js';
import { SCHEMA_STEP } from './apply-pre-data.js';
import { withoutThoseOfPlan } from './constraints-of-plan.js';
import { objectsMade, readUserObjects, type DatabaseObject } from './created-objects.js';
import { describeStatement, schemaCopyFailed } from './schema-copy-failed.js';
import type { SchemaStatements } from './schema-statements.js';

/*
 * The statements after the rows. Each one runs in a transaction of its own that also writes down that it was run: a
 * second run, after a crash at any point, skips exactly what is done. Rows in verdigris.progress are named after the
 * group and a digest of the statement, so they outlive a new dump.
 */

/** What is written down beside each statement that was run. */
export interface StatementState {
  readonly statement: string;
  /** Objects that no table takes along when it is dropped. */
  readonly made: readonly DatabaseObject[];
  /** What takes it back, where dropping an object does not; null otherwise. */
  readonly undo: string | null;
}

/** Triggers, rules, policies, statistics, comments, default privileges; checks that no step of the plan has made. */
export async function applyRest(
  context: StepContext,
  { rest, checks }: Pick<SchemaStatements, 'rest' | 'checks'>,
): Promise<void> {
  const missing = await withoutThoseOfPlan(context, checks);
  const left = new Set(checks.filter((check) => !missing.includes(check)).map(({ add }) => add));
  await applyStatements(
    context,
    'rest',
    rest.filter((statement) => !left.has(statement)),
  );
}

/** Runs the statements of a group that this run has not run yet, in their order. */
export async function applyStatements(
  context: StepContext,
  group: string,
  statements: readonly string[],
): Promise<void> {
  const applied = await readApplied(context);
  for (const [i, statement] of statements.entries()) {
    await applyOnce(context, applied, group, statement);
    context.onProgress({
      step: SCHEMA_STEP,
      object: group,
      done: i + 1,
      total: statements.length,
      rowsPerSecond: 0,
      etaSeconds: null,
    });
  }
}

/**
 * Runs a statement and writes that down, in one transaction, unless this run has done it before.
 *
 * @param instead another statement to the same end, where there is a shorter way
 */
export async function applyOnce(
  context: StepContext,
  applied: ReadonlySet<string>,
  group: string,
  statement: string,
  instead: string = statement,
): Promise<void> {
  const { session, runId } = context;
  const object = objectOf(group, statement);
  if (wasApplied(applied, group, statement)) return;
  const what = describeStatement(statement);
  try {
    await shortLocks(context, session, { object: what, searchPath: '' }, async () => {
      const watched = MAKES_ITS_OWN.test(statement);
      const before = watched ? await readUserObjects(session) : [];
      await session.query(`SELECT set_config('check_function_bodies', 'off', true)`);
      await session.query(instead);
      const made = watched ? objectsMade(before, await readUserObjects(session)) : [];
      const state: StatementState = { statement: what, made, undo: undoOf(statement) };
      await writeProgress(session, { runId, step: SCHEMA_STEP, object }, state, true);
    });
  } catch (error) {
    context.signal.throwIfAborted();
    throw schemaCopyFailed(statement, error);
  }
}

/** Statements after the rows that make something which is not part of a table. */
const MAKES_ITS_OWN = /^CREATE (EVENT TRIGGER|MATERIALIZED VIEW|(OR REPLACE )?(VIEW|FUNCTION|PROCEDURE))\b/;

/** Default privileges belong to no object: a grant is taken back by its revoke, and the other way round. */
function undoOf(statement: string): string | null {
  const match =
    /^(ALTER DEFAULT PRIVILEGES .*?)(GRANT|REVOKE) (.+? ON \w+)\s+(?:TO|FROM) (.+?)(?: WITH GRANT OPTION)?$/s.exec(
      statement,
    );
  if (match === null) return null;
  const [, head = '', verb, what = '', whom = ''] = match;
  return verb === 'GRANT' ? `${head}REVOKE ${what} FROM ${whom}` : `${head}GRANT ${what} TO ${whom}`;
}

/** The same statement has the same name in every run: pg_dump writes a given object in one way only. */
function objectOf(group: string, statement: string): string {
  return `${group} ${createHash('sha256').update(statement).digest('hex').slice(0, 16)}`;
}

/** Whether this run has run a statement of a group. */
export function wasApplied(applied: ReadonlySet<string>, group: string, statement: string): boolean {
  return applied.has(objectOf(group, statement));
}

/** What this run has run already: names of rows in verdigris.progress. */
export async function readApplied({ session, runId }: StepContext): Promise<ReadonlySet<string>> {
  const { rows } = await session.query<{ object: string }>(
    'SELECT object FROM verdigris.progress WHERE run_id = $1 AND step = $2 AND done',
    [runId, SCHEMA_STEP],
  );
  return new Set(rows.map((row) => row.object));
}
