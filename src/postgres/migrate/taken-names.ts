import type { AddConstraint, CreateIndex } from '../../plan/schema.js';
import { formatTableName, type TableName } from '../../plan/table-name.js';
import { sameTable, type TableInfo } from '../catalog.js';
import { qualified } from '../identifier.js';
import type { Session } from '../session.js';
import { isConnectionLost, sqlState, UNDEFINED_COLUMN } from '../sqlstate.js';
import { expressionPath } from './changed-table.js';
import { foreignKeyDefinition, withoutNotValid } from './constraint-definition.js';
import { findIndex, shapeOf } from './index-definition.js';
import type { Mistake, TrialInput } from './plan-trial.js';
import type { Step } from './plan-work.js';

/**
 * Names of the plan's indexes and constraints that something else has: on the server, or on blue, whose indexes and
 * foreign keys come to green with the rows. What may be just what the plan says is left to the step itself.
 */
export async function takenNames(
  input: Pick<TrialInput, 'session' | 'blue' | 'moved'>,
  steps: readonly Step[],
): Promise<Mistake[]> {
  const mistakes: Mistake[] = [];
  const say = (object: string, table: TableName, by: string | undefined): void => {
    if (by === undefined) return;
    mistakes.push({
      object: `${object} on table ${formatTableName(table)}`,
      message: `the name is taken: ${by}; give it another name`,
    });
  };
  for (const step of steps) {
    if (step.kind === 'indexes') {
      for (const { table, index } of step.indexes) {
        say(`index "${index.name}"`, table, await holderOfIndexName(input, table, index.name, index));
      }
    } else if (step.kind === 'constraint') {
      const { table, constraint } = step;
      say(`constraint "${constraint.name}"`, table, await holderOfConstraintName(input, table, constraint));
    }
  }
  return mistakes;
}

interface FoundRelation {
  /** Of an index: the table that it is on. */
  readonly on: TableName | null;
  /** Of an index: its method, whether it is unique, the number of its key columns and of all of them. */
  readonly shape: readonly [string, boolean, number, number] | null;
}

/** @param index what the plan makes by the name; undefined for the index of a key, which must not be there */
async function holderOfIndexName(
  { session, blue, moved }: Pick<TrialInput, 'session' | 'blue' | 'moved'>,
  table: TableName,
  name: string,
  index: CreateIndex | undefined,
): Promise<string | undefined> {
  const here = await findRelation(session, table.schema, name);
  if (here !== undefined && here.on === null) return `there is a relation "${name}" in its schema`;
  const found = await findRelation(blue, table.schema, name);
  const on = found?.on ?? null;
  // An index of a table that is not moved does not come to green.
  if (on === null || !moved.some((one) => sameTable(one.name, on))) return undefined;
  const is = `it is an index of table ${formatTableName(on)} on blue`;
  if (index === undefined || !sameTable(on, table)) return is;
  const wanted = [index.method, index.unique, index.columns.length, index.columns.length + index.include.length];
  const isLike = found?.shape?.every((part, i) => part === wanted[i]) === true;
  return isLike && !(await isAnother(blue, moved, table, index)) ? undefined : `${is}, and another one`;
}

/**
 * Whether blue's index of that name is surely not the plan's, as PostgreSQL reads both: the plan's is made on an empty copy
 * of its table, which is rolled back.
 */
async function isAnother(
  blue: Session,
  moved: readonly TableInfo[],
  table: TableName,
  index: CreateIndex,
): Promise<boolean> {
  const info = moved.find(({ name }) => sameTable(name, table));
  if (info === undefined) return false;
  try {
    return await onPath(blue, await expressionPath(blue, table.schema), async () => {
      const found = await findIndex(blue, table.schema, index.name);
      return found !== undefined && found.shape !== (await shapeOf(blue, info, index));
    });
  } catch (error) {
    if (isConnectionLost(error)) throw error;
    // Of a column that blue lacks it has no index. Any other error says nothing, such as that of a missing privilege.
    return sqlState(error) === UNDEFINED_COLUMN;
  }
}

/** Names are read, and written, by that search_path meanwhile. */
async function onPath<T>(session: Session, path: string, work: () => Promise<T>): Promise<T> {
  const { rows } = await session.query<{ before: string }>(
    `SELECT current_setting('search_path') AS before, set_config('search_path', $1, false)`,
    [path],
  );
  try {
    return await work();
  } finally {
    await session.query(`SELECT set_config('search_path', $1, false)`, [rows[0]?.before ?? 'pg_catalog']);
  }
}

async function findRelation(session: Session, schema: string, name: string): Promise<FoundRelation | undefined> {
  const { rows } = await session.query<FoundRelation>(
    `SELECT CASE WHEN i.indexrelid IS NOT NULL THEN json_build_object('schema', tn.nspname, 'name', t.relname) END AS "on",
            CASE WHEN i.indexrelid IS NOT NULL
                 THEN json_build_array(am.amname, i.indisunique, i.indnkeyatts, i.indnatts) END AS shape
       FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
       LEFT JOIN pg_index i ON i.indexrelid = c.oid LEFT JOIN pg_am am ON am.oid = c.relam
       LEFT JOIN pg_class t ON t.oid = i.indrelid LEFT JOIN pg_namespace tn ON tn.oid = t.relnamespace
      WHERE n.nspname = $1 AND c.relname = $2
        -- One that is INVALID is nobody's: it is not copied, and built anew where it stands.
        AND coalesce(i.indisvalid, true)`,
    [schema, name],
  );
  return rows[0];
}

async function holderOfConstraintName(
  input: Pick<TrialInput, 'session' | 'blue' | 'moved'>,
  table: TableName,
  constraint: AddConstraint,
): Promise<string | undefined> {
  const { name, check, foreignKey, unique, primaryKey } = constraint;
  const { rows } = await input.blue.query<{ kind: string; columns: string[] | null; definition: string }>(
    `SELECT c.contype AS kind, pg_get_constraintdef(c.oid) AS definition,
            (SELECT json_agg(a.attname ORDER BY k.n) FROM unnest(c.conkey) WITH ORDINALITY k (attnum, n)
               JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.attnum) AS columns
       FROM pg_constraint c WHERE c.conrelid = to_regclass($1) AND c.conname = $2 AND c.contype <> 'n'`,
    [qualified(table), name],
  );
  const found = rows[0];
  const key = unique ?? primaryKey;
  if (found === undefined) {
    return key === undefined ? undefined : holderOfIndexName(input, table, name, undefined);
  }
  const is = `blue has a constraint of that name: ${found.definition}`;
  if (foreignKey !== undefined) {
    const wanted = await foreignKeyDefinition(input.blue, foreignKey);
    return withoutNotValid(found.definition) === wanted ? undefined : is;
  }
  const kind = check !== undefined ? 'c' : unique !== undefined ? 'u' : 'p';
  const same = kind === found.kind && (check !== undefined || JSON.stringify(key) === JSON.stringify(found.columns));
  return same ? undefined : is;
}
