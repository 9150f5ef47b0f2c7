import type { TableInfo } from '../catalog.js';
import type { Derived } from '../migrate/plan-work.js';
import type { Session } from '../session.js';
import { filledValues } from './table-pair.js';
import type { SideSessions } from './side-sessions.js';

/*
 * Generated columns are not replicated: each side computes its own, by the same expression over the same values. So they
 * are compared like any others, where that is so.
 */

interface Generated {
  readonly name: string;
  readonly expression: string;
  /** The columns that it reads. */
  readonly reads: readonly string[];
}

/**
 * Columns that both sides generate and that may rightly differ: those that read a column that `setNotNull` fills, which is
 * NULL on blue; and, where SQL of the plan may have changed them, those whose expressions are not the same.
 */
export async function differentlyGenerated(
  sessions: SideSessions,
  source: TableInfo,
  target: TableInfo,
  { derived, searchPath, bySql }: { derived: readonly Derived[]; searchPath: string; bySql: boolean },
): Promise<string[]> {
  const filled = new Set(filledValues(source, derived).map(({ column }) => column));
  const stored = (table: TableInfo): string[] =>
    table.columns.filter((c) => c.generated && !c.virtual).map((c) => c.name);
  const there = new Set(stored(target));
  const both = stored(source).filter((name) => there.has(name));
  if (both.length === 0 || (filled.size === 0 && !bySql)) return [];
  await sessions.prepare(searchPath, 'all');
  const [here, other] = await sessions.each((session, side) =>
    readGenerated(session, side === 'source' ? source : target),
  );
  return both.filter((name) => {
    const [one, two] = [here.get(name), other.get(name)];
    return one?.expression !== two?.expression || one?.reads.some((column) => filled.has(column)) === true;
  });
}

async function readGenerated(session: Session, { oid }: TableInfo): Promise<ReadonlyMap<string, Generated>> {
  const { rows } = await session.query<Generated>(
    `SELECT a.attname AS name, pg_get_expr(d.adbin, d.adrelid) AS expression,
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
