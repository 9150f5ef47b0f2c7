import { formatTableName, type TableName } from '../../plan/table-name.js';
import { USER_SCHEMA } from '../catalog.js';
import type { Session } from '../session.js';
import { NEW_GREEN, type Found, type SideCheck } from './check.js';
import { readCallers, type Caller } from './expression-callers.js';
import { listed } from './finding.js';
import { tablesRead } from './written-tables.js';

/*
 * PostgreSQL believes that a CHECK and a generated column depend on the row alone. A function in them that reads other
 * tables does so on green while those are being filled, each in its own time: right rows are refused, and generated
 * values are others than blue's. What is made behind the rows, as an index or a constraint that is NOT VALID, is made
 * when all tables are there.
 */
export const computedFromTables: SideCheck = {
  name: 'computed-from-tables',
  sides: ['blue'],
  methods: NEW_GREEN,
  run: async ({ session, tables }) => {
    const callers = await readCallers(session, {
      tables: (await tables()).map(({ oid }) => oid),
      views: false,
      functions: `l.lanname IN ('sql', 'plpgsql')
        AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_proc'::regclass AND e.objid = p.oid AND e.deptype = 'e')`,
    });
    const asked = callers.filter(({ kind, validated }) => kind === 'stored' || (kind === 'check' && validated));
    const readBy = await tablesReadBy(
      session,
      new Set(asked.flatMap(({ functions }) => functions.map(({ oid }) => oid))),
    );
    return asked.flatMap((caller) => {
      const reading = caller.functions.filter(({ oid }) => readBy.has(oid));
      if (reading.length === 0) return [];
      const read = new Set(reading.flatMap(({ oid }) => (readBy.get(oid) ?? []).map(formatTableName)));
      const calls = `${caller.object} calls ${listed(reading.map(({ signature }) => signature))}, which reads ${listed([...read].sort())}`;
      return [caller.kind === 'stored' ? generatedAnew(caller, calls) : heldAgainst(caller, calls)];
    });
  },
};

function heldAgainst({ object }: Caller, calls: string): Found {
  const isDomain = object.startsWith('domain ');
  return {
    severity: 'warning',
    object,
    message: `${calls}: on green rows come while those are not all there, so right ones may be refused (23514), which holds the run, or ends it with "onFailure" "rollback"`,
    remedy: `On blue until the run has ended: drop the constraint, and add it again NOT VALID in the same transaction (${isDomain ? 'ALTER DOMAIN' : 'ALTER TABLE'} ... DROP CONSTRAINT ..., ADD CONSTRAINT ... NOT VALID); green gets it when all rows are there, and it may be VALIDATEd afterwards. Where a run is held by a row that is right: resume, which copies its table again when the others are there`,
  };
}

function generatedAnew({ object }: Caller, calls: string): Found {
  return {
    severity: 'error',
    object,
    message: `${calls}: green computes it for each row that comes, while those are not all there, and would keep other values than blue. Between servers of two versions or locales nothing would notice, since there such a column is not compared`,
    remedy:
      'On blue, before the run: ALTER TABLE ... ALTER COLUMN ... DROP EXPRESSION, which keeps the values, as an ordinary column that is copied (a trigger may fill it from then on); or exclude the table',
  };
}

interface FunctionText {
  readonly oid: string;
  readonly text: string;
  /** What a body of SQL's own form (BEGIN ATOMIC) reads: it is not there as text. */
  readonly parsed: readonly TableName[];
}

/** The tables, and views of them, that are read by each of these functions that reads any. Those of extensions are filled by these. */
async function tablesReadBy(
  session: Session,
  functions: ReadonlySet<string>,
): Promise<ReadonlyMap<string, readonly TableName[]>> {
  if (functions.size === 0) return new Map();
  const { rows } = await session.query<FunctionText>(
    `SELECT p.oid::text AS oid, p.prosrc AS text,
            (SELECT coalesce(json_agg(DISTINCT jsonb_build_object('schema', n.nspname, 'name', c.relname)), '[]')
               FROM pg_depend d JOIN pg_class c ON c.oid = d.refobjid JOIN pg_namespace n ON n.oid = c.relnamespace
              WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_class'::regclass AND ${A_SOURCE}) AS parsed
       FROM pg_proc p WHERE p.oid = ANY ($1::oid[])`,
    [[...functions]],
  );
  const named = rows.map(({ oid, text, parsed }) => ({ oid, parsed, names: tablesRead(text) }));
  const known = await session.query<TableName>(
    `SELECT n.nspname::text AS schema, c.relname::text AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE c.relname = ANY ($1::name[]) AND ${A_SOURCE}`,
    [named.flatMap(({ names }) => names.map(({ name }) => name))],
  );
  const read = named.map(({ oid, parsed, names }) => {
    const found = known.rows.filter((table) =>
      names.some(({ schema, name }) => name === table.name && (schema === null || schema === table.schema)),
    );
    return [oid, [...parsed, ...found]] as const;
  });
  return new Map(read.filter(([, tables]) => tables.length > 0));
}

const A_SOURCE = `c.relkind IN ('r', 'p', 'v', 'm') AND c.relpersistence <> 't' AND ${USER_SCHEMA}
  AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')`;
