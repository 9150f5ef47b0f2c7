import { formatTableName } from '../plan/table-name.js';
import { connectedRoles, rolesOf, settableRoles } from './application-roles.js';
import { ident, qualified } from './identifier.js';
import { findTable, type ChangedTable } from './migrate/changed-table.js';
import { objectsUsed, type UsedObject } from './migrate/expression-reads.js';
import type { TableWork, Work } from './migrate/plan-work.js';
import { inTransaction, type Session } from './session.js';
import { isUnknownName, sqlState } from './sqlstate.js';

/*
 * What the plan makes needs rights that nobody has needed before, so that to compare those of blue and green does not tell
 * them. The up/down trigger runs as whoever writes: PostgreSQL looks its names up, and calls its functions, with the rights of
 * that role. And a role whose rights are on single columns has none on a new one: SELECT * fails.
 */

/** What roles lack for a table that the plan changes. */
export interface PlanRight {
  readonly table: string;
  readonly role: string;
  /** `write`: what its trigger uses. `read`: a new column, where the role may read all others; perhaps it is not to. */
  readonly to: 'write' | 'read';
  /** The statements that give it. */
  readonly grants: readonly string[];
}

/** Roles that are set are as many as tenants where each has one, and then alike. */
const ROLES_ASKED = 100;

/** The roles of the application that a server has: those that are connected to blue, and those that they can become. */
export async function rolesToAsk(blue: Session, session: Session): Promise<string[]> {
  const connected = await connectedRoles(blue);
  if (connected.length === 0) return [];
  const settable = (await settableRoles(blue)).map(({ role }) => role).slice(0, ROLES_ASKED);
  const there = await rolesOf(session, [...connected, ...settable]);
  return [...new Set([...connected, ...settable])].filter((role) => there.has(role));
}

/**
 * @param session has the tables. Where it lacks the plan's columns, they are taken for columns without grants.
 * @param roles that it has.
 */
export async function missingPlanRights(
  session: Session,
  roles: readonly string[],
  { tables }: Pick<Work, 'tables'>,
): Promise<PlanRight[]> {
  if (roles.length === 0) return [];
  const missing: PlanRight[] = [];
  for (const work of tables) {
    const table = await findTable(session, work.table);
    if (table === undefined) continue;
    missing.push(...(await unreadable(session, roles, work)), ...(await unusable(session, roles, work, table)));
  }
  return missing;
}

/** New columns that a role may not read, though it may read all others. */
async function unreadable(session: Session, roles: readonly string[], work: TableWork): Promise<PlanRight[]> {
  if (work.columns.length === 0) return [];
  const { rows } = await session.query<{ role: string; columns: readonly string[] }>(UNREADABLE, [
    qualified(work.table),
    roles,
    work.columns.map(({ name }) => name),
  ]);
  return rows.map(({ role, columns }) => ({
    table: formatTableName(work.table),
    role,
    to: 'read',
    grants: [`GRANT SELECT (${columns.map(ident).join(', ')}) ON ${qualified(work.table)} TO ${ident(role)}`],
  }));
}

/** A right on a table is none where its schema is shut. */
function mayUse(relation: string): string {
  return `has_schema_privilege(role.name, (SELECT relnamespace FROM pg_class WHERE oid = ${relation}), 'USAGE')`;
}

const UNREADABLE = `
SELECT role.name AS role, array_agg(added.name ORDER BY added.place) AS columns
  FROM (SELECT to_regclass($1)::oid AS oid) c
 CROSS JOIN unnest($2::text[]) AS role (name)
 CROSS JOIN unnest($3::text[]) WITH ORDINALITY AS added (name, place)
  LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = added.name
 WHERE ${mayUse('c.oid')} AND NOT has_table_privilege(role.name, c.oid, 'SELECT') AND has_any_column_privilege(role.name, c.oid, 'SELECT')
   AND (a.attnum IS NULL OR NOT has_column_privilege(role.name, c.oid, a.attnum, 'SELECT'))
   AND NOT EXISTS (SELECT FROM pg_attribute old
                    WHERE old.attrelid = c.oid AND old.attnum > 0 AND NOT old.attisdropped AND old.attname <> ALL ($3)
                      AND NOT has_column_privilege(role.name, c.oid, old.attnum, 'SELECT'))
 GROUP BY 1 ORDER BY 1`;

/** What the trigger's expressions use, and a role that may write the table may not. */
async function unusable(
  session: Session,
  roles: readonly string[],
  work: TableWork,
  table: ChangedTable,
): Promise<PlanRight[]> {
  const used = await usedByTrigger(session, work, table);
  if (used.length === 0) return [];
  const schemas = [...new Set(used.filter(({ isNamed }) => isNamed).map(({ schema }) => schema))];
  const functions = [...new Set(used.flatMap(({ calls }) => calls ?? []))];
  const { rows } = await session.query<{ role: string; schemas: string[]; functions: string[] }>(UNUSABLE, [
    ...[qualified(work.table), roles, schemas, functions],
  ]);
  return rows.map((row) => ({
    table: formatTableName(work.table),
    role: row.role,
    to: 'write',
    grants: [
      ...row.schemas.map((schema) => `GRANT USAGE ON SCHEMA ${ident(schema)} TO ${ident(row.role)}`),
      ...row.functions.map((name) => `GRANT EXECUTE ON FUNCTION ${name} TO ${ident(row.role)}`),
    ],
  }));
}

/** A view is written with the rights of its owner, but the triggers of its table run as whoever writes. */
const UNUSABLE = `
WITH RECURSIVE written (oid) AS (
  SELECT to_regclass($1)::oid
   UNION
  SELECT v.oid FROM written w
    JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = w.oid AND d.classid = 'pg_rewrite'::regclass
    JOIN pg_rewrite r ON r.oid = d.objid JOIN pg_class v ON v.oid = r.ev_class AND v.relkind = 'v'
   WHERE pg_relation_is_updatable(v.oid, false) & 12 <> 0),
lacking AS (
  SELECT role.name AS role,
         ARRAY(SELECT s FROM unnest($3::text[]) s WHERE NOT has_schema_privilege(role.name, s, 'USAGE')) AS schemas,
         ARRAY(SELECT f::regprocedure::text FROM unnest($4::oid[]) f WHERE NOT has_function_privilege(role.name, f, 'EXECUTE')) AS functions
    FROM unnest($2::text[]) AS role (name)
   WHERE EXISTS (SELECT FROM written w
                  WHERE ${mayUse('w.oid')} AND (has_any_column_privilege(role.name, w.oid, 'INSERT')
                                             OR has_any_column_privilege(role.name, w.oid, 'UPDATE'))))
SELECT role, schemas, functions FROM lacking WHERE schemas <> '{}' OR functions <> '{}' ORDER BY 1`;

interface Used extends UsedObject {
  /** Its name is looked up: that of a cast, or of the type of a constant, need not be. */
  readonly isNamed: boolean;
}

async function usedByTrigger(session: Session, work: TableWork, { info, searchPath }: ChangedTable): Promise<Used[]> {
  const used: Used[] = [];
  const added = work.columns.filter(({ name }) => info.columns.every((column) => column.name !== name));
  for (const expression of expressionsOf(work)) {
    try {
      const objects = await inTransaction(session, async () => {
        await session.query(`SELECT set_config('search_path', $1, true)`, [searchPath]);
        return objectsUsed(session, info, expression, added);
      });
      const text = expression.toLowerCase();
      used.push(
        ...objects.map((one) => ({
          ...one,
          isNamed: one.kind === 'operator' || text.includes(one.name.toLowerCase()),
        })),
      );
    } catch (error) {
      // Told by the trial of the plan, in better words; or it needs what the run is yet to make.
      if (!isUnknownName(error) && !(sqlState(error) ?? '').startsWith('42')) throw error;
    }
  }
  return used;
}

/** Those in the trigger: it writes the type of a column where it compares a value with what `up` or the default gives. */
function expressionsOf({ columns, derived }: TableWork): string[] {
  return derived.flatMap((item) => {
    const type = columns.find(({ name }) => name === item.column)?.type;
    const isCast = (item.up !== undefined && item.down !== undefined) || item.default !== undefined;
    return [
      ...(item.up === undefined ? [] : [item.up]),
      ...(item.down === undefined ? [] : [item.down.expression]),
      ...(type === undefined || !isCast ? [] : [`CAST(NULL AS ${type})`]),
    ];
  });
}

/** For people; empty when nothing is missing. */
export function describePlanRights(missing: readonly PlanRight[]): string[] {
  return missing.map(({ table, role, to, grants }) => {
    const why =
      to === 'write'
        ? `the role "${role}" may write ${table}, whose up/down trigger runs as whoever writes, and may not use what that uses`
        : `the role "${role}" may read each old column of ${table} and not those that the plan adds, so that its SELECT * fails`;
    return `${why}: ${grants.join('; ')}`;
  });
}
