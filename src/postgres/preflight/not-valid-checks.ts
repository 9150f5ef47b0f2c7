import { formatTableName, type TableName } from '../../plan/table-name.js';
import { sameTable } from '../catalog.js';
import { ident, qualified } from '../identifier.js';
import { planWork, type TableWork } from '../migrate/plan-work.js';
import type { Session } from '../session.js';
import { isConnectionLost, isRaisedByStatement } from '../sqlstate.js';
import type { Found, SideCheck } from './check.js';

/*
 * A CHECK or NOT NULL that is NOT VALID may be broken by rows from before it. PostgreSQL holds every new version of a row
 * against it, whichever columns an UPDATE sets: the backfill fails on each such row, one after the other. `copy` makes
 * those constraints when the rows are there, and has nothing to backfill.
 */

/** A large table without such a row is not read to its end. */
const LOOK_MS = 2_000;
/** All together. */
const TOGETHER_MS = 15_000;

interface NotValid extends TableName {
  /** Of the table. */
  readonly oid: number;
  readonly constraint: string;
  /** Over a row of the table. */
  readonly expression: string;
  /** Whether it calls functions of users, which nobody lends the rights of our session to. */
  readonly calls: boolean;
}

export const notValidChecks: SideCheck = {
  name: 'not-valid-checks',
  sides: ['blue'],
  methods: ['tablesync', 'standby'],
  run: async ({ session, plan, tables }) => {
    const { tables: works } = await planWork(plan);
    const written = new Map<number, string>();
    for (const { oid, root } of await tables()) {
      const rows = writtenRows(works.find(({ table }) => sameTable(table, root)));
      if (rows !== undefined) written.set(oid, rows);
    }
    if (written.size === 0) return [];
    const { rows } = await session.query<NotValid>(NOT_VALID, [[...written.keys()]]);
    const found: Found[] = [];
    const began = performance.now();
    for (const one of rows) {
      const isLate = performance.now() - began > TOGETHER_MS;
      const broken = one.calls || isLate ? undefined : await isBroken(session, one, written.get(one.oid) ?? 'true');
      if (broken !== false) found.push(judge(one, broken === true));
    }
    return found;
  },
};

/** The rows that the backfill may write, as a condition; undefined where it writes none of the table. */
function writtenRows(work: TableWork | undefined): string | undefined {
  const derived = work?.derived.filter(({ up }) => up !== undefined) ?? [];
  if (derived.length === 0) return undefined;
  const isOnBlue = (name: string): boolean => work?.columns.some((column) => column.name === name) === false;
  if (!derived.every(({ kind, column }) => kind === 'fill' && isOnBlue(column))) return 'true';
  return derived.map(({ column }) => `${ident(column)} IS NULL`).join(' OR ');
}

function judge({ constraint, ...table }: NotValid, isKnown: boolean): Found {
  const name = formatTableName(table);
  const rows = isKnown ? 'and has rows that break it' : 'and whether rows break it is not known';
  return {
    severity: isKnown ? 'error' : 'warning',
    object: `${name}.${constraint}`,
    message: `the constraint ${constraint} of ${name} is NOT VALID, ${rows}: the backfill writes rows anew on green, and stops at each of these`,
    remedy: `On blue, before the run: mend the rows, then ALTER TABLE ${qualified(table)} VALIDATE CONSTRAINT ${constraint}; or drop it until the run has ended; or take bootstrap.method "copy", which leaves nothing to be backfilled`,
  };
}

/** Undefined where it can't be told: it takes too long, policies hide rows, the expression itself fails. */
async function isBroken(
  session: Session,
  { expression, ...table }: NotValid,
  written: string,
): Promise<boolean | undefined> {
  await session.query(`BEGIN READ ONLY; SET LOCAL statement_timeout = ${LOOK_MS}; SET LOCAL lock_timeout = ${LOOK_MS}`);
  try {
    const { rowCount } = await session.query(
      `SELECT FROM ONLY ${qualified(table)} WHERE (${expression}) IS FALSE AND (${written}) LIMIT 1`,
    );
    return rowCount === 1;
  } catch (error) {
    if (isConnectionLost(error) && !isRaisedByStatement(error)) throw error;
    return undefined;
  } finally {
    await session.query('ROLLBACK');
  }
}

/** Of tables with rows of their own. Since 18 a NOT NULL is one of them, and another may be NOT ENFORCED. */
const NOT_VALID = `
SELECT c.oid::bigint::float8 AS oid, n.nspname::text AS schema, c.relname::text AS name, quote_ident(k.conname) AS constraint,
       CASE k.contype WHEN 'c' THEN pg_get_expr(k.conbin, k.conrelid)
            ELSE (SELECT format('%I IS NOT NULL', a.attname) FROM pg_attribute a WHERE a.attrelid = k.conrelid AND a.attnum = k.conkey[1])
        END AS expression,
       EXISTS (SELECT FROM pg_depend d LEFT JOIN pg_type t ON d.refclassid = 'pg_type'::regclass AND t.oid = d.refobjid
                WHERE d.classid = 'pg_constraint'::regclass AND d.objid = k.oid
                  AND (d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass) OR t.typtype = 'd')) AS calls
  FROM pg_constraint k
  JOIN pg_class c ON c.oid = k.conrelid AND c.relkind = 'r'
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE k.conrelid = ANY ($1::oid[]) AND k.contype IN ('c', 'n') AND NOT k.convalidated
   AND coalesce((to_jsonb(k) ->> 'conenforced')::boolean, true)
 ORDER BY 2, 3, 4`;
