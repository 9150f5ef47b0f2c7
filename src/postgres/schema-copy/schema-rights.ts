import { ident } from '../identifier.js';
import { USER_SCHEMA } from '../catalog.js';
import type { Session } from '../session.js';

/** Who owns a schema and who may do what in it. */
export interface SchemaRights {
  readonly schema: string;
  readonly owner: string;
  /** Without the owner's own. `grantee` is null for PUBLIC. */
  readonly grants: readonly {
    readonly grantee: string | null;
    readonly privilege: string;
    readonly grantable: boolean;
  }[];
}

export async function readSchemaRights(session: Session): Promise<SchemaRights[]> {
  const { rows } = await session.query<SchemaRights>(`
    SELECT n.nspname AS schema, pg_get_userbyid(n.nspowner) AS owner,
           coalesce((SELECT json_agg(json_build_object('grantee', CASE a.grantee WHEN 0 THEN NULL ELSE pg_get_userbyid(a.grantee) END,
                                                       'privilege', a.privilege_type, 'grantable', a.is_grantable)
                                     ORDER BY a.grantee, a.privilege_type)
                       FROM aclexplode(n.nspacl) a WHERE a.grantee <> n.nspowner), '[]') AS grants
      FROM pg_namespace n
     WHERE ${USER_SCHEMA}
     ORDER BY 1`);
  return rows;
}

/** Gives a schema back its owner and grants, where they are others now. */
export async function restoreSchemaRights(session: Session, wanted: SchemaRights): Promise<void> {
  const now = (await readSchemaRights(session)).find((rights) => rights.schema === wanted.schema);
  if (now === undefined || JSON.stringify(now) === JSON.stringify(wanted)) return;
  const schema = ident(wanted.schema);
  if (now.owner !== wanted.owner) await session.query(`ALTER SCHEMA ${schema} OWNER TO ${ident(wanted.owner)}`);
  for (const { grantee } of now.grants) await session.query(`REVOKE ALL ON SCHEMA ${schema} FROM ${roleOf(grantee)}`);
  for (const { grantee, privilege, grantable } of wanted.grants) {
    await session.query(
      `GRANT ${privilege} ON SCHEMA ${schema} TO ${roleOf(grantee)}${grantable ? ' WITH GRANT OPTION' : ''}`,
    );
  }
}

function roleOf(grantee: string | null): string {
  return grantee === null ? 'PUBLIC' : ident(grantee);
}
