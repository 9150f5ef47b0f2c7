import type { TableName } from '../../plan/table-name.js';
import { formatTableName } from '../../plan/table-name.js';
import { ident, literal, qualified } from '../identifier.js';
import type { Session } from '../session.js';
import { WITH_PARTITIONS } from './changed-table.js';
import {
  TRIGGER_NAME,
  triggerBody,
  triggerCondition,
  triggerConditionReads,
  triggerFunction,
  type TriggerSpec,
} from './up-down-trigger.js';

/**
 * Fixed for the function as they are in our sessions (openSession): the same row must give the same value in the
 * application's sessions, in the apply worker, in the copy, the backfill and the verification, whatever the database or a
 * role has set. Without the search_path, which is the table's. As pg_proc.proconfig has them.
 */
const SETTINGS = {
  TimeZone: 'UTC',
  DateStyle: 'ISO, YMD',
  IntervalStyle: 'postgres',
  bytea_output: 'hex',
  extra_float_digits: '1',
  standard_conforming_strings: 'on',
} as const;

/**
 * Makes the up/down trigger of a table, or brings it up to date; takes no lock when it is there as it should be.
 * Must run in a transaction.
 */
export async function installTrigger(session: Session, spec: TriggerSpec, searchPath: string): Promise<void> {
  const body = triggerBody(spec, await isPartitioned(session, spec.table));
  const name = triggerFunction(spec.table);
  const label = literal(`Verdigris: keeps old and new columns of ${formatTableName(spec.table)} in step`);
  if (!(await isInstalled(session, name, body))) {
    const settings = Object.entries(SETTINGS).map(([setting, value]) => `SET ${setting} = ${literal(value)}`);
    await session.query(
      `CREATE OR REPLACE FUNCTION verdigris.${ident(name)}() RETURNS trigger LANGUAGE plpgsql
         SET search_path = ${searchPath} ${settings.join(' ')}
         AS ${dollarQuoted(body)}`,
    );
    await session.query(`COMMENT ON FUNCTION verdigris.${ident(name)}() IS ${label}`);
    // Asked of whoever makes a partition, whatever default privileges say: that clones the trigger.
    await session.query(`GRANT EXECUTE ON FUNCTION verdigris.${ident(name)}() TO PUBLIC`);
  }
  if (!sameNames(await conditionReads(session, spec.table, name), triggerConditionReads(spec))) {
    await session.query(
      `CREATE OR REPLACE TRIGGER ${ident(TRIGGER_NAME)} BEFORE INSERT OR UPDATE ON ${qualified(spec.table)}
         FOR EACH ROW WHEN (${triggerCondition(spec)}) EXECUTE FUNCTION verdigris.${ident(name)}()`,
    );
    await session.query(`COMMENT ON TRIGGER ${ident(TRIGGER_NAME)} ON ${qualified(spec.table)} IS ${label}`);
  }
  // The clones on partitions are made without it, and whether ENABLE ALWAYS reaches them depends on the version.
  for (const table of await notAlways(session, spec.table)) {
    await session.query(`ALTER TABLE ${table} ENABLE ALWAYS TRIGGER ${ident(TRIGGER_NAME)}`);
  }
}

/** Removes the up/down trigger and its function, if they are there. Must run in a transaction. */
export async function removeTrigger(session: Session, table: TableName): Promise<boolean> {
  const name = triggerFunction(table);
  const there = await isOnTable(session, table, name);
  if (there) await session.query(`DROP TRIGGER IF EXISTS ${ident(TRIGGER_NAME)} ON ${qualified(table)}`);
  await session.query(`DROP FUNCTION IF EXISTS verdigris.${ident(name)}()`);
  return there;
}

/** The tables that have an up/down trigger; of partitioned ones the topmost. */
export async function tablesWithTrigger(session: Session): Promise<TableName[]> {
  const { rows } = await session.query<TableName>(
    `SELECT n.nspname AS schema, c.relname AS name
       FROM pg_trigger t
       JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
       JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace pn ON pn.oid = p.pronamespace
      WHERE t.tgname = $1 AND t.tgparentid = 0 AND pn.nspname = 'verdigris'
      ORDER BY 1, 2`,
    [TRIGGER_NAME],
  );
  return rows;
}

/**
 * Columns that are NOT NULL, have no default, and are filled by an up/down trigger where a write leaves them out: `public.t.c`.
 * The trigger's condition names every column that it fills.
 */
export async function columnsOnlyFilled(session: Session): Promise<string[]> {
  const { rows } = await session.query<TableName & { column: string }>(
    `SELECT DISTINCT n.nspname AS schema, c.relname AS name, a.attname AS column
       FROM pg_trigger t
       JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
       JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace pn ON pn.oid = p.pronamespace
       JOIN pg_depend d ON d.classid = 'pg_trigger'::regclass AND d.objid = t.oid
                       AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid
       JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.refobjsubid AND a.attnum > 0
       JOIN pg_type ty ON ty.oid = a.atttypid
      WHERE t.tgname = $1 AND t.tgparentid = 0 AND pn.nspname = 'verdigris'
        AND (a.attnotnull OR ty.typnotnull) AND NOT a.atthasdef AND a.attidentity = '' AND ty.typdefault IS NULL
      ORDER BY 1, 2, 3`,
    [TRIGGER_NAME],
  );
  return rows.map(({ schema, name, column }) => `${formatTableName({ schema, name })}.${column}`);
}

/** Functions of triggers whose table somebody has dropped. */
export async function dropUnusedFunctions(session: Session): Promise<void> {
  const { rows } = await session.query<{ name: string }>(
    `SELECT p.proname AS name FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
      WHERE n.nspname = 'verdigris' AND p.proname ~ '^up_down_[0-9a-f]{16}$'
        AND NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgfoid = p.oid)`,
  );
  for (const { name } of rows) await session.query(`DROP FUNCTION IF EXISTS verdigris.${ident(name)}()`);
}

async function isPartitioned(session: Session, table: TableName): Promise<boolean> {
  const { rowCount } = await session.query(`SELECT FROM pg_class WHERE oid = to_regclass($1) AND relkind = 'p'`, [
    qualified(table),
  ]);
  return rowCount === 1;
}

async function isInstalled(session: Session, name: string, body: string): Promise<boolean> {
  const { rowCount } = await session.query(
    `SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
      WHERE n.nspname = 'verdigris' AND p.proname = $1 AND p.prosrc = $2 AND p.proconfig @> $3::text[]`,
    [name, body, Object.entries(SETTINGS).map(([setting, value]) => `${setting}=${value}`)],
  );
  return rowCount === 1;
}

async function isOnTable(session: Session, table: TableName, functionName: string): Promise<boolean> {
  const { rowCount } = await session.query(
    `SELECT FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace n ON n.oid = p.pronamespace
      WHERE t.tgrelid = to_regclass($1) AND t.tgname = $2 AND n.nspname = 'verdigris' AND p.proname = $3`,
    [qualified(table), TRIGGER_NAME, functionName],
  );
  return rowCount === 1;
}

/** The columns in the condition of the installed trigger; undefined when there is none, or one without a condition. */
async function conditionReads(
  session: Session,
  table: TableName,
  functionName: string,
): Promise<readonly string[] | undefined> {
  if (!(await isOnTable(session, table, functionName))) return undefined;
  const { rows } = await session.query<{ columns: string[] | null }>(
    `SELECT CASE WHEN t.tgqual IS NOT NULL THEN ARRAY(
              SELECT a.attname::text
                FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
               WHERE d.classid = 'pg_trigger'::regclass AND d.objid = t.oid AND d.refclassid = 'pg_class'::regclass
                 AND d.refobjid = t.tgrelid AND d.refobjsubid > 0) END AS columns
       FROM pg_trigger t WHERE t.tgrelid = to_regclass($1) AND t.tgname = $2`,
    [qualified(table), TRIGGER_NAME],
  );
  return rows[0]?.columns ?? undefined;
}

function sameNames(a: readonly string[] | undefined, b: readonly string[]): boolean {
  return a !== undefined && new Set([...a, ...b]).size === new Set(a).size && new Set(a).size === new Set(b).size;
}

/** The table and those of its partitions whose trigger does not fire in every session, as SQL names. */
async function notAlways(session: Session, table: TableName): Promise<string[]> {
  const { rows } = await session.query<{ name: string }>(
    `SELECT format('%I.%I', n.nspname, c.relname) AS name
       FROM (${WITH_PARTITIONS}) part
       JOIN pg_trigger t ON t.tgrelid = part.relid AND t.tgname = $2 AND t.tgenabled <> 'A'
       JOIN pg_class c ON c.oid = part.relid JOIN pg_namespace n ON n.oid = c.relnamespace
      ORDER BY t.tgparentid <> 0, c.oid`,
    [qualified(table), TRIGGER_NAME],
  );
  return rows.map(({ name }) => name);
}

function dollarQuoted(body: string): string {
  let tag = '$verdigris$';
  for (let i = 1; body.includes(tag); i++) tag = `$verdigris${i}$`;
  return `${tag}${body}${tag}`;
}
