import { formatTableName } from '../../plan/table-name.js';
import type { TableInfo } from '../catalog.js';
import type { Session } from '../session.js';
import { oneRow, type Found, type PairCheck, type SideContext } from './check.js';
import { listed } from './finding.js';

/** How a server writes amounts of type money. */
export interface MoneyFormat {
  /** lc_monetary. */
  readonly locale: string;
  /** Amounts as it writes them: locales of several names may do the same. */
  readonly sample: string;
}

/** A feed carries values as text, and how money is written and read depends on each server's own lc_monetary. */
export const money: PairCheck = {
  name: 'money',
  run: async ({ blue, green }) => {
    const columns = await moneyColumns(blue.session, await blue.tables());
    if (columns.length === 0) return [];
    const found = judgeMoney(columns, await formatOf(blue), await formatOf(green));
    return found.map((one) => ({ ...one, side: 'green' }));
  },
};

/** The columns of these tables that hold money, also within another type. */
export async function moneyColumns(session: Session, tables: readonly TableInfo[]): Promise<string[]> {
  const { rows } = await session.query<{ oid: string; name: string }>(
    `WITH RECURSIVE made_of (typid) AS (
       SELECT 'money'::regtype::oid
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
    [tables.map(({ oid }) => oid)],
  );
  const named = new Map(tables.map((table) => [String(table.oid), formatTableName(table.name)]));
  return rows.map(({ oid, name }) => `${named.get(oid) ?? oid}.${name}`);
}

/** Of a new session of the connection's user, as the server's own processes for that user have it. */
function formatOf({ session }: SideContext): Promise<MoneyFormat> {
  return oneRow(
    session,
    `SELECT current_setting('lc_monetary') AS locale,
            concat_ws(' ', 1234567.89::numeric::money, (-1234.5)::numeric::money, 0.07::numeric::money) AS sample`,
  );
}

/** Whether what blue writes is what green reads. Pure. */
export function judgeMoney(columns: readonly string[], blue: MoneyFormat, green: MoneyFormat): Found[] {
  if (blue.sample === green.sample) return [];
  return [
    {
      severity: 'error',
      object: listed(columns),
      message: `these columns hold money, which is written as text in the feed: lc_monetary is "${blue.locale}" on blue and "${green.locale}" on green, which would refuse it or read another amount`,
      remedy: `ALTER DATABASE ... SET lc_monetary = '${blue.locale}' on green (as a superuser), where its system has that locale; or change the columns to numeric on blue`,
    },
  ];
}
