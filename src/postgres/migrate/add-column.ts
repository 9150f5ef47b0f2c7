import type { TableName } from '../../plan/table-name.js';
import { formatTableName } from '../../plan/table-name.js';
import { VerdigrisError } from '../../errors.js';
import type { TableInfo } from '../catalog.js';
import { ident, qualified } from '../identifier.js';
import type { Session } from '../session.js';
import type { NewColumn } from './plan-work.js';

type NamedTable = Pick<TableInfo, 'name' | 'columns' | 'oid'>;

/**
 * Adds the columns that are not there yet, all in one statement: one lock, and no rewrite, since every column is
 * nullable and its default constant. But for a domain with constraints, whose rows PostgreSQL writes anew to ask it of
 * each; the preflight warns of that. Must run in a transaction.
 *
 * @returns the names of the columns that were added now.
 * @throws VerdigrisError MigrationStepFailed when a column is there with another type.
 */
export async function addColumns(
  session: Session,
  table: NamedTable,
  columns: readonly NewColumn[],
): Promise<string[]> {
  const there = new Set(table.columns.map(({ name }) => name));
  for (const column of columns.filter(({ name }) => there.has(name))) await checkType(session, table, column);
  const missing = columns.filter(({ name }) => !there.has(name));
  if (missing.length > 0) {
    await session.query(`ALTER TABLE ${qualified(table.name)} ${missing.map(addition).join(', ')}`);
  }
  return missing.map(({ name }) => name);
}

function addition(column: NewColumn): string {
  const fallback = column.default === undefined ? '' : ` DEFAULT (${column.default}\n)`;
  return `ADD COLUMN ${ident(column.name)} ${column.type}${fallback}`;
}

/** Drops columns of ours that are there. Must run in a transaction. */
export async function dropColumns(session: Session, table: TableName, columns: readonly string[]): Promise<void> {
  if (columns.length === 0) return;
  await session.query(
    `ALTER TABLE ${qualified(table)} ${columns.map((name) => `DROP COLUMN IF EXISTS ${ident(name)}`).join(', ')}`,
  );
}

/** PostgreSQL itself says what the plan's type is called: "varchar(20)" is "character varying(20)". */
async function checkType(session: Session, table: NamedTable, column: NewColumn): Promise<void> {
  await session.query(`CREATE TEMPORARY TABLE verdigris_type (value ${column.type}) ON COMMIT DROP`);
  const { rows } = await session.query<{ type: string }>(
    `SELECT format_type(atttypid, atttypmod) AS type FROM pg_attribute
      WHERE attrelid = 'pg_temp.verdigris_type'::regclass AND attname = 'value'`,
  );
  await session.query('DROP TABLE pg_temp.verdigris_type');
  const { rows: now } = await session.query<{ type: string }>(
    `SELECT format_type(atttypid, atttypmod) AS type FROM pg_attribute WHERE attrelid = $1::oid AND attname = $2`,
    [table.oid, column.name],
  );
  const [wanted, found] = [rows[0]?.type, now[0]?.type];
  if (wanted === found) return;
  throw new VerdigrisError({
    type: 'MigrationStepFailed',
    message: `table ${formatTableName(table.name)} has a column "${column.name}" already, of type ${String(found)} and not ${String(wanted)}`,
    nextStep: 'give the new column another name in the plan',
  });
}
