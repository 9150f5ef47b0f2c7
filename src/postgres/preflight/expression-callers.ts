import { USER_SCHEMA } from '../catalog.js';
import type { Session } from '../session.js';

/** What is computed by functions of users: an index, a constraint, a generated column, a materialized view ... */
export interface Caller {
  /** As people write it: `index public.users_name`. */
  readonly object: string;
  /** `check`: of a table, or of a domain that a column has. */
  readonly kind: 'index' | 'check' | 'stored' | 'virtual' | 'partition key' | 'statistics' | 'view';
  /** False of a constraint that is NOT VALID. */
  readonly validated: boolean;
  /** The table or view. */
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
  readonly functions: readonly CalledFunction[];
}

export interface CalledFunction {
  readonly oid: string;
  readonly signature: string;
  readonly schema: string;
  readonly owner: Owner;
}

export interface Owner {
  readonly role: string;
  readonly isSuperuser: boolean;
}

export interface CallersOptions {
  /** Their oids. */
  readonly tables: readonly number[];
  /** Whether materialized views are asked as well. */
  readonly views: boolean;
  /** SQL over pg_proc as `p`: the functions that count. Never those in C. */
  readonly functions: string;
}

/** What calls such functions, directly or by an operator. */
export async function readCallers(session: Session, { tables, views, functions }: CallersOptions): Promise<Caller[]> {
  const { rows } = await session.query<Caller>(callersOf(functions), [tables, views]);
  return rows;
}

function ownerOf(oid: string): string {
  return `(SELECT jsonb_build_object('role', o.rolname, 'isSuperuser', o.rolsuper) FROM pg_roles o WHERE o.oid = ${oid})`;
}

/** What belongs to a partition because its parent has it is not asked again. */
const callersOf = (functions: string): string => `
WITH called AS (
  SELECT p.oid, p.oid::regprocedure::text AS signature, n.nspname::text AS schema, ${ownerOf('p.proowner')} AS owner
    FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang JOIN pg_namespace n ON n.oid = p.pronamespace
   WHERE ${USER_SCHEMA} AND l.lanname NOT IN ('internal', 'c')
     AND (${functions})
), calls AS (
  SELECT d.classid, d.objid, f.oid, f.signature, f.schema, f.owner
    FROM pg_depend d JOIN called f ON d.refclassid = 'pg_proc'::regclass AND d.refobjid = f.oid
  UNION
  SELECT d.classid, d.objid, f.oid, f.signature, f.schema, f.owner
    FROM pg_depend d
    JOIN pg_operator o ON d.refclassid = 'pg_operator'::regclass AND d.refobjid = o.oid
    JOIN called f ON f.oid = o.oprcode
), moved AS (
  SELECT c.oid, c.relkind FROM pg_class c
   WHERE c.oid = ANY ($1::oid[])
      OR ($2 AND c.relkind = 'm' AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e'))
), asked AS (
  SELECT 'index' AS kind, true AS validated, 'index ' || i.indexrelid::regclass AS object, i.indrelid AS relation, 'pg_class'::regclass AS classid, i.indexrelid AS objid,
         concat_ws(', ', pg_get_expr(i.indexprs, i.indrelid), pg_get_expr(i.indpred, i.indrelid)) AS expression, NULL AS query
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid AND NOT c.relispartition
   WHERE i.indexprs IS NOT NULL OR i.indpred IS NOT NULL
  UNION ALL
  SELECT 'check', k.convalidated, 'constraint ' || quote_ident(k.conname) || ' of ' || k.conrelid::regclass, k.conrelid, 'pg_constraint'::regclass, k.oid,
         pg_get_expr(k.conbin, k.conrelid), NULL
    FROM pg_constraint k
   WHERE k.contype = 'c' AND k.conislocal AND k.conrelid <> 0
     -- Known since 18.
     AND coalesce((to_jsonb(k) ->> 'conenforced')::boolean, true)
  UNION ALL
  SELECT CASE a.attgenerated WHEN 's' THEN 'stored' ELSE 'virtual' END, true, 'generated column ' || d.adrelid::regclass || '.' || quote_ident(a.attname), d.adrelid, 'pg_attrdef'::regclass, d.oid,
         pg_get_expr(d.adbin, d.adrelid), NULL
    FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
   WHERE a.attgenerated <> '' AND a.attislocal
  UNION ALL
  SELECT 'partition key', true, 'partition key of ' || p.partrelid::regclass, p.partrelid, 'pg_class'::regclass, p.partrelid,
         pg_get_expr(p.partexprs, p.partrelid), NULL
    FROM pg_partitioned_table p WHERE p.partexprs IS NOT NULL
  UNION ALL
  SELECT 'statistics', true, 'statistics ' || quote_ident(s.stxname) || ' of ' || s.stxrelid::regclass, s.stxrelid, 'pg_statistic_ext'::regclass, s.oid,
         pg_get_expr(s.stxexprs, s.stxrelid), NULL
    FROM pg_statistic_ext s WHERE s.stxexprs IS NOT NULL
  UNION ALL
  SELECT 'check', k.convalidated, 'domain ' || k.contypid::regtype || ' of ' || a.attrelid::regclass || '.' || quote_ident(a.attname), a.attrelid,
         'pg_constraint'::regclass, k.oid,
         format('(%I::%s)::%s', a.attname, format_type(t.typbasetype, t.typtypmod), format_type(t.oid, NULL)), NULL
    FROM pg_constraint k JOIN pg_type t ON t.oid = k.contypid
    JOIN pg_attribute a ON a.atttypid = t.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attislocal
  UNION ALL
  SELECT 'view', true, 'materialized view ' || c.oid::regclass, c.oid, 'pg_rewrite'::regclass, r.oid, NULL, rtrim(pg_get_viewdef(c.oid), ';')
    FROM pg_class c JOIN pg_rewrite r ON r.ev_class = c.oid WHERE c.relkind = 'm'
)
SELECT asked.object, asked.kind, asked.validated, n.nspname AS schema, c.relname AS name, c.relkind = 'p' AS partitioned, asked.expression, asked.query,
       ${ownerOf('c.relowner')} AS owner,
       (SELECT json_agg(DISTINCT jsonb_build_object('oid', calls.oid::text, 'signature', calls.signature, 'schema', calls.schema, 'owner', calls.owner)) FROM calls
         WHERE calls.classid = asked.classid AND calls.objid = asked.objid) AS functions
  FROM asked JOIN moved ON moved.oid = asked.relation
  JOIN pg_class c ON c.oid = asked.relation JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE EXISTS (SELECT FROM calls WHERE calls.classid = asked.classid AND calls.objid = asked.objid)
 ORDER BY 1`;
