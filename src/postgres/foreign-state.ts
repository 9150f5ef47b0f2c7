import { VerdigrisError } from '../errors.js';
import type { Side } from '../side.js';
import type { Session } from './session.js';
import { sqlState } from './sqlstate.js';

/*
 * Whoever may CREATE in a database can make a schema `verdigris` before the first run does. What is in it then runs as the
 * user of our sessions, often a superuser: a view that is read, a trigger on what is written, a function that its owner
 * changes later. So nothing is read but plain tables, and nothing is used that belongs to a role which is not trusted.
 */

/** Raised by the DDL of schema verdigris where parts of it are not ours. */
export const FOREIGN_STATE = 'VDFOR';

/**
 * Of pg_class `c`: to read it may run code of its owner's, as a view does, a policy, a cast to a type of users, or an
 * expression of an index, which the planner evaluates.
 */
const IS_NOT_PLAIN = `(c.relkind NOT IN ('r', 'S', 'i') OR c.relrowsecurity OR c.relhasrules
          OR EXISTS (SELECT FROM pg_inherits h WHERE h.inhparent = c.oid)
          OR EXISTS (SELECT FROM pg_attribute a
                      WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.atttypid >= 16384)
          OR EXISTS (SELECT FROM pg_index i
                      WHERE i.indrelid = c.oid AND (i.indexprs IS NOT NULL OR i.indpred IS NOT NULL)))`;

const READ = ['owner', 'route', 'fence', 'marker_to_green', 'marker_to_blue', 'progress', 'router', 'event', 'ddl'];

/** Whether all that is read of schema verdigris can be read without running anybody's code. */
export const IS_PLAIN = `NOT EXISTS (
       SELECT FROM pg_class c
        WHERE c.oid = ANY (ARRAY[${READ.map((name) => `to_regclass('verdigris.${name}')`).join(', ')}]::oid[]) AND ${IS_NOT_PLAIN})`;

/** Whether a role could act as our user anyway: it is that user, a superuser, or a member. */
const isTrusted = (role: string): string => `pg_has_role(${role}, current_user, 'MEMBER')`;

/**
 * What is in schema verdigris that is not ours, one a row (`what`): it belongs to a role that is not trusted, or for which
 * our user can't act; is not plain; or runs code of such a role when it is written to.
 */
export const FOREIGN_PARTS = `
  SELECT what FROM (
    WITH parts AS (
      SELECT 0 AS rank, 'the schema' AS name, nspowner AS owner FROM pg_namespace WHERE nspname = 'verdigris'
      UNION ALL
      SELECT 1, format('%s %I', CASE c.relkind WHEN 'S' THEN 'sequence' WHEN 'v' THEN 'view' ELSE 'table' END, c.relname), c.relowner
        FROM pg_class c WHERE c.relnamespace = to_regnamespace('verdigris') AND c.relkind <> 'i'
      UNION ALL
      SELECT 2, format('function %s(%s)', quote_ident(p.proname), pg_get_function_identity_arguments(p.oid)), p.proowner
        FROM pg_proc p WHERE p.pronamespace = to_regnamespace('verdigris'))
    SELECT rank, name, format('%s belongs to %I', name, pg_get_userbyid(owner)) AS what FROM parts
     WHERE NOT (${isTrusted('owner')} AND pg_has_role(owner, 'USAGE'))
    UNION ALL
    SELECT 3, c.relname, format('%I is no plain table', c.relname)
      FROM pg_class c WHERE c.relnamespace = to_regnamespace('verdigris') AND c.relkind <> 'c' AND ${IS_NOT_PLAIN}
    UNION ALL
    SELECT 4, t.tgname, format('trigger %I of %I calls a function of %I', t.tgname, c.relname, pg_get_userbyid(p.proowner))
      FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_proc p ON p.oid = t.tgfoid
     WHERE c.relnamespace = to_regnamespace('verdigris') AND NOT t.tgisinternal AND NOT ${isTrusted('p.proowner')}) part
   ORDER BY rank, name LIMIT 5`;

/** Ends the transaction where schema verdigris has such parts, with a list of some. */
export const REFUSE_FOREIGN_PARTS = `
DO $do$
DECLARE
  parts text;
BEGIN
  SELECT string_agg(what, ', ') INTO parts FROM (${FOREIGN_PARTS}) p;
  IF parts IS NOT NULL THEN
    RAISE EXCEPTION '%', parts USING ERRCODE = '${FOREIGN_STATE}';
  END IF;
END $do$;`;

/** Some of the parts of schema verdigris that are not ours; empty when there are none, or no such schema. */
export async function readForeignParts(session: Session): Promise<string[]> {
  const { rows } = await session.query<{ what: string }>(FOREIGN_PARTS);
  return rows.map(({ what }) => what);
}

/** What is told of such a schema. */
export function notOurs(side: Side, parts: string): { readonly message: string; readonly nextStep: string } {
  return {
    message: `${side} has a schema verdigris that is not of this connection's user, who would run what others have put into it: ${parts}`,
    nextStep: `where an earlier run made it as another user, give the connection of ${side} that user, or make all of it the new one's (docs/connections.md, "Another user"). Where nobody knows who made it, and no migration has moved writes to or from this database (its fence goes with the schema: a side that was closed would take writes again): DROP SCHEMA verdigris CASCADE`,
  };
}

/**
 * Asked before anything of schema verdigris is read; again where it is brought up to date.
 *
 * @throws VerdigrisError StateNotOurs
 */
export async function refuseForeignState(session: Session, side: Side): Promise<void> {
  const parts = await readForeignParts(session);
  if (parts.length > 0) throw new VerdigrisError({ type: 'StateNotOurs', ...notOurs(side, parts.join(', ')) });
}

/** @returns the error to throw for one that was met while schema verdigris was made */
export function asForeignState(error: unknown, side: Side): unknown {
  if (sqlState(error) !== FOREIGN_STATE || !(error instanceof Error)) return error;
  return new VerdigrisError({ type: 'StateNotOurs', ...notOurs(side, error.message), cause: error });
}
