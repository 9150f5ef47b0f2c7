import { qualified } from '../identifier.js';
import { planWork } from '../migrate/plan-work.js';
import { partitionTree } from '../partition-tree.js';
import type { Found, SideCheck } from './check.js';
import { listed } from './finding.js';
import { finds, lookTogether } from './short-look.js';

/*
 * Every table is a type, too, and a column of another one may hold rows of it. Such a value goes from side to side as
 * text, with a field for each column: where the plan gives the table more columns, green refuses blue's values, and blue
 * those of green.
 */

interface RowColumn {
  /** The table that the plan changes. */
  readonly changed: string;
  /** The table that holds rows of it, and as it is read. */
  readonly holder: string;
  readonly source: string;
  readonly column: string;
}

export const rowTypes: SideCheck = {
  name: 'row-types',
  sides: ['blue'],
  run: async ({ session, plan, tables }) => {
    const { tables: works } = await planWork(plan);
    const widened = works.filter(({ columns }) => columns.length > 0).map(({ table }) => qualified(table));
    if (widened.length === 0) return [];
    const { rows } = await session.query<RowColumn>(ROW_COLUMNS, [widened, (await tables()).map(({ oid }) => oid)]);
    const found = {
      there: new Map<string, string[]>(),
      none: new Map<string, string[]>(),
      unknown: new Map<string, string[]>(),
    };
    const isLate = lookTogether();
    for (const { changed, holder, source, column } of rows) {
      // An empty array has no row in it.
      const sql = `SELECT FROM ${source} WHERE nullif(${column}::text, '{}') IS NOT NULL LIMIT 1`;
      const isThere = isLate() ? undefined : await finds(session, sql);
      const group = found[isThere === undefined ? 'unknown' : isThere ? 'there' : 'none'];
      group.set(changed, [...(group.get(changed) ?? []), `${holder}.${column}`]);
    }
    return [
      ...[...found.there].map((one) => judge('error', '', one)),
      ...[...found.unknown].map((one) => judge('warning', ', if there are any, which is not known', one)),
      ...[...found.none].map((one) => judge('warning', ', of which there are none now', one)),
    ];
  },
};

function judge(
  severity: Found['severity'],
  now: string,
  [changed, columns]: readonly [string, readonly string[]],
): Found {
  return {
    severity,
    object: changed,
    message: `the plan gives columns to ${changed}, and ${listed(columns)} ${columns.length === 1 ? 'holds' : 'hold'} rows of it as values${now}: with another number of fields on each side, the first one stops the copy or the feed, and the way back`,
    remedy: `Leave the new columns of ${changed} out of the plan; or exclude those tables; or give the columns another type on blue (jsonb, a type of their own) before the run`,
  };
}

/** Also of arrays, domains and other types that have it within. */
const ROW_COLUMNS = `
WITH RECURSIVE changed AS (
  SELECT tree.relid, to_regclass(name)::text AS named
    FROM unnest($1::text[]) name CROSS JOIN LATERAL ${partitionTree('to_regclass(name)')} tree
), made_of (typid, named) AS (
  SELECT c.reltype, changed.named FROM changed JOIN pg_class c ON c.oid = changed.relid
  UNION
  SELECT whole.typid, m.named FROM made_of m CROSS JOIN LATERAL (
    SELECT t.oid FROM pg_type t WHERE (t.typelem = m.typid AND t.typcategory = 'A') OR (t.typtype = 'd' AND t.typbasetype = m.typid)
    UNION ALL SELECT c.reltype FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
               WHERE a.atttypid = m.typid AND a.attnum > 0 AND NOT a.attisdropped AND c.reltype <> 0
    UNION ALL SELECT unnest(ARRAY[r.rngtypid, r.rngmultitypid]) FROM pg_range r WHERE r.rngsubtype = m.typid) whole (typid))
SELECT DISTINCT m.named AS changed, a.attrelid::regclass::text AS holder, quote_ident(a.attname) AS column,
       CASE c.relkind WHEN 'p' THEN '' ELSE 'ONLY ' END || a.attrelid::regclass AS source
  FROM made_of m JOIN pg_attribute a ON a.atttypid = m.typid
  JOIN pg_class c ON c.oid = a.attrelid AND NOT c.relispartition
 WHERE a.attrelid = ANY ($2::oid[]) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
 ORDER BY 1, 2, 3`;
