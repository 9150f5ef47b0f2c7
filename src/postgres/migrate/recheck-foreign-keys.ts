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
    const pairs = await pairsOf(session, table, constraint);
    const condition =
      pairs.length === 0 ? isOrphan('child', foreignKey, referenced) : hasNone('child', pairs, referenced);
    checks.push({ table, constraint, orphans: `FROM ${from} child WHERE ${condition}` });
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

/** A column of a foreign key and the one that it refers to, and how the key compares them. */
interface KeyPair {
  readonly column: string;
  readonly counterpart: string;
  /** SQL between the two: the key's own operator, which need not be the one that `=` finds. */
  readonly equals: string;
  /** SQL behind each of them: a cast, a collation. */
  readonly ofColumn: string;
  readonly ofCounterpart: string;
}

/** As PostgreSQL itself compares them when it validates the key; empty when there is no such key any more. */
async function pairsOf(session: Session, table: TableName, constraint: string): Promise<readonly KeyPair[]> {
  const { rows } = await session.query<KeyPair>(KEY_PAIRS, [qualified(table), constraint]);
  return rows;
}

const castTo = (type: string, is: string): string =>
  `CASE WHEN ${type}.oid <> ${is} AND ${type}.typtype <> 'p'
        THEN (SELECT format('::%I.%I', nspname, ${type}.typname) FROM pg_namespace WHERE oid = ${type}.typnamespace) ELSE '' END`;

const KEY_PAIRS = `
SELECT child.attname AS column, parent.attname AS counterpart,
       CASE n.nspname WHEN 'pg_catalog' THEN o.oprname ELSE format('OPERATOR(%I.%s)', n.nspname, o.oprname) END AS equals,
       ${castTo('"left"', 'parent.atttypid')} AS "ofCounterpart",
       ${castTo('"right"', 'child.atttypid')} ||
       CASE WHEN parent.attcollation NOT IN (0, child.attcollation)
            THEN (SELECT format(' COLLATE %I.%I', cn.nspname, c.collname) FROM pg_collation c
                    JOIN pg_namespace cn ON cn.oid = c.collnamespace WHERE c.oid = parent.attcollation) ELSE '' END AS "ofColumn"
  FROM pg_constraint k
 CROSS JOIN LATERAL unnest(k.conkey, k.confkey, k.conpfeqop) WITH ORDINALITY AS pair (own, other, operator, place)
  JOIN pg_attribute child ON child.attrelid = k.conrelid AND child.attnum = pair.own
  JOIN pg_attribute parent ON parent.attrelid = k.confrelid AND parent.attnum = pair.other
  JOIN pg_operator o ON o.oid = pair.operator
  JOIN pg_namespace n ON n.oid = o.oprnamespace
  JOIN pg_type "left" ON "left".oid = o.oprleft
  JOIN pg_type "right" ON "right".oid = o.oprright
 WHERE k.conrelid = to_regclass($1) AND k.conname = $2 AND k.contype = 'f'
 ORDER BY pair.place`;

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
  const pairs = columns.map((column, i) => {
    const counterpart = references.columns[i] ?? '';
    return { column, counterpart, equals: '=', ofColumn: '', ofCounterpart: '' };
  });
  return hasNone(row, pairs, referenced);
}

function hasNone(row: string, pairs: readonly KeyPair[], referenced: string): string {
  const child = ident(row);
  const given = pairs.map(({ column }) => `${child}.${ident(column)} IS NOT NULL`).join(' AND ');
  const equal = pairs
    .map(({ column, counterpart, equals, ofColumn, ofCounterpart }) => {
      const other = `verdigris_parent.${ident(counterpart)}${ofCounterpart}`;
      return `${other} ${equals} ${child}.${ident(column)}${ofColumn}`;
    })
    .join(' AND ');
  return `${given} AND NOT EXISTS (SELECT FROM ${referenced} verdigris_parent WHERE ${equal})`;
}
