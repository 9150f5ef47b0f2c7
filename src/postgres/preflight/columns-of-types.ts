import { formatTableName } from '../../plan/table-name.js';
import type { TableInfo } from '../catalog.js';
import type { Session } from '../session.js';

/**
 * The columns of these tables that hold values of one of these types of PostgreSQL, also within another type (array,
 * domain, composite, range). Stored ones: what is generated is made anew.
 *
 * @returns `schema.table.column`
 */
export async function columnsOfTypes(
  session: Session,
  tables: readonly TableInfo[],
  types: readonly string[],
): Promise<string[]> {
  const { rows } = await session.query<{ oid: string; name: string }>(
    // From the columns down, by indexes: up from a type, each step would read all columns and types of the database.
    `WITH RECURSIVE part (whole, typid) AS (
       SELECT a.atttypid, a.atttypid FROM pg_attribute a
        WHERE a.attrelid = ANY ($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
       UNION
       SELECT p.whole, inner_type.typid FROM part p JOIN pg_type t ON t.oid = p.typid CROSS JOIN LATERAL (
         SELECT t.typelem WHERE t.typcategory = 'A'
         UNION ALL SELECT t.typbasetype WHERE t.typtype = 'd'
         UNION ALL SELECT a.atttypid FROM pg_attribute a
                    WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
         UNION ALL SELECT r.rngsubtype FROM pg_range r WHERE t.typtype = 'r' AND r.rngtypid = t.oid
         UNION ALL SELECT r.rngsubtype FROM pg_range r WHERE t.typtype = 'm' AND r.rngmultitypid = t.oid) inner_type (typid)),
     made_of (typid) AS (
       SELECT DISTINCT p.whole FROM part p JOIN pg_type t ON t.oid = p.typid
        WHERE t.typname = ANY ($2::text[]) AND t.typnamespace = 'pg_catalog'::regnamespace)
     SELECT a.attrelid::text AS oid, a.attname AS name
       FROM pg_attribute a JOIN made_of m ON m.typid = a.atttypid
      WHERE a.attrelid = ANY ($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
      ORDER BY 1, 2`,
    [tables.map(({ oid }) => oid), types],
  );
  const named = new Map(tables.map((table) => [String(table.oid), formatTableName(table.name)]));
  return rows.map(({ oid, name }) => `${named.get(oid) ?? oid}.${name}`);
}
