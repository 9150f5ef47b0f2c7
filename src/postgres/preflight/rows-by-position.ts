import { qualified } from '../identifier.js';
import { planWork } from '../migrate/plan-work.js';
import { partitionTree } from '../partition-tree.js';
import type { Session } from '../session.js';
import type { SideCheck } from './check.js';
import { listed } from './finding.js';
import { putsWholeRows, type Called } from './whole-rows.js';

/*
 * A function that puts whole rows of a table into another one (`INSERT INTO history SELECT OLD.*, now()`) counts the
 * columns of both. It is copied as it is, and an ordinary trigger does not fire for rows that arrive by replication: where
 * the plan gives the table more columns, its first call on green comes with the application's first write there.
 */

interface Candidate {
  readonly table: string;
  readonly called: readonly Called[];
  readonly name: string;
  readonly text: string;
  /** Whether a trigger of the table calls it, with its rows as OLD and NEW. */
  readonly isTriggered: boolean;
}

export const rowsByPosition: SideCheck = {
  name: 'rows-by-position',
  sides: ['blue'],
  run: async ({ session, plan }) => {
    const { tables: works } = await planWork(plan);
    const widened = works.filter(({ columns }) => columns.length > 0).map(({ table }) => qualified(table));
    if (widened.length === 0) return [];
    const found = new Map<string, string[]>();
    for (const { table, name, text, called, isTriggered } of await candidates(session, widened)) {
      if (!putsWholeRows(text, called, isTriggered)) continue;
      found.set(table, [...(found.get(table) ?? []), name]);
    }
    return [...found].map(([table, functions]) => ({
      severity: 'warning',
      object: table,
      message: `the plan gives columns to ${table}, and ${listed(functions)} ${functions.length === 1 ? 'puts' : 'put'} whole rows of it into a table by the order of their columns (OLD.*, NEW.*, SELECT *): on green there are more, so from the promotion on each such write fails, or puts values into the wrong columns where the types fit`,
      remedy:
        'Name the columns on blue before the run, those that are read and those that are written: INSERT INTO ... (a, b) SELECT OLD.a, OLD.b. Nothing, where the plan gives the other table the same columns in the same order',
    }));
  },
};

async function candidates(session: Session, tables: readonly string[]): Promise<Candidate[]> {
  const { rows } = await session.query<Candidate>(
    `WITH widened AS (
       SELECT to_regclass(name)::text AS table, tree.relid
         FROM unnest($1::text[]) name CROSS JOIN LATERAL ${partitionTree('to_regclass(name)')} tree),
     called AS (
       SELECT w.table, NULL::oid AS function, n.nspname::text AS schema, c.relname::text AS name
         FROM widened w JOIN pg_class c ON c.oid = w.relid JOIN pg_namespace n ON n.oid = c.relnamespace
       UNION ALL
       SELECT w.table, t.tgfoid, NULL, transition
         FROM widened w JOIN pg_trigger t ON t.tgrelid = w.relid AND NOT t.tgisinternal
        CROSS JOIN unnest(ARRAY[t.tgoldtable, t.tgnewtable]::text[]) transition WHERE transition IS NOT NULL)
     SELECT w.table, p.oid::regprocedure::text AS name, p.prosrc AS text,
            (SELECT json_agg(json_build_object('schema', c.schema, 'name', c.name)) FROM called c
              WHERE c.table = w.table AND (c.function IS NULL OR c.function = p.oid)) AS called,
            EXISTS (SELECT FROM widened part JOIN pg_trigger t ON t.tgrelid = part.relid
                     WHERE part.table = w.table AND t.tgfoid = p.oid AND NOT t.tgisinternal AND t.tgenabled <> 'D') AS "isTriggered"
       FROM (SELECT DISTINCT widened.table FROM widened) w
      CROSS JOIN pg_proc p
       JOIN pg_language l ON l.oid = p.prolang AND l.lanname IN ('plpgsql', 'sql')
       JOIN pg_namespace n ON n.oid = p.pronamespace
      WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'verdigris')
        AND p.prosrc ~* '\\minsert\\s+into\\M' AND strpos(p.prosrc, '*') > 0
        AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_proc'::regclass AND e.objid = p.oid AND e.deptype = 'e')
      ORDER BY 1, 2`,
    [tables],
  );
  return rows;
}
