import { createHash } from 'node:crypto';
import { VerdigrisError } from '../../errors.js';
import type { CreateIndex } from '../../plan/schema.js';
import { formatTableName, type TableName } from '../../plan/table-name.js';
import type { TableInfo } from '../catalog.js';
import { SILENCE_EVENT_TRIGGERS } from '../event-triggers.js';
import { ident, qualified } from '../identifier.js';
import { BEGIN, type Session } from '../session.js';

/** An index as it is to be: on one table, under one name in the schema of that table. */
export interface IndexTarget {
  readonly table: TableName;
  readonly name: string;
}

/** A table whose columns are known by name. */
export interface WithColumns {
  readonly columns: readonly { readonly name: string }[];
}

/** The statement that makes the index. `how` stands where CONCURRENTLY or ONLY would. */
export function createIndexSql(
  table: WithColumns,
  index: CreateIndex,
  target: IndexTarget,
  how: 'concurrently' | 'only' | 'plain',
): string {
  const concurrently = how === 'concurrently' ? 'CONCURRENTLY ' : '';
  const only = how === 'only' ? 'ONLY ' : '';
  const include = index.include.length === 0 ? '' : ` INCLUDE (${index.include.map(ident).join(', ')})`;
  const where = index.where === undefined ? '' : ` WHERE (${index.where}\n)`;
  return (
    `CREATE ${index.unique ? 'UNIQUE ' : ''}INDEX ${concurrently}${ident(target.name)} ON ${only}${qualified(target.table)} ` +
    `USING ${index.method} (${index.columns.map((item) => element(table, item)).join(', ')})${include}${where}`
  );
}

/** An item that is exactly the name of a column is that column, odd names included; anything else is SQL. */
function element(table: WithColumns, item: string): string {
  return table.columns.some(({ name }) => name === item) ? ident(item) : `${item}\n`;
}

/** The index of a leaf: named after the index and the leaf, within 63 bytes. */
export function leafIndexName(index: string, leaf: TableName): string {
  const hash = createHash('sha256')
    .update(JSON.stringify([leaf.schema, leaf.name]))
    .digest('hex')
    .slice(0, 12);
  let stem = index;
  while (Buffer.byteLength(stem) > 63 - hash.length - 1) stem = stem.slice(0, -1);
  return `${stem}_${hash}`;
}

/** What is there under the name of an index. */
export interface FoundIndex {
  readonly oid: number;
  /** Of the table that it is on. */
  readonly table: number;
  readonly valid: boolean;
  /** Everything that makes it this index and not another: method, columns, classes, order, predicate. */
  readonly shape: string;
  /** The partitioned index that it belongs to; null when it is none's. */
  readonly parent: number | null;
}

/** Looks an index up; undefined when there is none of that name in the schema. */
export async function findIndex(session: Session, schema: string, name: string): Promise<FoundIndex | undefined> {
  const { rows } = await session.query<FoundIndex>(
    `SELECT c.oid::int8::float8 AS oid, i.indrelid::int8::float8 AS "table", i.indisvalid AS valid, (${SHAPE}) AS shape,
            (SELECT inhparent::int8::float8 FROM pg_inherits WHERE inhrelid = c.oid) AS parent
       FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
       JOIN pg_am am ON am.oid = c.relam
      WHERE n.nspname = $1 AND c.relname = $2`,
    [schema, name],
  );
  return rows[0];
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

const SHAPE = `
  json_build_array(am.amname, i.indisunique, i.indnkeyatts, i.indcollation::text, i.indclass::text, i.indoption::text,
    pg_get_expr(i.indpred, i.indrelid),
    (SELECT json_agg(pg_get_indexdef(i.indexrelid, n, false) ORDER BY n) FROM generate_series(1, i.indnatts) n))::text`;

/**
 * The shape that the plan's index will have: the same index, made on an empty copy of the table and rolled back, so that
 * PostgreSQL itself reads the plan's SQL. The session's search_path must be that of the table's expressions.
 *
 * @throws the server's error when the definition is wrong.
 */
export async function shapeOf(session: Session, table: TableInfo, index: CreateIndex): Promise<string | undefined> {
  const copy = { schema: 'pg_temp', name: table.name.name };
  await session.query(BEGIN);
  try {
    await session.query(SILENCE_EVENT_TRIGGERS);
    await session.query(
      `CREATE TEMPORARY TABLE ${ident(copy.name)} (LIKE ${qualified(table.name)} INCLUDING GENERATED)`,
    );
    await session.query(createIndexSql(table, index, { table: copy, name: 'verdigris_shape' }, 'plain'));
    const { rows } = await session.query<{ schema: string }>(
      'SELECT nspname AS schema FROM pg_namespace WHERE oid = pg_my_temp_schema()',
    );
    return (await findIndex(session, rows[0]?.schema ?? 'pg_temp', 'verdigris_shape'))?.shape;
  } finally {
    await session.query('ROLLBACK');
  }
}
