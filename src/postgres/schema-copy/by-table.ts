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
  const sizeOf = await readSizes(session);
  const size = ([item]: readonly Item[]): number => (item === undefined ? 0 : sizeOf(item.table));
  return [...tables].sort((a, b) => size(b) - size(a));
}

/** The bytes of each table of the database, without its TOAST; 0 of one that is not there. */
export async function readSizes(session: Session): Promise<(table: TableName) => number> {
  // Not relpages: after a copy of the rows nobody has counted them yet.
  const { rows } = await session.query<{ schema: string; name: string; bytes: string | null }>(
    `SELECT n.nspname AS schema, c.relname AS name, pg_relation_size(c.oid) AS bytes
       FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE c.relkind IN ('r', 'm') AND c.oid >= 16384 AND c.relpersistence <> 't'`,
  );
  const bytes = new Map(rows.map((row) => [keyOf(row), Number(row.bytes ?? 0)]));
  return (table) => bytes.get(keyOf(table)) ?? 0;
}

function keyOf({ schema, name }: TableName): string {
  return JSON.stringify([schema, name]);
}
