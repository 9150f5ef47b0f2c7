import { columnsOf } from '../../plan/expression.js';
import type { TableInfo } from '../catalog.js';
import { SILENCE_EVENT_TRIGGERS } from '../event-triggers.js';
import { ident, qualified } from '../identifier.js';
import type { Session } from '../session.js';
import type { NewColumn } from './plan-work.js';

/**
 * The columns that an expression over a row of the table reads, by PostgreSQL's own account: the dependencies of a
 * temporary view. Sub-selects, aliases and names that hide each other are resolved as they will be when the expression
 * runs. Must run in a transaction whose search_path is that of the table's expressions, and which writes no rows of the
 * application.
 *
 * @throws the server's error when the expression is wrong.
 */
export async function columnsRead(session: Session, table: TableInfo, expression: string): Promise<string[]> {
  const rows = await inView<{ name: string }>(
    session,
    table,
    expression,
    `SELECT a.attname AS name
       FROM pg_rewrite r
       JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
       JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid AND a.attnum > 0
      WHERE r.ev_class = $1::regclass AND d.refobjid = $2::oid
      GROUP BY a.attname, a.attnum ORDER BY a.attnum`,
    [table.oid],
  );
  return (await readsWholeRow(table, expression))
    ? table.columns.map(({ name }) => name)
    : rows.map(({ name }) => name);
}

/**
 * The expression as PostgreSQL has parsed it (pg_node_tree), with the view around it. In a transaction as columnsRead.
 *
 * @throws the server's error when the expression is wrong.
 */
export async function expressionTree(session: Session, table: TableInfo, expression: string): Promise<string> {
  const sql = 'SELECT ev_action::text AS tree FROM pg_rewrite WHERE ev_class = $1::regclass';
  const [row] = await inView<{ tree: string }>(session, table, expression, sql);
  return row?.tree ?? '';
}

/**
 * Whether an expression may run code of users, by PostgreSQL's own account: functions, operators, checks of a domain, and
 * whatever is behind another relation that it reads. In a transaction as columnsRead.
 *
 * @throws the server's error when the expression is wrong.
 */
export async function mayRunCodeOfUsers(session: Session, table: TableInfo, expression: string): Promise<boolean> {
  const rows = await inView(
    session,
    table,
    expression,
    `SELECT FROM pg_rewrite r JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
       LEFT JOIN pg_type t ON d.refclassid = 'pg_type'::regclass AND t.oid = d.refobjid
      WHERE r.ev_class = $1::regclass
        AND (d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass) OR t.typtype = 'd'
             OR (d.refclassid = 'pg_class'::regclass AND d.refobjid NOT IN (r.ev_class, $2::oid))) LIMIT 1`,
    [table.oid],
  );
  return rows.length > 0;
}

/** An object of users that an expression uses. */
export interface UsedObject {
  readonly kind: 'function' | 'operator' | 'type';
  /** Of an array type that of its elements. */
  readonly name: string;
  readonly schema: string;
  /** The number of the function that is called; null for a type. */
  readonly calls: string | null;
}

/**
 * The functions, operators and types of users in an expression, by PostgreSQL's own account. In a transaction as columnsRead.
 *
 * @param added columns that the table is yet to be given.
 * @throws the server's error when the expression is wrong.
 */
export async function objectsUsed(
  session: Session,
  table: TableInfo,
  expression: string,
  added: readonly NewColumn[],
): Promise<UsedObject[]> {
  const rows = added.map(({ name, type }) => `, CAST(NULL AS ${type}) AS ${ident(name)}`).join('');
  const from = `(SELECT verdigris_row.*${rows} FROM ${qualified(table.name)} AS verdigris_row)`;
  return inView<UsedObject>(session, table, expression, USED, [], from);
}

const USED = `
SELECT DISTINCT used.kind, used.name, n.nspname::text AS schema, used.calls::text AS calls
  FROM pg_rewrite r JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
 CROSS JOIN LATERAL (
   SELECT 'function' AS kind, p.proname::text AS name, p.pronamespace AS namespace, p.oid AS calls
     FROM pg_proc p WHERE d.refclassid = 'pg_proc'::regclass AND p.oid = d.refobjid
    UNION ALL
   SELECT 'operator', o.oprname::text, o.oprnamespace, o.oprcode::oid
     FROM pg_operator o WHERE d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid
    UNION ALL
   SELECT 'type', coalesce(e.typname, t.typname)::text, t.typnamespace, NULL::oid
     FROM pg_type t LEFT JOIN pg_type e ON e.oid = t.typelem AND t.typcategory = 'A'
    WHERE d.refclassid = 'pg_type'::regclass AND t.oid = d.refobjid) used
  JOIN pg_namespace n ON n.oid = used.namespace AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'verdigris')
 WHERE r.ev_class = $1::regclass
 ORDER BY 1, 2, 3`;

/** Asks the catalog about a temporary view of the expression, whose name is the first parameter. */
async function inView<T extends object>(
  session: Session,
  table: TableInfo,
  expression: string,
  sql: string,
  parameters: readonly unknown[] = [],
  from = qualified(table.name),
): Promise<T[]> {
  const view = ident('verdigris_reads');
  await session.query(SILENCE_EVENT_TRIGGERS);
  await session.query(
    `CREATE TEMPORARY VIEW ${view} AS
       SELECT (${expression}\n) AS value FROM ${from} AS ${ident(table.name.name)}`,
  );
  const { rows } = await session.query<T>(sql, [`pg_temp.${view}`, ...parameters]);
  await session.query(`DROP VIEW pg_temp.${view}`);
  return rows;
}

/** A reference to the row as a value (`to_jsonb(orders)`, `orders.*`) depends on no column by name. */
async function readsWholeRow(table: TableInfo, expression: string): Promise<boolean> {
  const names = await columnsOf(expression);
  const asColumn = table.columns.some(({ name }) => name === table.name.name);
  return (!asColumn && names.includes(table.name.name)) || /\.\s*\*/.test(expression);
}
