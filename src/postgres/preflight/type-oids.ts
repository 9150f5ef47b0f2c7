import type { Plan } from '../../plan/schema.js';
import { sameTable } from '../catalog.js';
import { NEW_GREEN, type SideCheck } from './check.js';
import { listed } from './finding.js';

/** The first number that a server gives by itself: what is below has the same one on every server (FirstNormalObjectId). */
const FIRST_OF_ITS_OWN = 16_384;

/**
 * Columns whose type is not PostgreSQL's own. Green makes it anew, under another number, and numbers are what drivers know
 * types by: what one has learnt from blue is wrong on green, and the other way round.
 */
export const typeOids: SideCheck = {
  name: 'type-oids',
  sides: ['blue'],
  // A standby has blue's numbers.
  methods: NEW_GREEN,
  onlyWarns: true,
  run: async ({ session, plan, tables }) => {
    const { rows } = await session.query<{ type: string; columns: string[] }>(COLUMNS_BY_TYPE, [
      (await tables()).filter(({ name, root }) => sameTable(name, root)).map(({ oid }) => oid),
      FIRST_OF_ITS_OWN,
    ]);
    if (rows.length === 0) return [];
    return [
      {
        severity: movesForeignClients(plan) ? 'warning' : 'info',
        object: listed(rows.map(({ type, columns }) => `${type} (${listed(columns)})`)),
        message:
          'these types have other numbers (OIDs) on green. Drivers that have learnt those of blue send and read values by them: after the promotion, after a rollback, and where one pool reads from both sides, statements fail ("cache lookup failed for type"), or values come undecoded',
        remedy:
          'Let the application end its connections, or its processes, after each move of its writes or reads (docs/applications.md names drivers); or give the driver such values as plain text; or use bootstrap "standby", which keeps the numbers. Nothing, for drivers that know types by name',
      },
    ];
  },
};

/** Whether applications in any language are led to the other side, by the names and connections that they have. */
function movesForeignClients({ traffic }: Plan): boolean {
  return traffic.pgbouncer !== undefined || traffic.haproxy !== undefined || (traffic.webhooks?.length ?? 0) > 0;
}

/**
 * A domain goes to the client as what it is made of, an array under a number of its own. Partitions have their table's
 * columns. A type of PostgreSQL's own is made of nothing else: most columns are left out before anything is asked about them.
 */
const COLUMNS_BY_TYPE = `
SELECT format_type(t.oid, NULL) AS type, array_agg(c.oid::regclass || '.' || quote_ident(a.attname) ORDER BY c.oid::regclass::text, a.attnum) AS columns
  FROM pg_class c
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.atttypid >= $2::oid
 CROSS JOIN LATERAL (
   WITH RECURSIVE made_of (typid) AS (
     SELECT a.atttypid
     UNION ALL
     SELECT d.typbasetype FROM made_of m JOIN pg_type d ON d.oid = m.typid AND d.typtype = 'd')
   SELECT m.typid AS oid FROM made_of m JOIN pg_type d ON d.oid = m.typid AND d.typtype <> 'd') t
 WHERE c.oid = ANY ($1::oid[]) AND NOT c.relispartition AND t.oid >= $2::oid
 GROUP BY t.oid ORDER BY 1`;
