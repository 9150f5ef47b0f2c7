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
    `WITH RECURSIVE made_of (typid) AS (
       SELECT oid FROM pg_type WHERE typname = ANY ($2::text[]) AND typnamespace = 'pg_catalog'::regnamespace
       UNION
       SELECT whole.typid FROM made_of m CROSS JOIN LATERAL (
         SELECT t.oid FROM pg_type t WHERE (t.typelem = m.typid AND t.typcategory = 'A') OR (t.typtype = 'd' AND t.typbasetype = m.typid)
         UNION ALL SELECT c.reltype FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
                    WHERE a.atttypid = m.typid AND a.attnum > 0 AND NOT a.attisdropped AND c.reltype <> 0
         UNION ALL SELECT unnest(ARRAY[r.rngtypid, r.rngmultitypid]) FROM pg_range r WHERE r.rngsubtype = m.typid) whole (typid))
     SELECT a.attrelid::text AS oid, a.attname AS name
       FROM pg_attribute a JOIN made_of m ON m.typid = a.atttypid
      WHERE a.attrelid = ANY ($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
      ORDER BY 1, 2`,
    [tables.map(({ oid }) => oid), types],
  );
  const named = new Map(tables.map((table) => [String(table.oid), formatTableName(table.name)]));
  return rows.map(({ oid, name }) => `${named.get(oid) ?? oid}.${name}`);
}
