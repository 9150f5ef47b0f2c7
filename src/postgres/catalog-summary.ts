import { formatTableName } from '../plan/table-name.js';
import type { TableInfo } from './catalog.js';

/** What the plan's lint needs to know of the tables: plain data, so that it can cross to pure code. */
export interface CatalogSummary {
  readonly tables: readonly {
    readonly schema: string;
    readonly name: string;
    readonly columns: readonly {
      readonly name: string;
      readonly type: string;
      readonly notNull: boolean;
      readonly generated: boolean;
      readonly identity: '' | 'a' | 'd';
      readonly hasDefault: boolean;
    }[];
    readonly key: readonly string[] | null;
    readonly replicaIdentity: 'd' | 'i' | 'f' | 'n';
    readonly partitioned: boolean;
    /** The columns by which rows go into partitions, at every level. Default: none is known. */
    readonly partitionKey?: readonly string[];
    /** The names of its unique indexes, which are in its schema. Default: none is known. */
    readonly uniqueIndexes?: readonly string[];
  }[];
}

/**
 * The tables as the plan's lint reads them.
 *
 * @param partitionKeys by `formatTableName`; see readPartitionKeys.
 * @param uniqueIndexes the same; see readUniqueIndexes.
 */
export function toCatalogSummary(
  tables: readonly TableInfo[],
  partitionKeys: ReadonlyMap<string, readonly string[]>,
  uniqueIndexes: ReadonlyMap<string, readonly string[]> = new Map(),
): CatalogSummary {
  return {
    tables: tables.map((table) => ({
      schema: table.name.schema,
      name: table.name.name,
      columns: table.columns.map(({ name, type, notNull, generated, identity, hasDefault }) => ({
        name,
        type,
        notNull,
        generated,
        identity,
        hasDefault,
      })),
      key: table.key === null ? null : table.key.columns.map((column) => column.name),
      replicaIdentity: table.replicaIdentity,
      partitioned: table.kind === 'partitioned',
      partitionKey: partitionKeys.get(formatTableName(table.name)) ?? [],
      uniqueIndexes: uniqueIndexes.get(formatTableName(table.name)) ?? [],
    })),
  };
}
