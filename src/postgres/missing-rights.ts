import { USER_SCHEMA } from './catalog.js';
import { ident } from './identifier.js';
import { RELATION } from './schema-copy/catalog-description.js';
import type { Session } from './session.js';

/*
 * GRANT is no DDL that a run notices, and a copy that no superuser makes has no grants at all. Whoever is connected to blue
 * is the application: what it may do there it must be allowed to do on green before its reads and writes go there.
 */

/** What a role may do on blue and may not do on green. */
export interface MissingRights {
  readonly role: string;
  /** Green has no such role that may log in. */
  readonly absent: boolean;
  readonly rights: readonly Right[];
}

export interface Right {
  /** As SQL names it after ON: `TABLE public.orders`, `SEQUENCE ...`, `SCHEMA ...`. */
  readonly on: string;
  readonly privileges: readonly string[];
}

/** Of the roles that are connected to blue now. Objects that are on one side only are none of its business. */
export async function missingRights(blue: Session, green: Session): Promise<MissingRights[]> {
  const roles = await connectedRoles(blue);
  if (roles.length === 0) return [];
  const [there, here] = await Promise.all([readRights(blue, roles), readRights(green, roles)]);
  const known = await rolesThatLogIn(green, roles);
  const objects = new Set(here.map(({ on }) => on));
  const missing = roles.map((role): MissingRights => {
    const own = new Map(here.filter((each) => each.role === role).map(({ on, privileges }) => [on, privileges]));
    const rights = there
      .filter((each) => each.role === role && objects.has(each.on))
      .map(({ on, privileges }) => ({
        on,
        privileges: privileges.filter((one) => !covers(own.get(on) ?? [], one)),
      }))
      .filter(({ privileges }) => privileges.length > 0);
    return known.has(role) ? { role, absent: false, rights } : { role, absent: true, rights: [] };
  });
  return missing.filter(({ absent, rights }) => absent || rights.length > 0);
}

/** A right on all columns has that on some of them. */
function covers(privileges: readonly string[], wanted: string): boolean {
  return privileges.includes(wanted) || privileges.some((one) => wanted === ofSomeColumns(one));
}

function ofSomeColumns(privilege: string): string {
  return `${privilege} (of some columns)`;
}

/** Without superusers: those are people, or whoever runs the server of a managed service, and unknown elsewhere. */
async function connectedRoles(blue: Session): Promise<string[]> {
  const { rows } = await blue.query<{ role: string }>(
    `SELECT DISTINCT r.rolname AS role FROM pg_stat_activity a JOIN pg_roles r ON r.oid = a.usesysid
      WHERE a.datname = current_database() AND coalesce(a.backend_type, 'client backend') = 'client backend'
        AND NOT r.rolsuper AND a.application_name NOT LIKE 'verdigris %' ORDER BY 1`,
  );
  return rows.map(({ role }) => role);
}

async function rolesThatLogIn(session: Session, roles: readonly string[]): Promise<ReadonlySet<string>> {
  const { rows } = await session.query<{ role: string }>(
    'SELECT rolname AS role FROM pg_roles WHERE rolname = ANY ($1) AND rolcanlogin',
    [roles],
  );
  return new Set(rows.map(({ role }) => role));
}

/** Of every object, also those on which a role has no right. */
async function readRights(session: Session, roles: readonly string[]): Promise<(Right & { readonly role: string })[]> {
  const { rows } = await session.query<Right & { readonly role: string }>(RIGHTS, [roles]);
  return rows;
}

/** A right on some columns only is told from one on all of them. Partitions, of which there may be thousands, are left to their parents. */
const RIGHTS = `
  WITH role AS (SELECT rolname::text AS name, oid FROM pg_roles WHERE rolname = ANY ($1))
  SELECT role.name AS role, 'TABLE ' || ${RELATION} AS on,
         array_remove(ARRAY[
           ${['SELECT', 'INSERT', 'UPDATE']
             .map(
               (right) => `CASE WHEN has_table_privilege(role.oid, c.oid, '${right}') THEN '${right}'
                WHEN has_any_column_privilege(role.oid, c.oid, '${right}') THEN '${ofSomeColumns(right)}' END`,
             )
             .join(', ')},
           ${['DELETE', 'TRUNCATE']
             .map((right) => `CASE WHEN has_table_privilege(role.oid, c.oid, '${right}') THEN '${right}' END`)
             .join(', ')}], NULL) AS privileges
    FROM role, pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
   WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't' AND NOT c.relispartition AND ${USER_SCHEMA}
   UNION ALL
  SELECT role.name, 'SEQUENCE ' || ${RELATION},
         array_remove(ARRAY[${['USAGE', 'SELECT', 'UPDATE']
           .map((right) => `CASE WHEN has_sequence_privilege(role.oid, c.oid, '${right}') THEN '${right}' END`)
           .join(', ')}], NULL)
    FROM role, pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
   WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND ${USER_SCHEMA}
   UNION ALL
  SELECT role.name, 'SCHEMA ' || quote_ident(n.nspname),
         array_remove(ARRAY[CASE WHEN has_schema_privilege(role.oid, n.oid, 'USAGE') THEN 'USAGE' END], NULL)
    FROM role, pg_namespace n WHERE ${USER_SCHEMA}
   UNION ALL
  SELECT role.name, 'DATABASE (this one)',
         array_remove(ARRAY[CASE WHEN has_database_privilege(role.oid, current_database(), 'CONNECT') THEN 'CONNECT' END], NULL)
    FROM role`;

/** How many objects of one role are named. */
const NAMED = 5;

/** For people, with the statements that give them; empty when nothing is missing. */
export function describeMissingRights(missing: readonly MissingRights[]): string[] {
  return missing.map(({ role, absent, rights }) => {
    if (absent) {
      return `the role "${role}" is connected to blue, and green has no such role that may log in: CREATE ROLE ${ident(role)} LOGIN, with the password, the memberships and the grants that it has on blue`;
    }
    const grants = rights
      .slice(0, NAMED)
      .map(({ on, privileges }) => `GRANT ${privileges.join(', ')} ON ${on} TO ${ident(role)}`);
    const more = rights.length > NAMED ? `; and on ${rights.length - NAMED} more` : '';
    return `the role "${role}" is connected to blue and may do there what it may not on green: ${grants.join('; ')}${more}`;
  });
}
