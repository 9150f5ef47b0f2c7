import { USER_SCHEMA } from './catalog.js';
import { ident } from './identifier.js';
import { mayHideRows } from './row-policies.js';
import { RELATION, USER_RELATION } from './schema-copy/catalog-description.js';
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
  /** What it owns on blue, by itself or as a member of the owner, and not on green. */
  readonly owned: readonly Owned[];
}

export interface Owned {
  /** Qualified and quoted. */
  readonly relation: string;
  /** On green. */
  readonly owner: string;
  readonly ownerIsSuperuser: boolean;
  /** Policies for rows, by which an owner passes, would apply to the role on green, and may hide rows. */
  readonly isRestricted: boolean;
}

export interface Right {
  /** As SQL names it after ON on green: `TABLE public.orders`, `SEQUENCE ...`, `SCHEMA ...`, `DATABASE ...`. */
  readonly on: string;
  readonly privileges: readonly string[];
}

/** Of the roles that are connected to blue now. Objects that are on one side only are none of its business. */
export async function missingRights(blue: Session, green: Session): Promise<MissingRights[]> {
  const roles = await connectedRoles(blue);
  if (roles.length === 0) return [];
  const [there, here] = await Promise.all([readRights(blue, roles), readRights(green, roles)]);
  const [ownedThere, ownedHere] = await Promise.all([readOwned(blue, roles), readOwned(green, roles)]);
  const known = await rolesThatLogIn(green, roles);
  const objects = new Map(here.map(({ object, on }) => [object, on]));
  const missing = roles.map((role): MissingRights => {
    if (!known.has(role)) return { role, absent: true, rights: [], owned: [] };
    const own = new Map(here.filter((each) => each.role === role).map(({ object, has }) => [object, has]));
    const rights = there.flatMap((each) => {
      const on = objects.get(each.object);
      if (each.role !== role || on === undefined) return [];
      const privileges = each.needs.filter((one) => !covers(own.get(each.object) ?? [], one));
      return privileges.length === 0 ? [] : [{ on, privileges }];
    });
    const isOwner = new Set(
      ownedThere.filter((each) => each.role === role && each.owns).map(({ relation }) => relation),
    );
    const owned = ownedHere
      .filter((each) => each.role === role && !each.owns && isOwner.has(each.relation))
      .map(({ relation, owner, ownerIsSuperuser, isRestricted }) => ({
        ...{ relation, owner, ownerIsSuperuser, isRestricted },
      }));
    return { role, absent: false, rights, owned };
  });
  return missing.filter(isAnything);
}

function isAnything({ absent, rights, owned }: MissingRights): boolean {
  return absent || rights.length > 0 || owned.length > 0;
}

/**
 * What of it the application would meet with its first requests: an error, or rows that are missing. What it can't make,
 * change or refresh keeps no writes on blue: whoever runs green may mean it so.
 */
export function inTheWay(missing: readonly MissingRights[]): MissingRights[] {
  return missing
    .map(({ rights, owned, ...role }) => ({
      ...role,
      rights: rights
        .map(({ on, privileges }) => ({ on, privileges: privileges.filter((one) => one !== 'CREATE') }))
        .filter(({ privileges }) => privileges.length > 0),
      owned: owned.filter(({ isRestricted }) => isRestricted),
    }))
    .filter(isAnything);
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

interface RightsOfRole {
  readonly role: string;
  /** The same on both sides, whose databases may have two names. */
  readonly object: string;
  readonly on: string;
  /** All that it may do, in whichever way. */
  readonly has: readonly string[];
  /** What of it the role must have on the other side, too. */
  readonly needs: readonly string[];
}

/** Of every object, also those on which a role has no right. */
async function readRights(session: Session, roles: readonly string[]): Promise<RightsOfRole[]> {
  const { rows } = await session.query<RightsOfRole>(RIGHTS, [roles]);
  return rows;
}

/**
 * Making something is no business of most roles: it counts where it was given to the role or to one that it is a member of.
 * What everybody has is by a default of PostgreSQL, such as CREATE in the schema public before version 15.
 */
function given(acl: string, privilege: string): string {
  return `EXISTS (SELECT FROM aclexplode(${acl}) a
                   WHERE a.privilege_type = '${privilege}' AND a.grantee <> 0 AND pg_has_role(role.oid, a.grantee, 'USAGE'))`;
}

function when(condition: string, privilege: string): string {
  return `CASE WHEN ${condition} THEN '${privilege}' END`;
}

const ACL_OF_SCHEMA = `coalesce(n.nspacl, acldefault('n', n.nspowner))`;
const ACL_OF_DATABASE = `coalesce(d.datacl, acldefault('d', d.datdba))`;

const RELATION_RIGHTS = `
  WITH role AS (SELECT rolname::text AS name, oid FROM pg_roles WHERE rolname = ANY ($1))
  SELECT role.name AS role, 'TABLE ' || ${RELATION} AS object,
         array_remove(ARRAY[
           ${['SELECT', 'INSERT', 'UPDATE']
             .map(
               (right) => `CASE WHEN has_table_privilege(role.oid, c.oid, '${right}') THEN '${right}'
                WHEN has_any_column_privilege(role.oid, c.oid, '${right}') THEN '${ofSomeColumns(right)}' END`,
             )
             .join(', ')},
           ${['DELETE', 'TRUNCATE']
             .map((right) => when(`has_table_privilege(role.oid, c.oid, '${right}')`, right))
             .join(', ')}], NULL) AS has
    FROM role, pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
   WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't' AND NOT c.relispartition AND ${USER_SCHEMA}
   UNION ALL
  SELECT role.name, 'SEQUENCE ' || ${RELATION},
         array_remove(ARRAY[${['USAGE', 'SELECT', 'UPDATE']
           .map((right) => when(`has_sequence_privilege(role.oid, c.oid, '${right}')`, right))
           .join(', ')}], NULL)
    FROM role, pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
   WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND ${USER_SCHEMA}`;

/** A right on some columns only is told from one on all of them. Partitions, of which there may be thousands, are left to their parents. */
const RIGHTS = `
  SELECT role, object, object AS on, has, has AS needs FROM (${RELATION_RIGHTS}) relation
   UNION ALL
  SELECT role.rolname::text, o.object, o.object, o.has, o.needs
    FROM pg_roles role, pg_namespace n,
         LATERAL (SELECT 'SCHEMA ' || quote_ident(n.nspname) AS object,
                         array_remove(ARRAY[${when(`has_schema_privilege(role.oid, n.oid, 'USAGE')`, 'USAGE')},
                                            ${when(`has_schema_privilege(role.oid, n.oid, 'CREATE')`, 'CREATE')}], NULL) AS has,
                         array_remove(ARRAY[${when(`has_schema_privilege(role.oid, n.oid, 'USAGE')`, 'USAGE')},
                                            ${when(given(ACL_OF_SCHEMA, 'CREATE'), 'CREATE')}], NULL) AS needs) o
   WHERE role.rolname = ANY ($1) AND ${USER_SCHEMA}
   UNION ALL
  SELECT role.rolname::text, 'DATABASE', 'DATABASE ' || quote_ident(d.datname), o.has, o.needs
    FROM pg_roles role, pg_database d,
         LATERAL (SELECT array_remove(ARRAY[${['CONNECT', 'CREATE', 'TEMPORARY']
           .map((right) => when(`has_database_privilege(role.oid, d.oid, '${right}')`, right))
           .join(', ')}], NULL) AS has,
                         array_remove(ARRAY[${when(`has_database_privilege(role.oid, d.oid, 'CONNECT')`, 'CONNECT')},
                                            ${when(given(ACL_OF_DATABASE, 'CREATE'), 'CREATE')},
                                            ${when(given(ACL_OF_DATABASE, 'TEMPORARY'), 'TEMPORARY')}], NULL) AS needs) o
   WHERE role.rolname = ANY ($1) AND d.datname = current_database()`;

interface OwnedByRole extends Owned {
  readonly role: string;
  readonly owns: boolean;
}

async function readOwned(session: Session, roles: readonly string[]): Promise<OwnedByRole[]> {
  const { rows } = await session.query<OwnedByRole>(OWNED, [roles]);
  return rows;
}

/** Sequences need no owner to be used. */
const OWNED = `
  SELECT role.rolname::text AS role, ${RELATION} AS relation, o.rolname::text AS owner, o.rolsuper AS "ownerIsSuperuser",
         pg_has_role(role.oid, c.relowner, 'USAGE') AS owns,
         c.relrowsecurity AND NOT c.relforcerowsecurity AND NOT role.rolbypassrls
           AND ${mayHideRows('role.oid')} AS "isRestricted"
    FROM pg_roles role, pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_roles o ON o.oid = c.relowner
   WHERE role.rolname = ANY ($1)
     AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition AND ${USER_RELATION}
   ORDER BY 1, 2`;

/** How many objects of one role are named. */
const NAMED = 5;

/** For people, with the statements that give them; empty when nothing is missing. */
export function describeMissingRights(missing: readonly MissingRights[]): string[] {
  return missing.flatMap(({ role, absent, rights, owned }) => {
    if (absent) {
      return [
        `the role "${role}" is connected to blue, and green has no such role that may log in: CREATE ROLE ${ident(role)} LOGIN, with the password, the memberships and the grants that it has on blue`,
      ];
    }
    return [...describeRights(role, rights), ...describeOwned(role, owned)];
  });
}

function describeRights(role: string, rights: readonly Right[]): string[] {
  if (rights.length === 0) return [];
  const grants = rights
    .slice(0, NAMED)
    .map(({ on, privileges }) => `GRANT ${privileges.join(', ')} ON ${on} TO ${ident(role)}`);
  const more = rights.length > NAMED ? `; and on ${rights.length - NAMED} more` : '';
  return [
    `the role "${role}" is connected to blue and may do there what it may not on green: ${grants.join('; ')}${more}`,
  ];
}

/** Only an owner may change a table or refresh a view, and policies do not apply to it. */
function describeOwned(role: string, owned: readonly Owned[]): string[] {
  if (owned.length === 0) return [];
  const names = owned.slice(0, NAMED).map(({ relation }) => relation);
  const more = owned.length > NAMED ? ` and ${owned.length - NAMED} more` : '';
  const owners = [...new Set(owned.filter((one) => !one.ownerIsSuperuser).map(({ owner }) => owner))];
  const asMember = owners.map((owner) => `GRANT ${ident(owner)} TO ${ident(role)}`).join('; ');
  const policies = owned.some(({ isRestricted }) => isRestricted) ? 'policies for rows would apply to it, and ' : '';
  const each = `GRANT ${ident(role)} TO the user of green's connection and ALTER TABLE ... OWNER TO ${ident(role)} for each`;
  return [
    `the role "${role}" is connected to blue and is there an owner of what it does not own on green (${names.join(', ')}${more}): ${policies}it could neither change nor refresh them: ${asMember === '' ? each : `${asMember}; or ${each}`}`,
  ];
}
