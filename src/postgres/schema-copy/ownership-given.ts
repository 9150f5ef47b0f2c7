import { USER_SCHEMA } from '../catalog.js';
import { majorVersion } from '../retry.js';
import type { Session } from '../session.js';
import { notOfExtension, USER_RELATION } from './catalog-description.js';

/**
 * Whether green can get blue's owners and grants: from a superuser always; from another user when everything on blue
 * belongs to roles that this user may become on green, as a managed service has it. Otherwise all belongs to green's user.
 *
 * Source: ALTER ... OWNER TO asks for membership in the new owner, who needs CREATE on the schema; GRANT is the owner's.
 */
export async function canGiveOwnership(blue: Session, green: Session): Promise<boolean> {
  const { rows } = await green.query<{ superuser: boolean }>(
    'SELECT rolsuper AS superuser FROM pg_roles WHERE rolname = current_user',
  );
  if (rows[0]?.superuser === true) return true;
  const { owners, schemas, foreign } = await ownersOf(blue);
  if (foreign || owners.length === 0) return false;
  return mayBecome(green, owners, schemas);
}

interface Owners {
  readonly owners: readonly string[];
  /** Who has made something in which schema. */
  readonly schemas: readonly { readonly owner: string; readonly schema: string }[];
  /** Somebody who is not the owner has granted something: only a superuser can repeat that. */
  readonly foreign: boolean;
}

async function ownersOf(blue: Session): Promise<Owners> {
  const { rows } = await blue.query<Owners>(OWNERS);
  return rows[0] ?? { owners: [], schemas: [], foreign: true };
}

/** A standard's `public` belongs to pg_database_owner, whoever that is. Objects without a schema have owners that are recorded. */
const OWNERS = `
  WITH owned AS (
    SELECT c.relowner AS owner, c.relnamespace AS schema, c.relacl AS acl FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 'c') AND ${USER_RELATION}
     UNION ALL
    SELECT p.proowner, p.pronamespace, p.proacl FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
     WHERE ${USER_SCHEMA} AND ${notOfExtension('pg_proc', 'p.oid')}
     UNION ALL
    SELECT t.typowner, t.typnamespace, t.typacl FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
     WHERE ${USER_SCHEMA} AND t.typrelid = 0 AND t.typelem = 0 AND ${notOfExtension('pg_type', 't.oid')}
     UNION ALL
    SELECT n.nspowner, NULL, n.nspacl FROM pg_namespace n WHERE ${USER_SCHEMA} AND ${notOfExtension('pg_namespace', 'n.oid')}
     UNION ALL
    SELECT d.defaclrole, NULL, NULL FROM pg_default_acl d
     UNION ALL
    SELECT s.refobjid, NULL, NULL FROM pg_shdepend s
     WHERE s.refclassid = 'pg_authid'::regclass AND s.deptype = 'o'
       AND s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
       AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = s.classid AND e.objid = s.objid AND e.deptype = 'e')
       AND NOT (s.classid = 'pg_namespace'::regclass AND s.objid = to_regnamespace('verdigris'))
       AND NOT (s.classid = 'pg_class'::regclass AND (SELECT relnamespace FROM pg_class WHERE oid = s.objid) = to_regnamespace('verdigris'))
       AND s.classid NOT IN ('pg_proc'::regclass, 'pg_type'::regclass, 'pg_class'::regclass, 'pg_namespace'::regclass,
                             'pg_publication'::regclass, 'pg_event_trigger'::regclass)
  )
  SELECT (SELECT coalesce(json_agg(DISTINCT pg_get_userbyid(owner)), '[]') FROM owned
           WHERE pg_get_userbyid(owner) <> 'pg_database_owner') AS owners,
         (SELECT coalesce(json_agg(DISTINCT jsonb_build_object('owner', pg_get_userbyid(owner), 'schema', n.nspname)), '[]')
            FROM owned JOIN pg_namespace n ON n.oid = owned.schema) AS schemas,
         EXISTS (SELECT FROM owned, aclexplode(owned.acl) a WHERE a.grantor <> owned.owner) AS foreign`;

async function mayBecome(green: Session, owners: readonly string[], schemas: Owners['schemas']): Promise<boolean> {
  const right = (await majorVersion(green)) >= 16 ? 'SET' : 'MEMBER';
  const { rows } = await green.query<{ roles: number; schemas: number; owns: boolean }>(
    `SELECT (SELECT count(*)::int FROM pg_roles WHERE rolname = ANY ($1) AND pg_has_role(oid, '${right}')
                                                  AND pg_has_role(oid, 'USAGE')) AS roles,
            (SELECT count(*)::int FROM jsonb_to_recordset($2::jsonb) AS made (owner text, schema text)
               JOIN pg_namespace n ON n.nspname = made.schema JOIN pg_roles r ON r.rolname = made.owner
              WHERE NOT has_schema_privilege(r.oid, n.oid, 'CREATE')) AS schemas,
            -- What blue has changed in it is repeated.
            (SELECT pg_has_role(nspowner, 'USAGE') FROM pg_namespace WHERE nspname = 'public') AS owns`,
    [owners, JSON.stringify(schemas)],
  );
  const found = rows[0];
  return found?.roles === owners.length && found.schemas === 0 && found.owns !== false;
}
