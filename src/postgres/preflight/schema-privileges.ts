import { USER_SCHEMA } from '../catalog.js';
import { ident } from '../identifier.js';
import { notExcluded } from '../schema-copy/excluded-relations.js';
import { NEW_GREEN, type PairCheck, type SideContext } from './check.js';
import { listed } from './finding.js';

/**
 * CREATE on the database is no right to make anything in a schema that is there already: since PostgreSQL 15 nobody but the
 * database's owner has it on `public`.
 */
export const schemaPrivileges: PairCheck = {
  name: 'schema-privileges',
  methods: NEW_GREEN,
  run: async ({ blue, green }) => {
    const { rows } = await green.session.query<{ schema: string; user: string }>(
      `SELECT nspname AS schema, current_user AS user FROM pg_namespace
        WHERE nspname = ANY ($1) AND NOT (has_schema_privilege(oid, 'CREATE') AND has_schema_privilege(oid, 'USAGE'))
        ORDER BY 1`,
      [await copiedSchemas(blue)],
    );
    if (rows.length === 0) return [];
    const schemas = rows.map(({ schema }) => ident(schema));
    const user = rows[0]?.user ?? '';
    return [
      {
        side: 'green',
        severity: 'error',
        object: listed(schemas),
        message: `the user "${user}" may make nothing in ${schemas.length} schemas that green has already: blue's schema can't be copied into them`,
        remedy: `On green: GRANT USAGE, CREATE ON SCHEMA ${schemas.join(', ')} TO ${ident(user)}`,
      },
    ];
  },
};

/** The schemas of blue into which the copy puts something. */
async function copiedSchemas({ session, excluded }: SideContext): Promise<string[]> {
  const { rows } = await session.query<{ schema: string }>(COPIED_SCHEMAS, [JSON.stringify(await excluded())]);
  return rows.map(({ schema }) => schema);
}

/** Whatever stands in a schema of its own depends on it. */
const COPIED_SCHEMAS = `
  SELECT DISTINCT n.nspname AS schema
    FROM pg_depend d JOIN pg_namespace n ON n.oid = d.refobjid
    LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
   WHERE d.refclassid = 'pg_namespace'::regclass AND d.deptype = 'n' AND ${USER_SCHEMA}
     AND d.classid NOT IN ('pg_extension'::regclass, 'pg_statistic_ext'::regclass)
     AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = d.classid AND e.objid = d.objid AND e.deptype = 'e')
     AND ${notExcluded('$1')}
   ORDER BY 1`;
