import { formatTableName, type TableName } from '../../plan/table-name.js';
import type { TablePatterns } from '../catalog-pattern.js';
import { ALL_TABLES, tableFilter } from '../catalog-pattern.js';
import { readSequences } from '../catalog-sequences.js';
import { readTables } from '../catalog.js';
import type { Session } from '../session.js';

/**
 * What a schema copy leaves on blue: tables that the plan does not move, and the sequences that belong to them. Tables
 * without rows that replicate (unlogged, foreign) are copied: the application expects them.
 */
export async function excludedRelations(blue: Session, patterns: TablePatterns): Promise<TableName[]> {
  const moved = tableFilter(patterns);
  const tables = (await readTables(blue, ALL_TABLES)).filter((table) => !moved(table.root)).map((table) => table.name);
  const left = new Set(tables.map(formatTableName));
  const sequences = (await readSequences(blue, ALL_TABLES)).filter(
    ({ ownedBy }) => ownedBy !== null && left.has(formatTableName(ownedBy)),
  );
  return [...tables, ...sequences.map(({ schema, name }) => ({ schema, name }))];
}

/**
 * A condition: the relation `c` in the schema `n` is none of those that excludedRelations has returned.
 * @param excluded a parameter of the query, with them as JSON
 */
export function notExcluded(excluded: string): string {
  return `NOT EXISTS (SELECT FROM jsonb_to_recordset(${excluded}::jsonb) AS excluded (schema text, name text)
                       WHERE excluded.schema = n.nspname AND excluded.name = c.relname)`;
}
