import type { Plan } from '../../plan/schema.js';
import type { TableName } from '../../plan/table-name.js';
import type { Session } from '../session.js';
import { writtenTables, type NamedInText } from './written-tables.js';

/** The function of a trigger, as far as its text says what it does for rows that are applied. */
export interface WritingCode {
  readonly language: string;
  /** Its text if it seems to write; null if not. */
  readonly text: string | null;
  /** Whether it would give those rows values of its own. */
  readonly assigns: boolean;
}

/** What a trigger would do for each row that is applied. */
export type Harm = 'writes' | 'writes missing' | 'assigns';

/**
 * By the text of each function. What it writes in tables that are not moved stops nothing and is no row too many of
 * anything, if green has them: all of blue's as its standby, else all but those of which the plan leaves the rows out.
 */
export async function harms<Trigger extends WritingCode>(
  session: Session,
  plan: Plan,
  triggers: readonly Trigger[],
  moved: ReadonlySet<number>,
): Promise<(trigger: Trigger) => Harm | null> {
  const written = new Map(
    triggers.flatMap((one) => (one.text === null ? [] : [[one, writtenTables(one.language, one.text)] as const])),
  );
  const tables = await readNamed(
    session,
    [...written.values()].flatMap((names) => names ?? []),
  );
  return (trigger) => {
    const names = written.get(trigger);
    const each = names?.map(({ schema, name }) =>
      tables.filter((one) => one.name === name && (schema === null || one.schema === schema)),
    );
    if (names === null || each?.some((named) => named.length === 0)) return 'writes';
    const all = each?.flat() ?? [];
    if (all.some(({ oid, ordinary }) => !ordinary || moved.has(oid))) return 'writes';
    if (plan.bootstrap.method !== 'standby' && all.some(({ copied }) => !copied)) return 'writes missing';
    return trigger.assigns ? 'assigns' : null;
  };
}

interface NamedTable extends TableName {
  readonly oid: number;
  /** What is written there goes nowhere else: no view, no rule, no trigger that fires in every session. */
  readonly ordinary: boolean;
  /** Made on green although it is not moved: one without rows that replicate, or of an extension. */
  readonly copied: boolean;
}

/** What has one of these names, in whatever schema. */
async function readNamed(session: Session, tables: readonly NamedInText[]): Promise<readonly NamedTable[]> {
  if (tables.length === 0) return [];
  const { rows } = await session.query<NamedTable>(
    `SELECT c.oid::bigint::float8 AS oid, n.nspname::text AS schema, c.relname::text AS name, 
            c.relkind IN ('r', 'p') AND NOT c.relhasrules
              AND NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgenabled IN ('A', 'R') AND NOT t.tgisinternal) AS ordinary,
            c.relpersistence = 'u' OR EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e') AS copied
       FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE c.relname = ANY ($1::name[]) AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't'`,
    [tables.map(({ name }) => name)],
  );
  return rows;
}
