import type { TableInfo } from '../catalog.js';
import type { Derived } from '../migrate/plan-work.js';
import { isSameEverywhere } from '../same-answers.js';
import type { Session } from '../session.js';
import { filledValues } from './filled-values.js';
import { OWN_PATH, type SideSessions } from './side-sessions.js';

/*
 * Generated columns are not replicated: each side computes its own, by the same expression over the same values. So they
 * are compared like any others, where that is so.
 */

interface Generated {
  readonly name: string;
  readonly expression: string;
  /** The same as PostgreSQL has parsed it. */
  readonly tree: string;
  /** The columns that it reads. */
  readonly reads: readonly string[];
}

export interface GeneratedBy {
  readonly derived: readonly Derived[];
  /** The plan has SQL. */
  readonly bySql: boolean;
  /** Whether the same expression gives the same on both servers, whatever it is. */
  readonly alike: boolean;
}

/**
 * Columns that both sides generate and that may rightly differ: those that read a column that `setNotNull` fills, which is
 * NULL on blue; where SQL of the plan may have changed them, those whose expressions are not the same; and, on servers that
 * are not alike, those whose expressions need not give the same on both. Not those of the key: without it nothing is compared.
 */
export async function differentlyGenerated(
  sessions: SideSessions,
  source: TableInfo,
  target: TableInfo,
  { derived, bySql, alike }: GeneratedBy,
): Promise<string[]> {
  const filled = new Set(filledValues(source, derived).map(({ column }) => column));
  const stored = (table: TableInfo): string[] =>
    table.columns.filter((c) => c.generated && !c.virtual).map((c) => c.name);
  const there = new Set(stored(target));
  const both = stored(source).filter((name) => there.has(name));
  if (both.length === 0 || (filled.size === 0 && !bySql && alike)) return [];
  const inKey = new Set(source.key?.columns.map((column) => column.name));
  await sessions.prepare(OWN_PATH, 'all');
  const [here, other] = await sessions.each((session, side) =>
    readGenerated(session, side === 'source' ? source : target),
  );
  const mayBeAnother = filled.size > 0 || bySql;
  const differing: string[] = [];
  for (const name of both) {
    const [one, two] = [here.get(name), other.get(name)];
    const isAnother = mayBeAnother && one?.expression !== two?.expression;
    const readsFilled = one?.reads.some((column) => filled.has(column)) === true;
    const sameValues = (): Promise<boolean> =>
      sessions.on('target', (session) =>
        isSameEverywhere(session, two?.tree ?? '', () => Promise.resolve(one?.tree ?? '')),
      );
    if (isAnother || readsFilled || !(alike || inKey.has(name) || (await sameValues()))) differing.push(name);
  }
  return differing;
}

async function readGenerated(session: Session, { oid }: TableInfo): Promise<ReadonlyMap<string, Generated>> {
  const { rows } = await session.query<Generated>(
    `SELECT a.attname AS name, pg_get_expr(d.adbin, d.adrelid) AS expression, d.adbin::text AS tree,
            ARRAY(SELECT r.attname::text FROM pg_depend e
                    JOIN pg_attribute r ON r.attrelid = e.refobjid AND r.attnum = e.refobjsubid
                   WHERE e.classid = 'pg_attrdef'::regclass AND e.objid = d.oid
                     AND e.refclassid = 'pg_class'::regclass AND e.refobjid = d.adrelid AND r.attnum <> d.adnum) AS reads
       FROM pg_attribute a JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
      WHERE a.attrelid = $1::oid AND a.attgenerated <> ''`,
    [oid],
  );
  return new Map(rows.map((row) => [row.name, row]));
}
