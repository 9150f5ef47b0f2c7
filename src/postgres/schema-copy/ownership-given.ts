import type { TablePatterns } from '../catalog-pattern.js';
import { USER_SCHEMA } from '../catalog.js';
import { majorVersion } from '../retry.js';
import type { Session } from '../session.js';
import { notOfExtension, notPartOfAnother, USER_RELATION } from './catalog-description.js';
import { excludedRelations, notExcluded } from './excluded-relations.js';
import { readLeftOut, type LeftOut } from './left-out-extensions.js';

/**
 * Whether green can get blue's owners and grants: from a superuser always; from another user when everything on blue
 * belongs to roles that this user may become on green, as a managed service has it. Otherwise all belongs to green's user.
 */
export async function canGiveOwnership(blue: Session, green: Session, tables: TablePatterns): Promise<boolean> {
  return (await ownershipObstacles(blue, green, tables)).length === 0;
}

/** A reason for which owners and grants are not copied. */
export type OwnershipObstacle =
  /** Green's user may not become a role that owns something on blue. */
  | ({ readonly kind: 'owner' } & OwnerOnBlue & BecomingOnGreen)
  /** A role owns something in a schema that green has already, and may make nothing there. */
  | { readonly kind: 'create'; readonly role: string; readonly schema: string }
  /** Green's schema public belongs to a role that is none of green's user: what blue has changed in it can't be repeated. */
  | {
      readonly kind: 'public';
      /** The owner of blue's database, where it is one of the owners and green's schema belongs to whoever owns its database. */
      readonly databaseOwner: string | null;
    }
  /** Another schema that green has already belongs neither to its owner on blue nor to a role that green's user has: no ALTER SCHEMA ... OWNER TO. */
  | ({ readonly kind: 'schema' } & ForeignSchema)
  /** Somebody who is not the owner has granted something: a role that is none can't repeat it as that one. */
  | { readonly kind: 'grant'; readonly grants: readonly ForeignGrant[]; readonly count: number };

interface OwnerOnBlue {
  readonly role: string;
  /** On blue. */
  readonly superuser: boolean;
  readonly count: number;
  /** Some of what it owns, such as `table public.orders`. */
  readonly objects: readonly string[];
}

interface BecomingOnGreen {
  /** Green has no such role. */
  readonly absent: boolean;
  /** A GRANT that says nothing of it would not let the user inherit and become the role: it is a member without that already, or NOINHERIT. */
  readonly needsOptions: boolean;
}

interface ForeignSchema {
  readonly schema: string;
  /** On blue. */
  readonly owner: string;
  readonly ownerOnGreen: string;
}

export interface ForeignGrant {
  /** As SQL names it after ON. */
  readonly on: string;
  readonly privilege: string;
  readonly grantor: string;
  readonly owner: string;
  /** Null for PUBLIC. */
  readonly grantee: string | null;
}

/**
 * Why green can't get blue's owners and grants, each reason by itself; empty when it can. Whose the tables are that the
 * plan leaves out is not asked, nor whose the schemas of extensions that are left out, nor which superuser owns `public`.
 *
 * Source: ALTER ... OWNER TO asks for membership in the new owner, who needs CREATE on the schema; GRANT is the owner's.
 */
export async function ownershipObstacles(
  blue: Session,
  green: Session,
  tables: TablePatterns,
): Promise<OwnershipObstacle[]> {
  const { rows } = await green.query<{ superuser: boolean }>(
    'SELECT rolsuper AS superuser FROM pg_roles WHERE rolname = current_user',
  );
  if (rows[0]?.superuser === true) return [];
  const leftOut = await readLeftOut(blue, green, tables);
  const onBlue = await oneRow<OnBlue>(blue, OWNERS, await notOwned(blue, tables, leftOut));
  const { owners, schemas, made, foreign, foreignCount, databaseOwner } = onBlue;
  const names = owners.map(({ role }) => role);
  const onGreen = await oneRow<OnGreen>(green, mayNot((await majorVersion(green)) >= 16 ? 'SET' : 'MEMBER'), [
    names,
    JSON.stringify(made),
    JSON.stringify(schemas),
  ]);
  const becoming = new Map(onGreen.roles.map((role) => [role.role, role]));
  const obstacles: OwnershipObstacle[] = owners.flatMap((owner) => {
    const found = becoming.get(owner.role);
    return found === undefined ? [] : [{ kind: 'owner' as const, ...owner, ...found }];
  });
  obstacles.push(...onGreen.schemas.map((schema) => ({ kind: 'create' as const, ...schema })));
  if (onGreen.publicOwner !== null && !onGreen.ownsPublic) {
    const ofDatabase = onGreen.publicOwner === 'pg_database_owner' && names.includes(databaseOwner);
    obstacles.push({ kind: 'public', databaseOwner: ofDatabase ? databaseOwner : null });
  }
  obstacles.push(...onGreen.foreignSchemas.map((schema) => ({ kind: 'schema' as const, ...schema })));
  if (foreignCount > 0) obstacles.push({ kind: 'grant', grants: foreign, count: foreignCount });
  return obstacles;
}

interface OnBlue {
  readonly owners: readonly OwnerOnBlue[];
  /** Without public. */
  readonly schemas: readonly { readonly schema: string; readonly owner: string }[];
  /** Who has made something in which schema. */
  readonly made: readonly { readonly role: string; readonly schema: string }[];
  readonly foreign: readonly ForeignGrant[];
  readonly foreignCount: number;
  readonly databaseOwner: string;
}

/** The parameters of OWNED: relations and schemas that are not copied. */
async function notOwned(blue: Session, tables: TablePatterns, leftOut: LeftOut): Promise<unknown[]> {
  return [JSON.stringify(await excludedRelations(blue, tables)), leftOut.schemas];
}

/**
 * A standard's `public` belongs to pg_database_owner, whoever that is. Objects without a schema have owners that are recorded;
 * those of extensions are in no dump. The role of a user mapping is recorded as its owner, and need not make it: the owner of
 * its server does.
 */
const OWNED = `
    SELECT 'pg_class'::regclass AS class, c.oid, CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind,
           c.relowner AS owner, c.relnamespace AS schema, c.relacl AS acl FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 'c') AND ${USER_RELATION} AND ${notExcluded('$1')}
     UNION ALL
    SELECT 'pg_proc'::regclass, p.oid, 'ROUTINE', p.proowner, p.pronamespace, p.proacl FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
     WHERE ${USER_SCHEMA} AND ${notOfExtension('pg_proc', 'p.oid')} AND ${notPartOfAnother('pg_proc', 'p.oid')}
     UNION ALL
    SELECT 'pg_type'::regclass, t.oid, 'TYPE', t.typowner, t.typnamespace, t.typacl FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
     WHERE ${USER_SCHEMA} AND t.typrelid = 0 AND t.typelem = 0 AND ${notOfExtension('pg_type', 't.oid')} AND ${notPartOfAnother('pg_type', 't.oid')}
     UNION ALL
    SELECT 'pg_namespace'::regclass, n.oid, 'SCHEMA', n.nspowner, NULL, n.nspacl FROM pg_namespace n
     WHERE ${USER_SCHEMA} AND ${notOfExtension('pg_namespace', 'n.oid')} AND n.nspname <> ALL ($2::text[])
     UNION ALL
    SELECT 'pg_default_acl'::regclass, d.oid, '', d.defaclrole, NULL, NULL FROM pg_default_acl d
     UNION ALL
    SELECT s.classid::regclass, s.objid, '', s.refobjid, NULL, NULL FROM pg_shdepend s
     WHERE s.refclassid = 'pg_authid'::regclass AND s.deptype = 'o'
       AND s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
       AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = s.classid AND e.objid = s.objid AND e.deptype = 'e')
       AND NOT (s.classid = 'pg_namespace'::regclass AND s.objid = to_regnamespace('verdigris'))
       AND NOT (s.classid = 'pg_class'::regclass AND (SELECT relnamespace FROM pg_class WHERE oid = s.objid) = to_regnamespace('verdigris'))
       AND s.classid NOT IN ('pg_proc'::regclass, 'pg_type'::regclass, 'pg_class'::regclass, 'pg_namespace'::regclass,
                             'pg_publication'::regclass, 'pg_event_trigger'::regclass,
                             'pg_extension'::regclass, 'pg_largeobject'::regclass, 'pg_user_mapping'::regclass)`;

/**
 * A condition on what is owned: `public` of a superuser, as a database that began before PostgreSQL 15 has it. Whose it is
 * matters to nobody who has his rights by grants, and green's stays whose it is.
 */
const PUBLIC_OF_SUPERUSER = `(class = 'pg_namespace'::regclass AND oid IN (SELECT s.oid FROM pg_namespace s WHERE s.nspname = 'public')
                                AND owner IN (SELECT r.oid FROM pg_roles r WHERE r.rolsuper))`;

const OWNERS = `
  WITH owned AS (${OWNED}
  ), owning AS (
    SELECT * FROM owned WHERE pg_get_userbyid(owner) <> 'pg_database_owner' AND NOT ${PUBLIC_OF_SUPERUSER}
  ), given AS (
    SELECT o.kind, o.class, o.oid, o.owner, a.* FROM owned o, aclexplode(o.acl) a WHERE a.grantor <> o.owner
  )
  SELECT (SELECT coalesce(json_agg(json_build_object(
                   'role', pg_get_userbyid(g.owner), 'superuser', coalesce((SELECT rolsuper FROM pg_roles WHERE oid = g.owner), false),
                   'count', g.count,
                   'objects', (SELECT json_agg(i.type || ' ' || i.identity)
                                 FROM (SELECT class, oid FROM owning WHERE owner = g.owner ORDER BY class, oid LIMIT 3) o,
                                      pg_identify_object(o.class, o.oid, 0) i)) ORDER BY pg_get_userbyid(g.owner)), '[]')
            FROM (SELECT owner, count(*)::int AS count FROM owning GROUP BY owner) g) AS owners,
         (SELECT coalesce(json_agg(json_build_object('schema', n.nspname, 'owner', pg_get_userbyid(n.nspowner))), '[]')
            FROM owned JOIN pg_namespace n ON n.oid = owned.oid
           WHERE owned.class = 'pg_namespace'::regclass AND n.nspname <> 'public') AS schemas,
         (SELECT coalesce(json_agg(DISTINCT jsonb_build_object('role', pg_get_userbyid(owner), 'schema', n.nspname)), '[]')
            FROM owned JOIN pg_namespace n ON n.oid = owned.schema) AS made,
         (SELECT coalesce(json_agg(json_build_object(
                   'on', g.kind || ' ' || (pg_identify_object(g.class, g.oid, 0)).identity, 'privilege', g.privilege_type,
                   'grantor', pg_get_userbyid(g.grantor), 'owner', pg_get_userbyid(g.owner),
                   'grantee', CASE WHEN g.grantee <> 0 THEN pg_get_userbyid(g.grantee) END)), '[]')
            FROM (SELECT * FROM given ORDER BY class, oid, grantee, privilege_type LIMIT 3) g) AS foreign,
         (SELECT count(*)::int FROM given) AS "foreignCount",
         (SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()) AS "databaseOwner"`;

interface OnGreen {
  readonly roles: readonly ({ readonly role: string } & BecomingOnGreen)[];
  readonly schemas: readonly { readonly role: string; readonly schema: string }[];
  readonly foreignSchemas: readonly ForeignSchema[];
  /** Null where green has no schema public. */
  readonly publicOwner: string | null;
  readonly ownsPublic: boolean;
}

/** What stands in the way on green. @param right what ALTER ... OWNER TO asks for: SET, MEMBER before PostgreSQL 16 */
function mayNot(right: 'SET' | 'MEMBER'): string {
  return `
    SELECT (SELECT coalesce(json_agg(json_build_object(
                     'role', wanted.role, 'absent', r.oid IS NULL,
                     'needsOptions', coalesce(pg_has_role(r.oid, 'MEMBER'), false) OR NOT me.rolinherit) ORDER BY wanted.role), '[]')
              FROM unnest($1::text[]) AS wanted (role) LEFT JOIN pg_roles r ON r.rolname = wanted.role
              JOIN pg_roles me ON me.rolname = current_user
             WHERE r.oid IS NULL OR NOT pg_has_role(r.oid, '${right}') OR NOT pg_has_role(r.oid, 'USAGE')) AS roles,
           (SELECT coalesce(json_agg(json_build_object('role', made.role, 'schema', made.schema) ORDER BY made.schema, made.role), '[]')
              FROM jsonb_to_recordset($2::jsonb) AS made (role text, schema text)
              JOIN pg_namespace n ON n.nspname = made.schema JOIN pg_roles r ON r.rolname = made.role
             WHERE NOT has_schema_privilege(r.oid, n.oid, 'CREATE')) AS schemas,
           (SELECT coalesce(json_agg(json_build_object('schema', theirs.schema, 'owner', theirs.owner,
                                                       'ownerOnGreen', pg_get_userbyid(n.nspowner)) ORDER BY theirs.schema), '[]')
              FROM jsonb_to_recordset($3::jsonb) AS theirs (schema text, owner text) JOIN pg_namespace n ON n.nspname = theirs.schema
             WHERE pg_get_userbyid(n.nspowner) <> theirs.owner AND NOT pg_has_role(n.nspowner, 'USAGE')) AS "foreignSchemas",
           (SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'public') AS "publicOwner",
           -- What blue has changed in it is repeated.
           coalesce((SELECT pg_has_role(nspowner, 'USAGE') FROM pg_namespace WHERE nspname = 'public'), true) AS "ownsPublic"`;
}

/**
 * The first superuser of blue's server, where something that is copied with its owner and grants names it; else null.
 * PostgreSQL records of every other role what depends on it, and of this one nothing (oid 10, BOOTSTRAP_SUPERUSERID).
 */
export async function firstSuperuserNamed(
  blue: Session,
  tables: TablePatterns,
  leftOut: LeftOut,
): Promise<string | null> {
  const { rows } = await blue.query<{ name: string }>(
    `WITH owned AS (${OWNED}), owning AS (SELECT * FROM owned WHERE owner <> 10 OR NOT ${PUBLIC_OF_SUPERUSER})
     SELECT rolname AS name FROM pg_roles
      WHERE oid = 10 AND (EXISTS (SELECT FROM owning WHERE owner = 10)
                          OR EXISTS (SELECT FROM owning, aclexplode(owning.acl) a WHERE 10 IN (a.grantee, a.grantor)))`,
    await notOwned(blue, tables, leftOut),
  );
  return rows[0]?.name ?? null;
}

/**
 * The superuser of blue that owns its schema `public`, where green's is not given to a role of that name: green has none, or
 * its user is no superuser. Giving it away could take from the owners of tables the right to make them there. Else null.
 */
export async function superuserOfPublic(blue: Session, green: Session): Promise<string | null> {
  const { rows } = await blue.query<{ name: string }>(
    `SELECT r.rolname::text AS name FROM pg_namespace n JOIN pg_roles r ON r.oid = n.nspowner
      WHERE n.nspname = 'public' AND r.rolsuper`,
  );
  const name = rows[0]?.name;
  if (name === undefined) return null;
  const { rowCount } = await green.query(
    `SELECT FROM pg_roles me, pg_roles owner WHERE me.rolname = current_user AND me.rolsuper AND owner.rolname = $1`,
    [name],
  );
  return rowCount === 1 ? null : name;
}

async function oneRow<Row extends object>(session: Session, sql: string, values: unknown[]): Promise<Row> {
  const { rows } = await session.query<Row>(sql, values);
  const row = rows[0];
  if (row === undefined) throw new Error('a query without FROM returned no row');
  return row;
}
