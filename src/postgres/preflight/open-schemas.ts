import { isOfUsers } from '../catalog.js';
import { ident } from '../identifier.js';
import { changedTables, planWork } from '../migrate/plan-work.js';
import { BOTH_SIDES, type Found, type SideCheck } from './check.js';
import { listed } from './finding.js';

/*
 * Expressions of the plan, and comparisons of keys whose types are no part of PostgreSQL, find names in schemas of users,
 * too. A function or operator there for exactly these types is taken before one of PostgreSQL's own (CVE-2018-1058), and
 * runs as the user of the connection.
 */

interface OpenSchema {
  readonly schema: string;
  /** Null for PUBLIC. */
  readonly grantees: readonly (string | null)[];
}

export const openSchemas: SideCheck = {
  name: 'open-schemas',
  sides: BOTH_SIDES,
  run: async ({ session, side, plan, tables }) => {
    // A standby is as blue is.
    if (side === 'green' && plan.bootstrap.method === 'standby') return [];
    const moved = await tables();
    const named = [
      ...changedTables(await planWork(plan)),
      ...moved.filter(({ key }) => key?.columns.some(isOfUsers)).map(({ name }) => name),
    ];
    if (named.length === 0) return [];
    const { rows } = await session.query<OpenSchema>(OPEN_SCHEMAS, [
      named.map(({ schema }) => schema),
      moved.map(({ oid }) => oid),
      // Of a new green nobody owns tables yet: there those to come have got this right for them.
      side === 'green',
    ]);
    return rows.length === 0 ? [] : [mayMakeFunctions(rows)];
  },
};

function mayMakeFunctions(open: readonly OpenSchema[]): Found {
  const who = ({ schema, grantees }: OpenSchema): string =>
    `${schema}: ${grantees.map((grantee) => grantee ?? 'everybody').join(', ')}`;
  const revoke = ({ schema, grantees }: OpenSchema): string =>
    `REVOKE CREATE ON SCHEMA ${ident(schema)} FROM ${grantees.map((grantee) => (grantee === null ? 'PUBLIC' : ident(grantee))).join(', ')}`;
  return {
    severity: 'warning',
    object: listed(open.map(who)),
    message:
      'these own none of the tables that are moved, and may make functions and operators where expressions of the plan, and keys of types that are not of PostgreSQL, look for theirs: what they make there may be taken for it, and runs as the user of the connection',
    remedy: `${open.map(revoke).join('; ')}, unless you trust them with that (docs/security.md)`,
  };
}

/**
 * The schemas in which others may CREATE: not their owner, that of the database or of a moved table, and whoever may act as
 * one of these.
 */
const OPEN_SCHEMAS = `
  SELECT n.nspname AS schema, json_agg(CASE a.grantee WHEN 0 THEN NULL ELSE pg_get_userbyid(a.grantee) END ORDER BY a.grantee) AS grantees
    FROM pg_namespace n CROSS JOIN LATERAL aclexplode(n.nspacl) a
   WHERE (n.nspname = ANY ($1::text[]) OR n.nspname = 'public' OR n.oid IN (SELECT extnamespace FROM pg_extension))
     AND n.nspname !~ '^pg_' AND a.privilege_type = 'CREATE'
     AND (a.grantee = 0
          OR NOT $3 AND a.grantee <> (SELECT oid FROM pg_roles WHERE rolname = current_user)
             AND NOT EXISTS (SELECT FROM (SELECT n.nspowner
                                          UNION SELECT datdba FROM pg_database WHERE datname = current_database()
                                          UNION SELECT relowner FROM pg_class WHERE oid = ANY ($2::oid[])) AS o (owner)
                              WHERE pg_has_role(a.grantee, o.owner, 'USAGE')))
   GROUP BY n.nspname ORDER BY n.nspname`;
