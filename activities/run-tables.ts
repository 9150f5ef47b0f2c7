import type { Plan } from '../src/plan/schema.js';
import { readTables, replicatedRoots, type TableInfo } from '../src/postgres/catalog.js';
import type { PublishedTable } from '../src/postgres/publication.js';
import type { Session } from '../src/postgres/session.js';

/** The tables of a side that the plan moves. */
export function movedTables(session: Session, plan: Plan): Promise<TableInfo[]> {
  return readTables(session, plan.tables);
}

/** What the forward feed publishes: every moved table with all its columns. */
export function publishedForward(blue: readonly TableInfo[]): PublishedTable[] {
  return replicatedRoots(blue).map(({ name }) => ({ table: name }));
}

/**
 * What the reverse feed publishes: blue's columns of each table. A column list only where green has columns that blue
 * does not know; generated columns are never published, each side computes its own.
 */
export function publishedBackward(blue: readonly TableInfo[], green: readonly TableInfo[]): PublishedTable[] {
  const key = (table: TableInfo): string => JSON.stringify([table.name.schema, table.name.name]);
  const onGreen = new Map(green.map((table) => [key(table), table]));
  return replicatedRoots(blue).map((table) => {
    const stored = table.columns.filter((column) => !column.generated).map((column) => column.name);
    const known = new Set(table.columns.map((column) => column.name));
    const extra = onGreen.get(key(table))?.columns.some((column) => !known.has(column.name)) ?? false;
    return extra ? { table: table.name, columns: stored } : { table: table.name };
  });
}
