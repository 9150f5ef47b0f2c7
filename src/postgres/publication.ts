import type { Direction } from '../side.js';
import type { TableName } from '../plan/table-name.js';
import { ident, literal, qualified } from './identifier.js';
import { markerTable } from './marker.js';
import { retryOnLock } from './retry.js';
import type { Session } from './session.js';

/** A table of a publication; `columns` when not all of them are published (PostgreSQL 15 and later). */
export interface PublishedTable {
  readonly table: TableName;
  readonly columns?: readonly string[];
}

/**
 * Makes the publication of a direction with its marker table, unless it is there. Partitioned tables are published by
 * their root, so that the two sides may be partitioned alike or not.
 */
export async function ensurePublication(
  session: Session,
  name: string,
  direction: Direction,
  tables: readonly PublishedTable[],
): Promise<void> {
  const { rowCount } = await session.query('SELECT FROM pg_publication WHERE pubname = $1', [name]);
  if (rowCount === 1) return;
  await retryOnLock(() => session.query(createPublication(name, direction, tables)));
}

/** The statement that makes a publication. One message, so the comment is there or the publication is not. */
export function createPublication(name: string, direction: Direction, tables: readonly PublishedTable[]): string {
  const list = [
    `verdigris.${ident(markerTable(direction))}`,
    ...tables.map(({ table, columns }) =>
      columns === undefined ? qualified(table) : `${qualified(table)} (${columns.map(ident).join(', ')})`,
    ),
  ];
  return `
    CREATE PUBLICATION ${ident(name)} FOR TABLE ${list.join(', ')}
      WITH (publish = 'insert, update, delete, truncate', publish_via_partition_root = true);
    COMMENT ON PUBLICATION ${ident(name)} IS ${literal(`Verdigris: rows ${direction.replace('_', ' ')}`)}`;
}

export async function dropPublication(session: Session, name: string): Promise<void> {
  await session.query(`DROP PUBLICATION IF EXISTS ${ident(name)}`);
}
