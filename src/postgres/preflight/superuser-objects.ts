import { NEW_GREEN, type PairCheck, type SideContext } from './check.js';
import { USER_SCHEMA } from '../catalog.js';
import { notOfExtension, notPartOfAnother } from '../schema-copy/catalog-description.js';
import { listed } from './finding.js';

/** What of blue only a superuser can make: the copy of the schema would end at the first of them, one in each run. */
export const superuserObjects: PairCheck = {
  name: 'superuser-objects',
  methods: NEW_GREEN,
  run: async ({ blue, green }) => {
    if (green.isSuperuser) return [];
    const { rows } = await blue.session.query<{ kind: string; objects: string[] }>(SUPERUSER_OBJECTS);
    const found = [...rows, ...(await foreignServers(blue, green)), ...(await schemaComments(blue, green))];
    return found.map(({ kind, objects }) => ({
      side: 'green',
      // Some managed services let others make these.
      severity: kind === WRAPPERS ? 'warning' : 'error',
      object: listed(objects),
      message: `${kind} can't be made by green's user, which is no superuser: the copy of the schema would fail (42501)`,
      remedy:
        kind === FOREIGN_SERVERS
          ? 'On green: GRANT USAGE ON FOREIGN DATA WRAPPER ... to it'
          : kind === COMMENT
            ? 'On green: ALTER SCHEMA ... OWNER TO it, or a role that it is in; or on blue: COMMENT ON SCHEMA ... IS NULL'
            : 'Give the run a superuser of green; or drop them on blue, or make them members of an extension that green has',
    }));
  },
};

const WRAPPERS = 'foreign data wrappers';
const FOREIGN_SERVERS = 'foreign servers of a wrapper that it may not use';
const COMMENT = 'comments on schemas that it does not own';

interface Refused {
  readonly kind: string;
  readonly objects: readonly string[];
}

/** A wrapper that green lacks comes with its extension, which has a check of its own. */
async function foreignServers({ session: blue }: SideContext, { session: green }: SideContext): Promise<Refused[]> {
  const { rows: servers } = await blue.query<{ server: string; wrapper: string }>(
    `SELECT s.srvname AS server, w.fdwname AS wrapper FROM pg_foreign_server s JOIN pg_foreign_data_wrapper w ON w.oid = s.srvfdw
      WHERE ${notOfExtension('pg_foreign_server', 's.oid')} ORDER BY 1`,
  );
  const { rows: refused } = await green.query<{ wrapper: string }>(
    `SELECT fdwname AS wrapper FROM pg_foreign_data_wrapper
      WHERE fdwname = ANY ($1) AND NOT has_foreign_data_wrapper_privilege(oid, 'USAGE')`,
    [servers.map(({ wrapper }) => wrapper)],
  );
  const objects = servers
    .filter(({ wrapper }) => refused.some((one) => one.wrapper === wrapper))
    .map(({ server, wrapper }) => `${server} (${wrapper})`);
  return objects.length === 0 ? [] : [{ kind: FOREIGN_SERVERS, objects }];
}

/** Of schemas that green has already. The standard one of public is left out of the dump. */
async function schemaComments({ session: blue }: SideContext, { session: green }: SideContext): Promise<Refused[]> {
  const { rows: commented } = await blue.query<{ schema: string }>(
    `SELECT n.nspname AS schema FROM pg_namespace n
      WHERE obj_description(n.oid, 'pg_namespace') <> CASE n.nspname WHEN 'public' THEN 'standard public schema' ELSE '' END
        AND ${USER_SCHEMA} AND ${notOfExtension('pg_namespace', 'n.oid')}`,
  );
  const { rows: refused } = await green.query<{ schema: string }>(
    `SELECT nspname AS schema FROM pg_namespace WHERE nspname = ANY ($1) AND NOT pg_has_role(nspowner, 'USAGE') ORDER BY 1`,
    [commented.map(({ schema }) => schema)],
  );
  return refused.length === 0 ? [] : [{ kind: COMMENT, objects: refused.map(({ schema }) => schema) }];
}

/** Of the schemas of users, and no members of extensions: those come with theirs. */
function made(kind: string, catalog: string, object: string, from: string, where = 'true'): string {
  return `SELECT '${kind}' AS kind, ${object} AS object FROM ${from} WHERE ${where} AND ${notOfExtension(catalog, 'o.oid')}`;
}

const inSchema = (column: string): string => `JOIN pg_namespace n ON n.oid = o.${column} AND ${USER_SCHEMA}`;
const named = (column: string): string => `format('%I.%I', n.nspname, o.${column})`;

/** What PostgreSQL itself has made stands below 16384. */
const SUPERUSER_OBJECTS = `
SELECT kind, array_agg(DISTINCT object ORDER BY object) AS objects FROM (
  ${[
    made('operator classes', 'pg_opclass', named('opcname'), `pg_opclass o ${inSchema('opcnamespace')}`),
    made('operator families', 'pg_opfamily', named('opfname'), `pg_opfamily o ${inSchema('opfnamespace')}`),
    made(
      'functions in a language that is not trusted, LEAKPROOF ones and aggregates with a state of type internal',
      'pg_proc',
      'o.oid::regprocedure::text',
      `pg_proc o ${inSchema('pronamespace')} JOIN pg_language l ON l.oid = o.prolang LEFT JOIN pg_aggregate a ON a.aggfnoid = o.oid`,
      `CASE WHEN o.prokind = 'a' THEN 'internal'::regtype IN (a.aggtranstype, a.aggmtranstype) ELSE NOT l.lanpltrusted OR o.proleakproof END
         AND ${notPartOfAnother('pg_proc', 'o.oid')}`,
    ),
    made(
      'base types',
      'pg_type',
      named('typname'),
      `pg_type o ${inSchema('typnamespace')}`,
      `o.typtype = 'b' AND NOT EXISTS (SELECT FROM pg_type element WHERE element.typarray = o.oid)`,
    ),
    made('text search parsers', 'pg_ts_parser', named('prsname'), `pg_ts_parser o ${inSchema('prsnamespace')}`),
    made('text search templates', 'pg_ts_template', named('tmplname'), `pg_ts_template o ${inSchema('tmplnamespace')}`),
    made(WRAPPERS, 'pg_foreign_data_wrapper', 'o.fdwname::text', 'pg_foreign_data_wrapper o'),
    made('access methods', 'pg_am', 'o.amname::text', 'pg_am o', 'o.oid >= 16384'),
    made('languages', 'pg_language', 'o.lanname::text', 'pg_language o', 'o.oid >= 16384'),
    made(
      'casts WITHOUT FUNCTION',
      'pg_cast',
      `format('%s AS %s', format_type(o.castsource, NULL), format_type(o.casttarget, NULL))`,
      'pg_cast o',
      `o.oid >= 16384 AND o.castmethod = 'b'`,
    ),
  ].join(' UNION ALL ')}) refused
 GROUP BY kind ORDER BY kind`;
