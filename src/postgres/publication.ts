import type { Direction } from '../side.js';
import type { TableName } from '../plan/table-name.js';
import { briefLock } from './brief-lock.js';
import { ident, literal, qualified } from './identifier.js';
import { markerTable } from './marker.js';
import type { LockRetryOptions } from './retry.js';
import type { Session } from './session.js';

/** A table of a publication; `columns` when not all of them are published (PostgreSQL 15 and later). */
export interface PublishedTable {
  readonly table: TableName;
  readonly columns?: readonly string[];
}

/**
 * The statements that make the publication of one stream. Sent as one message, so the comment is there or the
 * publication is not. Of the marker table, each stream publishes its own rows only.
 */
export function createPublication(
  name: string,
  direction: Direction,
  tables: readonly PublishedTable[],
  stream = 1,
): string {
  const list = [`verdigris.${ident(markerTable(direction))} WHERE (stream = ${stream})`, ...tables.map(publishedTable)];
  return `
    CREATE PUBLICATION ${ident(name)} FOR TABLE ${list.join(', ')}
      WITH (publish = 'insert, update, delete, truncate', publish_via_partition_root = true);
    COMMENT ON PUBLICATION ${ident(name)} IS ${literal(`Verdigris: rows ${direction.replace('_', ' ')}`)}`;
}

/**
 * A table as CREATE PUBLICATION and ALTER PUBLICATION ... ADD TABLE and DROP TABLE name it. ONLY: otherwise a name stands for
 * the tables that inherit from it in the old way, too, and each of those is named by itself, or is not moved. Of a
 * partitioned table it leaves nothing out.
 */
export function publishedTable({ table, columns }: PublishedTable): string {
  const only = `ONLY ${qualified(table)}`;
  return columns === undefined ? only : `${only} (${columns.map(ident).join(', ')})`;
}

/**
 * Looks up the tables of a publication as the server of a subscriber does in CREATE SUBSCRIPTION and REFRESH PUBLICATION.
 * From PostgreSQL 16 on that waits for whoever has one of them to himself, and in a session of that server nothing ends
 * the wait or says for whom it is: so we look first, briefly.
 *
 * @returns the tables, partitioned ones at their root
 * @throws VerdigrisError LockNotHad (retryable)
 */
export async function lookUpTables(
  publisher: Session,
  name: string,
  patience?: LockRetryOptions,
): Promise<readonly TableName[]> {
  const look = () =>
    publisher.query<{ schema: string; name: string }>(
      'SELECT schemaname::text AS schema, tablename::text AS name FROM pg_publication_tables WHERE pubname = $1',
      [name],
    );
  return (await briefLock(publisher, `the tables of the publication ${name}`, look, patience)).rows;
}

export async function dropPublication(session: Session, name: string): Promise<void> {
  await session.query(`DROP PUBLICATION IF EXISTS ${ident(name)}`);
}
