import { createHash } from 'node:crypto';
import type { TableName } from '../../plan/table-name.js';
import { ident } from '../identifier.js';
import type { Derived } from './plan-work.js';
import { differs, isSame, type Comparable } from './value-comparison.js';

/*
 * The trigger that keeps old and new columns of a row in step: one BEFORE INSERT OR UPDATE row trigger a table, which
 * fires in every session, the apply worker's included. What it does depends on who writes:
 *
 *   blue, by replication    new := up(old) on INSERT, and on UPDATE only when a column that `up` reads has changed or
 *                           new is NULL: an unrelated update must not reset what is in the new column. One that has its
 *                           default is computed when the key has changed, too
 *   Verdigris               new := up(old) where new is NULL; never down(): it would rewrite the original text
 *                           ({"b":1,"a":2} becomes {"a": 2, "b": 1}). The trigger's condition spares the call where
 *                           no new column is NULL; an update by the backfill that would change none is left out
 *   the application         the new column was written: old := down(new); else an input was written: new := up(old).
 *                           When both were written and agree already, both stay as they were written. A row that an UPDATE
 *                           moves into another partition is inserted there as the UPDATE has left it
 *
 * Downs run from the last column to the first and ups from the first to the last (see computed-order.ts), so that columns
 * that are computed from computed columns come out right in both directions.
 */

export const TRIGGER_NAME = 'verdigris_up_down';

/** A derived column with what the catalog says about it. */
export interface TriggerColumn extends Derived, Comparable {
  /** Columns that `up` reads. */
  readonly reads: readonly string[];
}

export interface TriggerSpec {
  readonly table: TableName;
  /** In the order in which they are computed. */
  readonly columns: readonly TriggerColumn[];
  /** The columns of the key along which rows are backfilled. */
  readonly key: readonly string[];
  /** Of every column that is compared: inputs of `up` and targets of `down`. */
  readonly types: ReadonlyMap<string, Comparable>;
}

/** The function of a table's trigger, in schema verdigris. A hash, since a name of 63 bytes leaves no room. */
export function triggerFunction(table: TableName): string {
  const hash = createHash('sha256')
    .update(JSON.stringify([table.schema, table.name]))
    .digest('hex');
  return `up_down_${hash.slice(0, 16)}`;
}

/**
 * The condition of the trigger: a session of ours computes the values itself, and a call of PL/pgSQL for each row would
 * cost a third of the backfill's rate. It names only columns that triggerConditionReads lists.
 */
export function triggerCondition(spec: TriggerSpec): string {
  const missing = triggerConditionReads(spec).map((column) => ` OR NEW.${ident(column)} IS NULL`);
  return `current_setting('verdigris.internal', true) IS DISTINCT FROM 'on'${missing.join('')}`;
}

/** The columns in the trigger's condition, in the order in which they are computed. */
export function triggerConditionReads(spec: TriggerSpec): string[] {
  return spec.columns.filter(({ up }) => up !== undefined).map(({ column }) => column);
}

/**
 * The body of the trigger's function, in PL/pgSQL.
 *
 * @param partitioned whether the table is: its keys have every column by which it is.
 */
export function triggerBody(spec: TriggerSpec, partitioned: boolean): string {
  const ups = spec.columns.filter((c) => c.up !== undefined);
  const downs = spec.columns.filter((c) => c.down !== undefined).reverse();
  const internal = ups.map((c) => when(isNull(c), assignUp(spec, c)));
  // Whoever has nothing to change writes no row version: a second run of the backfill, where `up` is NULL.
  const unchanged =
    ups.length === 0
      ? []
      : [
          `IF TG_OP = 'UPDATE' AND current_setting('verdigris.backfill', true) = 'on' THEN`,
          `  IF NOT (${ups.map((c) => changed(spec, c.column)).join(' OR ')}) THEN RETURN NULL; END IF;`,
          'END IF;',
        ];
  const replicaInsert = ups.map((c) => (c.kind === 'fill' ? when(isNull(c), assignUp(spec, c)) : assignUp(spec, c)));
  const replicaUpdate = ups.flatMap((c) => {
    if (c.kind === 'fill') return [when(isNull(c), assignUp(spec, c))];
    // A row that was not backfilled yet: an update of its key may put it where the backfill has been.
    const conditions = [isNull(c), ...c.reads.map((name) => changed(spec, name))];
    if (c.default !== undefined && spec.key.length > 0) {
      const keyChanged = spec.key.map((name) => changed(spec, name)).join(' OR ');
      conditions.push(`(${keyChanged}) AND NOT (${wasGiven(c)})`);
    }
    return [when(conditions.join(' OR '), assignUp(spec, c))];
  });
  const insert = [
    ...downs.map((c) => when(`${wasGiven(c)} AND NOT (${targetGiven(c)} AND ${agrees(spec, c)})`, assignDown(spec, c))),
    ...ups.map((c) => when(`NOT (${wasGiven(c)})`, assignUp(spec, c))),
  ];
  const update = [
    ...downs.map((c) =>
      when(
        `${changed(spec, c.column)} AND NOT (${targetChanged(spec, c)} AND ${agrees(spec, c)})`,
        assignDown(spec, c),
      ),
    ),
    ...ups.flatMap((c) => {
      if (c.kind === 'fill') return [when(isNull(c), assignUp(spec, c))];
      if (c.reads.length === 0) return [];
      return [when(`NOT (${changed(spec, c.column)}) AND (${inputsChanged(spec, c)})`, assignUp(spec, c))];
    }),
  ];
  const mayMove = partitioned && spec.key.length > 0;
  return `
#variable_conflict use_column
BEGIN
  IF current_setting('verdigris.internal', true) = 'on' THEN
${block(internal)}
${block(unchanged)}
  ELSIF current_setting('session_replication_role') = 'replica' THEN
    IF TG_OP = 'INSERT' THEN
${block(replicaInsert)}
    ELSE
${block(replicaUpdate)}
    END IF;
  ${mayMove ? arrives(spec) : ''}ELSIF TG_OP = 'INSERT' THEN
${block(insert)}
  ELSE
${block([...update, ...(mayMove ? [leaves(spec)] : [])])}
  END IF;
  RETURN NEW;
END
`;
}

/** Settings of the transaction: the key of a row that an UPDATE may move, and the partition that it leaves then. */
const [MOVED, MOVED_FROM] = ["'verdigris.moved'", "'verdigris.moved_from'"];

/** An UPDATE whose row belongs in another partition deletes it and inserts it there, at once. */
function leaves(spec: TriggerSpec): string {
  const keyChanged = spec.key.map((name) => changed(spec, name)).join(' OR ');
  const note = `PERFORM set_config(${MOVED}, ${keyText(spec)}, true), set_config(${MOVED_FROM}, TG_RELID::text, true);`;
  return when(keyChanged, note);
}

/** The branch for the INSERT of such a row, which stays as it is. */
function arrives(spec: TriggerSpec): string {
  return `ELSIF TG_OP = 'INSERT' AND coalesce(current_setting(${MOVED}, true), '') <> ''
        AND current_setting(${MOVED}, true) = ${keyText(spec)} AND current_setting(${MOVED_FROM}, true) <> TG_RELID::text THEN
    PERFORM set_config(${MOVED}, '', true);
  `;
}

function keyText(spec: TriggerSpec): string {
  return `ROW(${spec.key.map((name) => `NEW.${ident(name)}`).join(', ')})::text`;
}

function block(statements: readonly string[]): string {
  return statements.length === 0 ? '    NULL;' : statements.map((statement) => `    ${statement}`).join('\n');
}

function when(condition: string, statement: string): string {
  return `IF ${condition} THEN ${statement} END IF;`;
}

/** An expression over the row as it is now. The line break ends a trailing comment in it. */
function overRow(spec: TriggerSpec, expression: string): string {
  return `(SELECT (${expression}\n) FROM (SELECT NEW.*) AS ${ident(spec.table.name)})`;
}

function assignUp(spec: TriggerSpec, column: TriggerColumn): string {
  return `NEW.${ident(column.column)} := ${overRow(spec, column.up ?? 'NULL')};`;
}

function assignDown(spec: TriggerSpec, column: TriggerColumn): string {
  if (column.down === undefined) return 'NULL;';
  return `NEW.${ident(column.down.column)} := ${overRow(spec, column.down.expression)};`;
}

function isNull(column: TriggerColumn): string {
  return `NEW.${ident(column.column)} IS NULL`;
}

/** On INSERT a column that was left out is NULL or has its default: nothing tells that from one that was given so. */
function wasGiven(column: TriggerColumn): string {
  const value = `NEW.${ident(column.column)}`;
  const given = `${value} IS NOT NULL`;
  if (column.default === undefined || column.kind === 'fill') return given;
  return `${given} AND ${differs(column, value, `CAST((${column.default}\n) AS ${column.type})`)}`;
}

function targetGiven(column: TriggerColumn): string {
  return column.down === undefined ? 'false' : `NEW.${ident(column.down.column)} IS NOT NULL`;
}

function targetChanged(spec: TriggerSpec, column: TriggerColumn): string {
  return column.down === undefined ? 'false' : changed(spec, column.down.column);
}

/** Whether the new column is what `up` makes of the row: then nothing has to be carried back. */
function agrees(spec: TriggerSpec, column: TriggerColumn): string {
  if (column.up === undefined) return 'false';
  return isSame(column, `NEW.${ident(column.column)}`, `CAST(${overRow(spec, column.up)} AS ${column.type})`);
}

function inputsChanged(spec: TriggerSpec, column: TriggerColumn): string {
  return column.reads.map((name) => changed(spec, name)).join(' OR ');
}

function changed(spec: TriggerSpec, column: string): string {
  const type = spec.types.get(column) ?? { type: 'unknown', collation: null };
  return `(${differs(type, `NEW.${ident(column)}`, `OLD.${ident(column)}`)})`;
}
