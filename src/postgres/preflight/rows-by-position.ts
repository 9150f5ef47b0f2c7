import { grouped } from '../grouped.js';
import { qualified } from '../identifier.js';
import { planWork } from '../migrate/plan-work.js';
import { partitionTree } from '../partition-tree.js';
import type { Session } from '../session.js';
import type { Found, SideCheck } from './check.js';
import { listed } from './finding.js';
import { listsColumns } from './listed-rows.js';
import { putsWholeRows, statementsOf, type IsCalled } from './whole-rows.js';

/*
 * A function that puts whole rows of a table into another one (`INSERT INTO history SELECT OLD.*, now()`) counts the
 * columns of both. It is copied as it is, and an ordinary trigger does not fire for rows that arrive by replication: where
 * the plan gives the table more columns, its first call on green comes with the application's first write there.
 */

export const rowsByPosition: SideCheck = {
  name: 'rows-by-position',
  sides: ['blue'],
  onlyWarns: true,
  run: async ({ session, plan }) => {
    const { tables: works } = await planWork(plan);
    const widened = works.filter(({ columns }) => columns.length > 0).map(({ table }) => qualified(table));
    if (widened.length === 0) return [];
    const found = new Map<string, string[]>();
    const names = await namesOf(session, widened);
    const triggers = await triggersOf(session, widened);
    for (const { oid, name, text } of await functionsWithStar(session)) {
      const statements = statementsOf(text);
      for (const [table, isOne] of names) {
        const trigger = triggers.get(`${oid} ${table}`);
        const isCalled: IsCalled = (called, schema) =>
          isOne(called, schema) || (schema === undefined && trigger?.transitions.includes(called) === true);
        if (!putsWholeRows(statements, isCalled, trigger?.isEnabled === true)) continue;
        found.set(table, [...(found.get(table) ?? []), name]);
      }
    }
    const putting = [...found]
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([table, functions]): Found => ({
        severity: 'warning',
        object: table,
        message: `the plan gives columns to ${table}, and ${listed(functions)} ${functions.length === 1 ? 'puts' : 'put'} whole rows of it into a table by the order of their columns (OLD.*, NEW.*, SELECT *): on green there are more, so from the promotion on each such write fails, or puts values into the wrong columns where the types fit`,
        remedy:
          'Name the columns on blue before the run, those that are read and those that are written: INSERT INTO ... (a, b) SELECT OLD.a, OLD.b. Nothing, where the plan gives the other table the same columns in the same order',
      }));
    return [...putting, ...(await givingRows(session, widened))];
  },
};

/** Functions whose result is rows of a table, by a list of its columns. */
async function givingRows(session: Session, widened: readonly string[]): Promise<Found[]> {
  const { rows } = await session.query<{ table: string; name: string; language: string; text: string }>(
    `SELECT w.table, p.oid::regprocedure::text AS name, l.lanname::text AS language, p.prosrc AS text
       FROM (${WIDENED}) w JOIN pg_class c ON c.oid = w.relid
       JOIN pg_proc p ON p.prorettype = c.reltype AND p.prokind = 'f'
       JOIN pg_language l ON l.oid = p.prolang AND l.lanname IN ('plpgsql', 'sql')
      ORDER BY 1, 2`,
    [widened],
  );
  const giving = rows.filter(({ language, text }) => listsColumns(language, text));
  return [...grouped(giving, ({ table }) => table)].map(([{ table }, functions]) => ({
    severity: 'warning',
    object: table,
    message: `the plan gives columns to ${table}, and ${listed(functions.map(({ name }) => name))} ${functions.length === 1 ? 'returns' : 'return'} its rows by a list of columns: on green there are more, so each call fails, from the first read that is led there`,
    remedy: 'On blue before the run: SELECT t.* in place of the list, or RETURNS TABLE (...) with the columns',
  }));
}

/*
 * Three small questions, put together here: each function with each of thousands of partitions would be too many rows.
 */

/** The tables and their partitions, as `table` and `relid`. */
const WIDENED = `
SELECT to_regclass(name)::text AS table, tree.relid
  FROM unnest($1::text[]) name CROSS JOIN LATERAL ${partitionTree('to_regclass(name)')} tree`;

/** Under which names rows of a table are read: its own and those of its partitions. */
async function namesOf(session: Session, tables: readonly string[]): Promise<ReadonlyMap<string, IsCalled>> {
  const { rows } = await session.query<{ table: string; schema: string; name: string }>(
    `SELECT w.table, n.nspname::text AS schema, c.relname::text AS name
       FROM (${WIDENED}) w JOIN pg_class c ON c.oid = w.relid JOIN pg_namespace n ON n.oid = c.relnamespace`,
    [tables],
  );
  const schemas = new Map<string, Map<string, Set<string>>>();
  for (const { table, schema, name } of rows) {
    const ofTable = schemas.get(table) ?? new Map<string, Set<string>>();
    schemas.set(table, ofTable.set(name, (ofTable.get(name) ?? new Set()).add(schema)));
  }
  const isOneOf =
    (ofTable: ReadonlyMap<string, ReadonlySet<string>>): IsCalled =>
    (name, schema) => {
      const known = ofTable.get(name);
      return known !== undefined && (schema === undefined || known.has(schema));
    };
  return new Map([...schemas].map(([table, ofTable]) => [table, isOneOf(ofTable)]));
}

interface Trigger {
  readonly oid: number;
  readonly table: string;
  /** Whether it fires, and its function is given rows of the table as OLD and NEW. */
  readonly isEnabled: boolean;
  /** The names under which its function has the rows of a statement. */
  readonly transitions: readonly string[];
}

/** What triggers of a table, or of its partitions, call: by the number of the function and the table. */
async function triggersOf(session: Session, tables: readonly string[]): Promise<ReadonlyMap<string, Trigger>> {
  const { rows } = await session.query<Trigger>(
    `SELECT t.tgfoid AS oid, w.table, bool_or(t.tgenabled <> 'D') AS "isEnabled",
            array_remove(array_agg(DISTINCT transition), NULL) AS transitions
       FROM (${WIDENED}) w JOIN pg_trigger t ON t.tgrelid = w.relid AND NOT t.tgisinternal
      CROSS JOIN unnest(ARRAY[t.tgoldtable, t.tgnewtable]::text[]) transition
      GROUP BY 1, 2`,
    [tables],
  );
  return new Map(rows.map((trigger) => [`${trigger.oid} ${trigger.table}`, trigger]));
}

/** Functions that may put rows somewhere by the order of their columns, once each, however many tables there are. */
async function functionsWithStar(session: Session): Promise<{ oid: number; name: string; text: string }[]> {
  const { rows } = await session.query<{ oid: number; name: string; text: string }>(
    `SELECT p.oid, p.oid::regprocedure::text AS name, p.prosrc AS text
       FROM pg_proc p
       JOIN pg_language l ON l.oid = p.prolang AND l.lanname IN ('plpgsql', 'sql')
       JOIN pg_namespace n ON n.oid = p.pronamespace
      WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'verdigris')
        AND p.prosrc ~* '\\minsert\\s+into\\M' AND strpos(p.prosrc, '*') > 0
        AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_proc'::regclass AND e.objid = p.oid AND e.deptype = 'e')
      ORDER BY 2`,
  );
  return rows;
}
