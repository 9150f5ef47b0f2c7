import { MANAGED_ADMINISTRATORS } from './managed-administrators.js';
import type { Session } from './session.js';

/*
 * Whoever is connected to blue is the application. Some log in as one role and ask as another: PostgREST, Supabase and
 * PostGraphile SET ROLE in each transaction, so what they may do is what the roles may that they can become.
 */

/** A role that connected ones may become by SET ROLE. */
export interface SettableRole {
  readonly role: string;
  /** The connected roles that may become it. */
  readonly by: readonly string[];
  /** Those of them that do not inherit its rights: they are members of it for nothing but SET ROLE. */
  readonly onlyBySet: readonly string[];
}

/** Without superusers: those are people, or whoever runs the server of a managed service, and unknown elsewhere. */
const CONNECTED = `
  SELECT DISTINCT r.oid, r.rolname::text AS role FROM pg_stat_activity a JOIN pg_roles r ON r.oid = a.usesysid
   WHERE a.datname = current_database() AND coalesce(a.backend_type, 'client backend') = 'client backend'
     AND NOT r.rolsuper AND a.application_name NOT LIKE 'verdigris %'`;

export async function connectedRoles(blue: Session): Promise<string[]> {
  const { rows } = await blue.query<{ role: string }>(`SELECT role FROM (${CONNECTED}) connected ORDER BY 1`);
  return rows.map(({ role }) => role);
}

/** Which of these roles a server has, by name. */
export async function rolesOf(
  session: Session,
  roles: readonly string[],
): Promise<ReadonlyMap<string, { readonly login: boolean }>> {
  const { rows } = await session.query<{ role: string; login: boolean }>(
    'SELECT rolname::text AS role, rolcanlogin AS login FROM pg_roles WHERE rolname = ANY ($1)',
    [roles],
  );
  return new Map(rows.map((row) => [row.role, row]));
}

/**
 * What the roles that are connected now may become; those first that can be used in no other way. Only such as own something
 * in this database, or are named in its grants or policies (by themselves or by a role whose rights they inherit): those of
 * PostgreSQL and of the service mean nothing elsewhere.
 */
export async function settableRoles(blue: Session): Promise<SettableRole[]> {
  const { rows } = await blue.query<SettableRole>(SETTABLE, [MANAGED_ADMINISTRATORS]);
  return rows;
}

/** By a walk, since to ask of each role whether it may become each other one takes too long where they are thousands. */
const SETTABLE = `
  WITH RECURSIVE connected AS MATERIALIZED (${CONNECTED}),
  -- Before 16 a membership has no options: each may be set, and the member says whether it inherits.
  edge AS MATERIALIZED (
    SELECT m.member, m.roleid, bool_or(coalesce((to_jsonb(m) ->> 'set_option')::boolean, true)) AS sets,
           bool_or(coalesce((to_jsonb(m) ->> 'inherit_option')::boolean, r.rolinherit)) AS inherits
      FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member GROUP BY 1, 2),
  settable (member, role) AS (
    SELECT c.oid, e.roleid FROM connected c JOIN edge e ON e.member = c.oid AND e.sets
     UNION SELECT s.member, e.roleid FROM settable s JOIN edge e ON e.member = s.role AND e.sets),
  inherited (member, role) AS (
    SELECT c.oid, e.roleid FROM connected c JOIN edge e ON e.member = c.oid AND e.inherits
     UNION SELECT i.member, e.roleid FROM inherited i JOIN edge e ON e.member = i.role AND e.inherits),
  named AS MATERIALIZED (
    SELECT DISTINCT d.refobjid AS oid FROM pg_shdepend d
     WHERE d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
       AND d.refclassid = 'pg_authid'::regclass AND d.deptype IN ('o', 'a', 'r') AND d.objid >= 16384
       AND d.classid IN ('pg_class'::regclass, 'pg_proc'::regclass, 'pg_namespace'::regclass, 'pg_policy'::regclass)
       AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = d.classid AND e.objid = d.objid AND e.deptype = 'e')),
  useful AS (
    SELECT oid FROM named UNION SELECT e.member FROM useful u JOIN edge e ON e.roleid = u.oid AND e.inherits)
  SELECT r.rolname::text AS role, array_agg(c.role ORDER BY c.role) AS by,
         coalesce(array_agg(c.role ORDER BY c.role) FILTER (WHERE i.member IS NULL), '{}') AS "onlyBySet"
    FROM settable s JOIN connected c ON c.oid = s.member
    JOIN pg_roles r ON r.oid = s.role AND NOT r.rolsuper AND r.rolname !~ '^pg_' AND r.rolname <> ALL ($1)
    LEFT JOIN inherited i ON i.member = s.member AND i.role = s.role
   WHERE s.role IN (SELECT oid FROM useful)
   GROUP BY 1 ORDER BY bool_and(i.member IS NOT NULL), 1`;
