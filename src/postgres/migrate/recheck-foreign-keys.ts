import type { AddConstraint, Plan } from '../../plan/schema.js';
import { formatTableName, parseTableName, type TableName } from '../../plan/table-name.js';
import { ident, qualified } from '../identifier.js';
import type { Session } from '../session.js';
import { cancellable, type StepContext } from './step-context.js';

/** Rows of a table that a foreign key of the plan should refuse. */
export interface OrphanedRows {
  readonly table: TableName;
  readonly constraint: string;
  /** How many, counted up to ORPHANS_COUNTED. */
  readonly rows: number;
  /** The query that shows them. */
  readonly query: string;
}

/** Beyond so many it does not matter how many more there are. */
export const ORPHANS_COUNTED = 1_000;

/**
 * Looks for rows without a counterpart, for each foreign key that the plan adds. It was validated when it was made, but
 * rows that came from blue since then were not checked: the apply worker writes as a replica, and blue does not know
 * the key. One query a key, without a lock that stops anybody; nothing at all when the plan adds none.
 *
 * @returns the keys with orphans; empty when all is well.
 */
export async function recheckForeignKeys(
  context: StepContext,
  plan: Pick<Plan, 'migrations'>,
): Promise<readonly OrphanedRows[]> {
  const { session } = context;
  const found: OrphanedRows[] = [];
  for (const { table, constraint, orphans } of await foreignKeysOf(session, plan)) {
    const object = `foreign key ${constraint} of ${formatTableName(table)}`;
    context.onProgress({ step: 'constraint', object, done: 0, total: 0, rowsPerSecond: 0, etaSeconds: null });
    const { rows } = await cancellable(context, session, () =>
      session.query<{ n: number }>(`SELECT count(*)::int AS n FROM (SELECT ${orphans} LIMIT ${ORPHANS_COUNTED}) o`),
    );
    const n = rows[0]?.n ?? 0;
    context.onProgress({ step: 'constraint', object, done: 1, total: 1, rowsPerSecond: 0, etaSeconds: 0 });
    if (n > 0) found.push({ table, constraint, rows: n, query: `SELECT child.* ${orphans}` });
  }
  return found;
}

interface ForeignKeyCheck {
  readonly table: TableName;
  readonly constraint: string;
  /** FROM ... WHERE of the rows that have no counterpart. */
  readonly orphans: string;
}

async function foreignKeysOf(session: Session, { migrations }: Pick<Plan, 'migrations'>): Promise<ForeignKeyCheck[]> {
  const checks: ForeignKeyCheck[] = [];
  for (const migration of migrations) {
    if (!('addConstraint' in migration) || migration.addConstraint.foreignKey === undefined) continue;
    const { name: constraint, foreignKey } = migration.addConstraint;
    const table = parseTableName(migration.addConstraint.table);
    const [from, referenced] = [
      await rowsOf(session, table),
      await rowsOf(session, parseTableName(foreignKey.references.table)),
    ];
    checks.push({
      table,
      constraint,
      orphans: `FROM ${from} child WHERE ${isOrphan('child', foreignKey, referenced)}`,
    });
  }
  return checks;
}

/** As a foreign key sees them: rows of tables that inherit in the old way are neither bound by it nor referenced. */
async function rowsOf(session: Session, table: TableName): Promise<string> {
  const { rowCount } = await session.query(`SELECT FROM pg_class WHERE oid = to_regclass($1) AND relkind = 'p'`, [
    qualified(table),
  ]);
  return `${rowCount === 1 ? '' : 'ONLY '}${qualified(table)}`;
}

/**
 * Whether a row has no counterpart, as a condition. With a NULL in it a key refers to nothing (MATCH SIMPLE).
 *
 * @param referenced what has the counterparts, as SQL. Default: the table that is referenced, and what inherits from it
 */
export function isOrphan(
  row: string,
  { columns, references }: NonNullable<AddConstraint['foreignKey']>,
  referenced = qualified(parseTableName(references.table)),
): string {
  const child = ident(row);
  const pairs = columns.map((column, i) => [ident(column), ident(references.columns[i] ?? '')]);
  const given = pairs.map(([column]) => `${child}.${column} IS NOT NULL`).join(' AND ');
  const equal = pairs
    .map(([column, counterpart]) => `verdigris_parent.${counterpart} = ${child}.${column}`)
    .join(' AND ');
  return `${given} AND NOT EXISTS (SELECT FROM ${referenced} verdigris_parent WHERE ${equal})`;
}
