import type { TableName } from '../../plan/table-name.js';
import type { Session } from '../session.js';

/** Statements of one table each, put together by table in their order. */
export function byTable<Item extends { readonly table: TableName }>(items: readonly Item[]): Item[][] {
  const tables = new Map<string, Item[]>();
  for (const item of items) {
    const list = tables.get(keyOf(item.table));
    if (list === undefined) tables.set(keyOf(item.table), [item]);
    else list.push(item);
  }
  return [...tables.values()];
}

/** Large tables first, so that the last lane is not left alone with the largest one. */
export async function largestFirst<Item extends { readonly table: TableName }>(
  session: Session,
  tables: readonly Item[][],
): Promise<Item[][]> {
  // Not relpages: after a copy of the rows nobody has counted them yet.
  const { rows } = await session.query<{ schema: string; name: string; bytes: string | null }>(
    `SELECT n.nspname AS schema, c.relname AS name, pg_relation_size(c.oid) AS bytes
       FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE c.relkind IN ('r', 'm') AND c.oid >= 16384 AND c.relpersistence <> 't'`,
  );
  const bytes = new Map(rows.map((row) => [keyOf(row), Number(row.bytes ?? 0)]));
  const sizeOf = ([item]: readonly Item[]): number => (item === undefined ? 0 : (bytes.get(keyOf(item.table)) ?? 0));
  return [...tables].sort((a, b) => sizeOf(b) - sizeOf(a));
}

function keyOf({ schema, name }: TableName): string {
  return JSON.stringify([schema, name]);
}
