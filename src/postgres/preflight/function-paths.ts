import { expressionPath } from '../migrate/changed-table.js';
import { USER_SCHEMA } from '../catalog.js';
import { ident, literal, qualified } from '../identifier.js';
import type { Session } from '../session.js';
import { isConnectionLost, isUnknownName, isUnknownSetting, sqlState } from '../sqlstate.js';
import { NEW_GREEN, type Found, type SideCheck } from './check.js';
import { listed } from './finding.js';

/*
 * An index, a check, a generated column or a materialized view may call a function whose body names others without their
 * schema: it works in every session of the application, whose search_path leads there. But indexes are built, views
 * refreshed and rows applied with an empty search_path, by PostgreSQL itself and by us: there it fails, after all rows
 * have been copied. A plan does not show it, since bodies are mostly read when they run. So each such expression is
 * computed once, as it will be on green.
 *
 * A superuser must not lend its rights to whoever has written such a function. PostgreSQL computes these expressions as the
 * owner of the table, and so do we then.
 */

/** No single expression may take longer: an expensive one is left, since it has found its names by then. */
const EVALUATE_MS = 1_000;
/** All together; a database with thousands of them is not looked at to the end. */
const TOGETHER_MS = 15_000;
/** A function that is STRICT is not called for NULL: the first row alone may say nothing. */
const ROWS = 20;

interface Caller {
  /** As people write it: `index public.users_name`. */
  readonly object: string;
  readonly schema: string;
  readonly name: string;
  readonly partitioned: boolean;
  /** Over a row of the table; null for a view. */
  readonly expression: string | null;
  /** Of a materialized view; null else. */
  readonly query: string | null;
  /** Of the table or view. */
  readonly owner: Owner;
  /** The functions of users that it calls, with their arguments, schemas and owners. */
  readonly functions: readonly { readonly signature: string; readonly schema: string; readonly owner: Owner }[];
}

interface Owner {
  readonly role: string;
  readonly isSuperuser: boolean;
}

export const functionPaths: SideCheck = {
  name: 'function-search-path',
  sides: ['blue'],
  run: async ({ session, plan, tables, isSuperuser }) => {
    const { rows } = await session.query<Caller>(CALLERS, [
      (await tables()).map(({ oid }) => oid),
      // A standby brings what its views hold along.
      NEW_GREEN.includes(plan.bootstrap.method),
    ]);
    const found: Found[] = [];
    const left: Caller[] = [];
    const began = performance.now();
    for (const caller of rows) {
      if (performance.now() - began > TOGETHER_MS) break;
      const as = isSuperuser ? whoComputes(caller) : 'us';
      if (as === 'nobody') left.push(caller);
      else {
        const why = await unknownName(session, caller, as);
        if (why !== undefined) found.push(await judge(session, caller, why));
      }
    }
    return left.length === 0 ? found : [...found, notComputed(left)];
  },
};

type As = 'us' | { readonly role: string };

/** On behalf of a superuser: only what superusers have written is computed with our rights. */
function whoComputes({ owner, functions }: Caller): As | 'nobody' {
  if (!owner.isSuperuser) return { role: owner.role };
  return functions.every((one) => one.owner.isSuperuser) ? 'us' : 'nobody';
}

function notComputed(callers: readonly Caller[]): Found {
  return {
    severity: 'info',
    object: listed(callers.map(({ object }) => object)),
    message:
      'these were not computed: they belong to a superuser, and call functions of other roles, which would have run with its rights. Whether those name something without its schema is not known',
    remedy:
      'See that the functions have a search_path of their own (ALTER FUNCTION ... SET search_path); or give the tables another owner',
  };
}

async function judge(session: Session, { object, functions }: Caller, error: Error): Promise<Found> {
  const why = `${sqlState(error) ?? ''}: ${error.message}`;
  if (isUnknownSetting(error)) {
    return {
      severity: 'error',
      object,
      message: `${object} calls ${listed(functions.map(({ signature }) => signature))}, which reads a setting that only sessions of the application have: where indexes are built, views refreshed and rows copied and applied, it fails (${why})`,
      remedy:
        'ALTER DATABASE ... SET it on blue and on green, or write current_setting(..., true) into the function, which gives NULL where there is none',
    };
  }
  const alter: string[] = [];
  for (const { signature, schema } of functions) {
    alter.push(`ALTER FUNCTION ${signature} SET search_path = ${await expressionPath(session, schema)}`);
  }
  return {
    severity: 'error',
    object,
    message: `${object} calls ${listed(functions.map(({ signature }) => signature))}, which names something without its schema: with the empty search_path with which indexes are built, views refreshed and rows copied and applied, it fails (${why})`,
    remedy: `On blue, with the schemas of what the function names: ${listed(alter)}; or write the schemas into its body`,
  };
}

/**
 * What PostgreSQL does not find when the expression is computed with an empty search_path. To plan any query on a table it
 * reads the functions of all its indexes and statistics: then only what fails without the table, too, is to blame.
 */
async function unknownName(session: Session, caller: Caller, as: As): Promise<Error | undefined> {
  if (caller.query !== null) return unknownIn(session, as, ofView(caller.query));
  const why = await unknownIn(session, as, overRows(caller, tableOf(caller)));
  if (why === undefined) return undefined;
  const alone = await unknownIn(session, as, overRows(caller, noRowsOf(caller)));
  if (alone !== undefined) return alone;
  const ofTable = `SELECT count(*) FROM (SELECT FROM ${tableOf(caller)} LIMIT 1) AS verdigris_row`;
  return (await unknownIn(session, as, ofTable)) === undefined ? why : undefined;
}

/** Any other error says nothing: another role may not read what we may. */
async function unknownIn(session: Session, as: As, sql: string): Promise<Error | undefined> {
  await session.query(
    `BEGIN READ WRITE; SET LOCAL statement_timeout = ${EVALUATE_MS}; SET LOCAL lock_timeout = ${EVALUATE_MS}`,
  );
  let isMade = as === 'us';
  try {
    if (as !== 'us') await session.query(functionOf(as.role, sql));
    isMade = true;
    await session.query(`SET LOCAL search_path = ''; SET TRANSACTION READ ONLY`);
    await session.query(as === 'us' ? sql : `SELECT ${COMPUTE}`);
    return undefined;
  } catch (error) {
    if (isConnectionLost(error)) throw error;
    return isMade && isUnknownName(error) && error instanceof Error ? error : undefined;
  } finally {
    await session.query('ROLLBACK');
  }
}

const COMPUTE = 'pg_temp.verdigris_compute()';

/**
 * Unlike SET ROLE, a function that is SECURITY DEFINER is left by nothing that it calls: there, SET ROLE and RESET ROLE are
 * refused. Its body is read when it runs. Event triggers of the application are for its own DDL.
 */
function functionOf(role: string, sql: string): string {
  return `SET LOCAL check_function_bodies = off; SET LOCAL session_replication_role = replica;
    CREATE FUNCTION ${COMPUTE} RETURNS bigint LANGUAGE sql VOLATILE SECURITY DEFINER AS ${literal(sql)};
    ALTER FUNCTION ${COMPUTE} OWNER TO ${ident(role)};
    SET LOCAL session_replication_role = origin`;
}

/** Values are counted, so that none leaves the server. Where there is no row it is one of NULLs. */
function overRows({ expression }: Caller, from: string): string {
  return `SELECT count(verdigris_row)
            FROM (SELECT ROW(${expression ?? ''}) AS verdigris_row
                    FROM (VALUES (0)) AS verdigris_one (verdigris_n) LEFT JOIN ${from} ON true LIMIT ${ROWS}) AS verdigris_rows`;
}

function ofView(query: string): string {
  return `SELECT count(verdigris_row) FROM (SELECT * FROM (${query}\n) AS verdigris_view LIMIT 1) AS verdigris_row`;
}

function tableOf({ schema, name, partitioned }: Caller): string {
  return `${partitioned ? '' : 'ONLY '}${qualified({ schema, name })} AS ${ident(name)}`;
}

/** Of the table's type: an expression may name the whole row. */
function noRowsOf({ schema, name }: Caller): string {
  return `pg_catalog.unnest(ARRAY[]::${qualified({ schema, name })}[]) AS ${ident(name)}`;
}

function ownerOf(oid: string): string {
  return `(SELECT jsonb_build_object('role', o.rolname, 'isSuperuser', o.rolsuper) FROM pg_roles o WHERE o.oid = ${oid})`;
}

/**
 * What calls functions of users, directly or by an operator: those in C or with a search_path of their own aside, which
 * know where they look. What belongs to a partition because its parent has it is not asked again.
 */
const CALLERS = `
WITH open_path AS (
  SELECT p.oid, p.oid::regprocedure::text AS signature, n.nspname::text AS schema, ${ownerOf('p.proowner')} AS owner
    FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang JOIN pg_namespace n ON n.oid = p.pronamespace
   WHERE ${USER_SCHEMA} AND l.lanname NOT IN ('internal', 'c')
     AND NOT EXISTS (SELECT FROM unnest(p.proconfig) setting WHERE setting LIKE 'search\\_path=%')
), calls AS (
  SELECT d.classid, d.objid, f.signature, f.schema, f.owner
    FROM pg_depend d JOIN open_path f ON d.refclassid = 'pg_proc'::regclass AND d.refobjid = f.oid
  UNION
  SELECT d.classid, d.objid, f.signature, f.schema, f.owner
    FROM pg_depend d
    JOIN pg_operator o ON d.refclassid = 'pg_operator'::regclass AND d.refobjid = o.oid
    JOIN open_path f ON f.oid = o.oprcode
), moved AS (
  SELECT c.oid, c.relkind FROM pg_class c
   WHERE c.oid = ANY ($1::oid[])
      OR ($2 AND c.relkind = 'm' AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e'))
), asked AS (
  SELECT 'index ' || i.indexrelid::regclass AS object, i.indrelid AS relation, 'pg_class'::regclass AS classid, i.indexrelid AS objid,
         concat_ws(', ', pg_get_expr(i.indexprs, i.indrelid), pg_get_expr(i.indpred, i.indrelid)) AS expression, NULL AS query
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid AND NOT c.relispartition
   WHERE i.indexprs IS NOT NULL OR i.indpred IS NOT NULL
  UNION ALL
  SELECT 'constraint ' || quote_ident(k.conname) || ' of ' || k.conrelid::regclass, k.conrelid, 'pg_constraint'::regclass, k.oid,
         pg_get_expr(k.conbin, k.conrelid), NULL
    FROM pg_constraint k
   WHERE k.contype = 'c' AND k.conislocal AND k.conrelid <> 0
     -- Known since 18.
     AND coalesce((to_jsonb(k) ->> 'conenforced')::boolean, true)
  UNION ALL
  SELECT 'generated column ' || d.adrelid::regclass || '.' || quote_ident(a.attname), d.adrelid, 'pg_attrdef'::regclass, d.oid,
         pg_get_expr(d.adbin, d.adrelid), NULL
    FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
   WHERE a.attgenerated <> '' AND a.attislocal
  UNION ALL
  SELECT 'partition key of ' || p.partrelid::regclass, p.partrelid, 'pg_class'::regclass, p.partrelid,
         pg_get_expr(p.partexprs, p.partrelid), NULL
    FROM pg_partitioned_table p WHERE p.partexprs IS NOT NULL
  UNION ALL
  SELECT 'statistics ' || quote_ident(s.stxname) || ' of ' || s.stxrelid::regclass, s.stxrelid, 'pg_statistic_ext'::regclass, s.oid,
         pg_get_expr(s.stxexprs, s.stxrelid), NULL
    FROM pg_statistic_ext s WHERE s.stxexprs IS NOT NULL
  UNION ALL
  SELECT 'domain ' || k.contypid::regtype || ' of ' || a.attrelid::regclass || '.' || quote_ident(a.attname), a.attrelid,
         'pg_constraint'::regclass, k.oid,
         format('(%I::%s)::%s', a.attname, format_type(t.typbasetype, t.typtypmod), format_type(t.oid, NULL)), NULL
    FROM pg_constraint k JOIN pg_type t ON t.oid = k.contypid
    JOIN pg_attribute a ON a.atttypid = t.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attislocal
  UNION ALL
  SELECT 'materialized view ' || c.oid::regclass, c.oid, 'pg_rewrite'::regclass, r.oid, NULL, rtrim(pg_get_viewdef(c.oid), ';')
    FROM pg_class c JOIN pg_rewrite r ON r.ev_class = c.oid WHERE c.relkind = 'm'
)
SELECT asked.object, n.nspname AS schema, c.relname AS name, c.relkind = 'p' AS partitioned, asked.expression, asked.query,
       ${ownerOf('c.relowner')} AS owner,
       (SELECT json_agg(DISTINCT jsonb_build_object('signature', calls.signature, 'schema', calls.schema, 'owner', calls.owner)) FROM calls
         WHERE calls.classid = asked.classid AND calls.objid = asked.objid) AS functions
  FROM asked JOIN moved ON moved.oid = asked.relation
  JOIN pg_class c ON c.oid = asked.relation JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE EXISTS (SELECT FROM calls WHERE calls.classid = asked.classid AND calls.objid = asked.objid)
 ORDER BY 1`;
