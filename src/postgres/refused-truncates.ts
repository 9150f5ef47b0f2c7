import { formatTableName, type TableName } from '../plan/table-name.js';
import { qualified } from './identifier.js';
import { partitionTree } from './partition-tree.js';
import type { Session } from './session.js';

/*
 * PostgreSQL refuses TRUNCATE of a table that a foreign key of another one refers to, unless both are named, whether there
 * are rows or not and whoever asks, an apply worker too. So a key that green has and blue has not makes of a TRUNCATE that
 * blue allows a change that green can never apply.
 */

/** A table and another one that a foreign key of it refers to, by their topmost parents. */
export interface Reference {
  readonly table: TableName;
  readonly references: TableName;
}

/** The tables that foreign keys of a database bind; without those that refer to themselves. */
export async function readReferences(session: Session): Promise<Reference[]> {
  const { rows } = await session.query<Reference>(
    `SELECT DISTINCT jsonb_build_object('schema', n1.nspname, 'name', c1.relname) AS "table",
                     jsonb_build_object('schema', n2.nspname, 'name', c2.relname) AS "references"
       FROM pg_constraint k
       JOIN pg_class c1 ON c1.oid = coalesce(pg_partition_root(k.conrelid), k.conrelid)
       JOIN pg_class c2 ON c2.oid = coalesce(pg_partition_root(k.confrelid), k.confrelid)
       JOIN pg_namespace n1 ON n1.oid = c1.relnamespace
       JOIN pg_namespace n2 ON n2.oid = c2.relnamespace
      WHERE k.contype = 'f' AND c1.oid <> c2.oid
      ORDER BY 1, 2`,
  );
  return rows;
}

/** Those of `wanted` that are not among `there`: each lets blue truncate what green will not. */
export function onlyHere(wanted: readonly Reference[], there: readonly Reference[]): Reference[] {
  const known = new Set(there.map(keyOf));
  return wanted.filter((one) => !known.has(keyOf(one)));
}

/**
 * The tables that blue may have truncated alone, which green, with foreign keys of its own, can't apply; each once.
 *
 * @param since the oldest transaction of which a change may still be on its way, as text; undefined: any.
 */
export async function refusedTruncates(blue: Session, green: Session, since: string | undefined): Promise<TableName[]> {
  const found = onlyHere(await readReferences(green), await readReferences(blue));
  const { rows } = await blue.query<{ position: number }>(WRITTEN_SINCE, [
    found.map(({ references }) => qualified(references)),
    since ?? null,
  ]);
  const tables = rows.flatMap(({ position }) => found[position - 1]?.references ?? []);
  return [...new Map(tables.map((table) => [formatTableName(table), table])).values()];
}

/** TRUNCATE gives a table, or each of its partitions, another file: its row in pg_class is written. */
const WRITTEN_SINCE = `
SELECT named.position::int
  FROM unnest($1::text[]) WITH ORDINALITY named (name, position)
  JOIN pg_class root ON root.oid = to_regclass(named.name)
 WHERE EXISTS (SELECT FROM ${partitionTree('root.oid')} tree JOIN pg_class c ON c.oid = tree.relid
                WHERE ($2::text IS NULL OR age(c.xmin) <= age($2::text::xid)))
 ORDER BY 1`;

function keyOf({ table, references }: Reference): string {
  return JSON.stringify([formatTableName(table), formatTableName(references)]);
}
