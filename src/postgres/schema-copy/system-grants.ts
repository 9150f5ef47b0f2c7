import { ident } from '../identifier.js';
import type { Session } from '../session.js';

/*
 * Grants on what no schema copy makes: built-in functions and views, and members of extensions. A dump has them, as far as
 * they differ from what the server or the extension came with. On green these objects belong to whoever has made them, which
 * for built-in ones and trusted extensions is the first superuser: another user is refused (42501), or nothing comes of it.
 */

/** What a role may do on blue with such an object and not on green, or the other way round. */
export interface SystemGrant {
  /** What gives or takes it on green. */
  readonly statement: string;
  /** Whether green's user owns the object there, so that the copy repeats the grant. */
  readonly own: boolean;
}

/** Names of such objects with grants, as keyOfSystemObject makes them. */
export type SystemObjects = ReadonlySet<string>;

/** @param schema null for what is in none, as schemas themselves */
export function keyOfSystemObject(schema: string | null, name: string): string {
  return JSON.stringify([schema, name]);
}

/**
 * Which objects of blue are built in or members of extensions, and have grants.
 *
 * @param of members of these extensions only. Default: all of them, and what is built in
 */
export async function readSystemObjects(blue: Session, of?: readonly string[]): Promise<SystemObjects> {
  const objects = (await readObjects(blue, null)).filter(
    ({ extension }) => of === undefined || (extension !== null && of.includes(extension)),
  );
  return new Set(objects.map(({ schema, name }) => keyOfSystemObject(schema, name)));
}

/**
 * In what the grants of such objects on green fall short of blue's, or go beyond them. Only what somebody has changed on blue is
 * looked at: what a server or an extension comes with may be another in each version. A member of an extension that is not
 * on green yet is taken to come as it came to blue.
 *
 * @param leftOut extensions that green does not get
 */
export async function differentSystemGrants(
  blue: Session,
  green: Session,
  leftOut: readonly string[],
): Promise<SystemGrant[]> {
  const { rows } = await blue.query<{ user: string }>('SELECT current_user::text AS user');
  const changed = (await readObjects(blue, null)).filter(
    ({ now, initially, extension }) => !isSame(now, initially) && !(extension !== null && leftOut.includes(extension)),
  );
  if (changed.length === 0) return [];
  const onGreen = await readObjects(green, [...new Set(changed.map(({ name }) => name))]);
  const known = new Map(onGreen.map((object) => [keyOf(object), object]));
  return changed.flatMap((object) => {
    const other = known.get(keyOf(object));
    // What another version has no more nobody can use there.
    if (other === undefined && object.builtIn) return [];
    const there = other?.now ?? object.initially;
    const own = other?.own === true;
    const what = `ON ${object.kind} ${object.identity}`;
    const given = object.now.filter(
      (one) => !has(object.initially, one) && !has(there, one) && one.grantee !== rows[0]?.user,
    );
    const taken = object.initially.filter((one) => !has(object.now, one) && has(there, one));
    return [
      ...given.map(({ privilege, grantee }) => ({
        own,
        statement: `GRANT ${privilege} ${what} TO ${roleOf(grantee)}`,
      })),
      ...taken.map(({ privilege, grantee }) => ({
        own,
        statement: `REVOKE ${privilege} ${what} FROM ${roleOf(grantee)}`,
      })),
    ];
  });
}

/** How many statements are named. */
const NAMED = 8;

/** For people, with the statements that mend it; empty when nothing is different. */
export function describeSystemGrants(different: readonly SystemGrant[]): string[] {
  if (different.length === 0) return [];
  const statements = different.slice(0, NAMED).map(({ statement }) => statement);
  const more = different.length > NAMED ? `; and ${different.length - NAMED} more` : '';
  return [
    `grants on built-in objects and members of extensions are not on green as on blue, where only their owner or a superuser may give and take them: ${statements.join('; ')}${more}`,
  ];
}

interface Grant {
  readonly privilege: string;
  /** Null for PUBLIC. */
  readonly grantee: string | null;
}

interface SystemObject {
  /** As GRANT names it. */
  readonly kind: string;
  /** Qualified and quoted, with the arguments of a function. */
  readonly identity: string;
  /** Null for what is in no schema. */
  readonly schema: string | null;
  readonly name: string;
  /** Of which it is a member; null for none. */
  readonly extension: string | null;
  readonly builtIn: boolean;
  readonly own: boolean;
  /** Without the owner's own. */
  readonly now: readonly Grant[];
  /** What it came with. */
  readonly initially: readonly Grant[];
}

function keyOf({ kind, identity }: SystemObject): string {
  return `${kind} ${identity}`;
}

function has(grants: readonly Grant[], { privilege, grantee }: Grant): boolean {
  return grants.some((grant) => grant.privilege === privilege && grant.grantee === grantee);
}

function isSame(some: readonly Grant[], others: readonly Grant[]): boolean {
  return some.length === others.length && some.every((one) => has(others, one));
}

function roleOf(grantee: string | null): string {
  return grantee === null ? 'PUBLIC' : ident(grantee);
}

/** @param names which objects; null for those with grants of their own */
async function readObjects(session: Session, names: readonly string[] | null): Promise<SystemObject[]> {
  const { rows } = await session.query<SystemObject>(OBJECTS, [names]);
  return rows;
}

function grantsIn(acl: string): string {
  return `(SELECT coalesce(json_agg(json_build_object('privilege', a.privilege_type,
             'grantee', CASE WHEN a.grantee <> 0 THEN pg_get_userbyid(a.grantee) END)), '[]')
            FROM aclexplode(${acl}) a WHERE a.grantee <> o.owner)`;
}

/** pg_init_privs has what initdb and the scripts of extensions have granted; without a row there it was the default. */
const OBJECTS = `
  WITH object AS (
    SELECT CASE prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END AS kind, 'f'::"char" AS type, 'pg_proc'::regclass AS class, oid,
           proname::text AS name, pronamespace AS namespace, proowner AS owner, proacl AS acl FROM pg_proc
     UNION ALL
    SELECT CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", 'pg_class'::regclass, oid,
           relname, relnamespace, relowner, relacl FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
     UNION ALL
    SELECT 'SCHEMA', 'n', 'pg_namespace'::regclass, oid, nspname, oid, nspowner, nspacl FROM pg_namespace
     UNION ALL
    SELECT 'TYPE', 'T', 'pg_type'::regclass, oid, typname, typnamespace, typowner, typacl FROM pg_type
     UNION ALL
    SELECT 'LANGUAGE', 'l', 'pg_language'::regclass, oid, lanname, NULL, lanowner, lanacl FROM pg_language
     UNION ALL
    SELECT 'FOREIGN DATA WRAPPER', 'F', 'pg_foreign_data_wrapper'::regclass, oid, fdwname, NULL, fdwowner, fdwacl FROM pg_foreign_data_wrapper
  )
  SELECT o.kind, i.identity, o.name, CASE WHEN o.kind <> 'SCHEMA' THEN n.nspname END AS schema,
         e.extname AS extension, coalesce(n.nspname IN ('pg_catalog', 'information_schema'), false) AS "builtIn", pg_has_role(o.owner, 'USAGE') AS own,
         ${grantsIn('coalesce(o.acl, acldefault(o.type, o.owner))')} AS now,
         ${grantsIn('coalesce(p.initprivs, acldefault(o.type, o.owner))')} AS initially
    FROM object o
    LEFT JOIN pg_namespace n ON n.oid = o.namespace
    LEFT JOIN pg_init_privs p ON p.classoid = o.class AND p.objoid = o.oid AND p.objsubid = 0
    LEFT JOIN pg_depend d ON d.classid = o.class AND d.objid = o.oid AND d.deptype = 'e'
    LEFT JOIN pg_extension e ON e.oid = d.refobjid,
         pg_identify_object(o.class, o.oid, 0) i
   WHERE CASE WHEN $1::text[] IS NOT NULL THEN o.name = ANY ($1)
              ELSE o.acl IS NOT NULL OR EXISTS (SELECT FROM pg_attribute c WHERE o.type = 'r' AND c.attrelid = o.oid AND c.attacl IS NOT NULL) END
     AND (n.nspname IN ('pg_catalog', 'information_schema') OR e.oid IS NOT NULL)
   ORDER BY 1, 2`;
