import { formatTableName, type TableName } from '../../plan/table-name.js';
import { sameTable, type TableInfo } from '../catalog.js';
import { ident, qualified } from '../identifier.js';
import { expressionPath } from '../migrate/changed-table.js';
import { mayRunCodeOfUsers } from '../migrate/expression-reads.js';
import { planWork, type TableWork } from '../migrate/plan-work.js';
import type { Session } from '../session.js';
import { isSessionLost } from '../sqlstate.js';
import type { Found, SideCheck } from './check.js';
import { finds, lookTogether } from './short-look.js';

/*
 * A CHECK or NOT NULL that is NOT VALID may be broken by rows from before it. PostgreSQL holds every new version of a row
 * against it, whichever columns an UPDATE sets: the backfill fails on each such row, one after the other. `copy` makes
 * those constraints when the rows are there, and has nothing to backfill.
 */

interface NotValid extends TableName {
  /** Of the table. */
  readonly oid: number;
  readonly constraint: string;
  /** Over a row of the table. */
  readonly expression: string;
  /** The columns that it reads. */
  readonly reads: readonly string[];
  /** Whether it calls functions of users, which nobody lends the rights of our session to. */
  readonly calls: boolean;
}

export const notValidChecks: SideCheck = {
  name: 'not-valid-checks',
  sides: ['blue'],
  methods: ['tablesync', 'standby'],
  run: async ({ session, plan, tables }) => {
    const works = (await planWork(plan)).tables.filter(({ derived }) => derived.some(({ up }) => up !== undefined));
    const moved = await tables();
    const oidsOf = ({ table }: TableWork): number[] =>
      moved.filter(({ root }) => sameTable(root, table)).map(({ oid }) => oid);
    const { rows } = await session.query<NotValid>(NOT_VALID, [works.flatMap(oidsOf)]);
    const written = new Map<number, WrittenRows>();
    for (const work of works) {
      const table = moved.find(({ name }) => sameTable(name, work.table));
      const oids = oidsOf(work).filter((oid) => rows.some((one) => one.oid === oid));
      if (table === undefined || oids.length === 0) continue;
      const ofTable = await writtenRows(session, table, work);
      for (const oid of oids) written.set(oid, ofTable);
    }
    const found: Found[] = [];
    const isLate = lookTogether();
    for (const one of rows) {
      const of = written.get(one.oid);
      if (of === undefined) continue;
      const broken = one.calls || isLate() ? 'unknown' : await lookForBroken(session, one, of);
      if (broken !== 'none') found.push(judge(one, broken));
    }
    return found;
  },
};

/** The rows of a table that the backfill writes, as conditions over a row of blue. */
interface WrittenRows {
  /** The table's name in expressions, also over its partitions, and their search_path. */
  readonly name: string;
  readonly searchPath: string;
  readonly surely: string;
  /** These may be among them. */
  readonly perhaps: string;
  /** Columns of blue in which a NULL gets a value: a row may break its constraint no more. */
  readonly filled: readonly string[];
}

async function writtenRows(session: Session, table: TableInfo, work: TableWork): Promise<WrittenRows> {
  const searchPath = await expressionPath(session, table.name.schema);
  const [surely, perhaps, filled]: [string[], string[], string[]] = [[], [], []];
  for (const { column, up } of work.derived) {
    if (up === undefined) continue;
    const added = work.columns.find(({ name }) => name === column);
    if (added === undefined) {
      filled.push(column);
      surely.push(`${ident(column)} IS NULL`);
      continue;
    }
    // Where it comes to NULL, there is nothing to be written; with a default, where it comes to that.
    const value = `CAST((${up}\n) AS ${added.type})`;
    const isKnown = added.default === undefined && (await mayBeComputed(session, table, searchPath, value));
    if (isKnown) surely.push(`${value} IS NOT NULL`);
    else perhaps.push('true');
  }
  return {
    ...{ name: table.name.name, searchPath, filled },
    ...{ surely: anyOf(surely), perhaps: anyOf([...surely, ...perhaps]) },
  };
}

function anyOf(conditions: readonly string[]): string {
  return conditions.length === 0 ? 'false' : conditions.map((condition) => `(${condition})`).join(' OR ');
}

/** Not where it reads another new column, or would lend the rights of our session to functions of users. */
async function mayBeComputed(session: Session, table: TableInfo, searchPath: string, value: string): Promise<boolean> {
  await session.query(`BEGIN; SET LOCAL lock_timeout = 2000`);
  try {
    await session.query(`SELECT set_config('search_path', $1, true)`, [searchPath]);
    return !(await mayRunCodeOfUsers(session, table, value));
  } catch (error) {
    if (isSessionLost(error)) throw error;
    return false;
  } finally {
    await session.query('ROLLBACK');
  }
}

/** `written`: there are such rows, and the backfill writes one; `there`: it may write one. */
type Broken = 'written' | 'there' | 'none' | 'unknown';

async function lookForBroken(
  session: Session,
  { expression, reads, ...table }: NotValid,
  { name, searchPath, surely, perhaps, filled }: WrittenRows,
): Promise<Broken> {
  const mended = filled.filter((column) => reads.includes(column));
  const look = (condition: string): Promise<boolean | undefined> =>
    finds(
      session,
      `SELECT FROM ONLY ${qualified(table)} AS ${ident(name)} WHERE (${expression}) IS FALSE AND (${condition}) LIMIT 1`,
      searchPath,
    );
  const isWritten = await look(
    [`(${surely})`, ...mended.map((column) => `${ident(column)} IS NOT NULL`)].join(' AND '),
  );
  if (isWritten === true) return 'written';
  const isThere = perhaps === surely && mended.length === 0 ? isWritten : await look(perhaps);
  return isThere === undefined ? 'unknown' : isThere ? 'there' : 'none';
}

const SAID: Readonly<Record<Exclude<Broken, 'none'>, string>> = {
  written: 'and has rows that break it: the backfill writes rows anew on green, and stops at each of these',
  there:
    'and has rows that break it: the backfill stops at each of these that it writes anew on green and does not mend by that',
  unknown:
    'and whether rows break it is not known: the backfill writes rows anew on green, and stops at each that breaks it',
};

function judge({ constraint, ...table }: NotValid, broken: Exclude<Broken, 'none'>): Found {
  const name = formatTableName(table);
  return {
    severity: broken === 'written' ? 'error' : 'warning',
    object: `${name}.${constraint}`,
    message: `the constraint ${constraint} of ${name} is NOT VALID, ${SAID[broken]}`,
    remedy: `On blue, before the run: mend the rows, then ALTER TABLE ${qualified(table)} VALIDATE CONSTRAINT ${constraint}; or drop it until the run has ended; or take bootstrap.method "copy", which leaves nothing to be backfilled`,
  };
}

/** Of tables with rows of their own. Since 18 a NOT NULL is one of them, and another may be NOT ENFORCED. */
const NOT_VALID = `
SELECT c.oid::bigint::float8 AS oid, n.nspname::text AS schema, c.relname::text AS name, quote_ident(k.conname) AS constraint,
       CASE k.contype WHEN 'c' THEN pg_get_expr(k.conbin, k.conrelid)
            ELSE (SELECT format('%I IS NOT NULL', a.attname) FROM pg_attribute a WHERE a.attrelid = k.conrelid AND a.attnum = k.conkey[1])
        END AS expression,
       ARRAY(SELECT a.attname::text FROM pg_attribute a
              WHERE a.attrelid = k.conrelid AND a.attnum > 0 AND (a.attnum = ANY (k.conkey) OR 0 = ANY (k.conkey))) AS reads,
       EXISTS (SELECT FROM pg_depend d LEFT JOIN pg_type t ON d.refclassid = 'pg_type'::regclass AND t.oid = d.refobjid
                WHERE d.classid = 'pg_constraint'::regclass AND d.objid = k.oid
                  AND (d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass) OR t.typtype = 'd')) AS calls
  FROM pg_constraint k
  JOIN pg_class c ON c.oid = k.conrelid AND c.relkind = 'r'
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE k.conrelid = ANY ($1::oid[]) AND k.contype IN ('c', 'n') AND NOT k.convalidated
   AND coalesce((to_jsonb(k) ->> 'conenforced')::boolean, true)
 ORDER BY 2, 3, 4`;
