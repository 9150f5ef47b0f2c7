import { columnsOf } from '../../plan/expression.js';
import type { TableInfo } from '../catalog.js';
import { SILENCE_EVENT_TRIGGERS } from '../event-triggers.js';
import { ident, qualified } from '../identifier.js';
import type { Session } from '../session.js';

/**
 * The columns that an expression over a row of the table reads, by PostgreSQL's own account: the dependencies of a
 * temporary view. Sub-selects, aliases and names that hide each other are resolved as they will be when the expression
 * runs. Must run in a transaction whose search_path is that of the table's expressions, and which writes no rows of the
 * application.
 *
 * @throws the server's error when the expression is wrong.
 */
export async function columnsRead(session: Session, table: TableInfo, expression: string): Promise<string[]> {
  const view = ident('verdigris_reads');
  await session.query(SILENCE_EVENT_TRIGGERS);
  await session.query(
    `CREATE TEMPORARY VIEW ${view} AS
       SELECT (${expression}\n) AS value FROM ${qualified(table.name)} AS ${ident(table.name.name)}`,
  );
  const { rows } = await session.query<{ name: string }>(
    `SELECT a.attname AS name
       FROM pg_rewrite r
       JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
       JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid AND a.attnum > 0
      WHERE r.ev_class = 'pg_temp.verdigris_reads'::regclass AND d.refobjid = $1::oid
      GROUP BY a.attname, a.attnum ORDER BY a.attnum`,
    [table.oid],
  );
  await session.query(`DROP VIEW pg_temp.${view}`);
  return (await readsWholeRow(table, expression))
    ? table.columns.map(({ name }) => name)
    : rows.map(({ name }) => name);
}

/** A reference to the row as a value (`to_jsonb(orders)`, `orders.*`) depends on no column by name. */
async function readsWholeRow(table: TableInfo, expression: string): Promise<boolean> {
  const names = await columnsOf(expression);
  const asColumn = table.columns.some(({ name }) => name === table.name.name);
  return (!asColumn && names.includes(table.name.name)) || /\.\s*\*/.test(expression);
}
