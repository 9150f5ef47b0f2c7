import { SHORT_STATEMENTS, withSession, type Database } from '../session.js';
import { CHECK_VIOLATION, sqlState } from '../sqlstate.js';

/**
 * Whether a row was refused by a CHECK, of its table or of a domain, that calls a function of users. PostgreSQL believes
 * that such a one depends on the row alone; a function that reads other tables finds them half filled while rows are copied.
 *
 * @returns false, too, where the side can't be asked
 */
export async function isCheckByFunction(database: Database, error: unknown): Promise<boolean> {
  if (sqlState(error) !== CHECK_VIOLATION) return false;
  const { schema, table, dataType, constraint } = error as Readonly<Record<string, unknown>>;
  const options = { purpose: 'look at a check', ...SHORT_STATEMENTS };
  return withSession(database, options, async (session) => {
    const { rowCount } = await session.query(CALLS, [schema, table, dataType, constraint]);
    return rowCount === 1;
  }).catch(() => false);
}

const CALLS = `
SELECT FROM pg_constraint k
  LEFT JOIN pg_class c ON c.oid = k.conrelid
  LEFT JOIN pg_type t ON t.oid = k.contypid
  JOIN pg_namespace n ON n.oid IN (c.relnamespace, t.typnamespace)
  JOIN pg_depend d ON d.classid = 'pg_constraint'::regclass AND d.objid = k.oid
  LEFT JOIN pg_operator o ON d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid
  JOIN pg_proc p ON p.oid = CASE d.refclassid WHEN 'pg_proc'::regclass THEN d.refobjid ELSE o.oprcode::oid END
  JOIN pg_language l ON l.oid = p.prolang AND l.lanname NOT IN ('internal', 'c')
 WHERE k.contype = 'c' AND k.conname = $4 AND n.nspname = $1 AND coalesce(c.relname, t.typname) = coalesce($2::text, $3::text)
 LIMIT 1`;

/** The next step then, before that of a row which is wrong. */
export const TABLES_MAY_BE_MISSING =
  'the constraint calls a function: if that reads other tables, no row is to blame, and it is enough to resume: the table is copied again when those are there. If not, ';
