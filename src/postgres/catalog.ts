import type { TableName } from '../plan/table-name.js';
import type { TablePatterns } from './catalog-pattern.js';
import { tableFilter } from './catalog-pattern.js';
import { partitionTree } from './partition-tree.js';
import type { Session } from './session.js';

/*
 * What the catalog says about the tables that a plan moves. Only catalogs are read, so no lock of the application is
 * ever waited for, and none is kept from it: these functions may be called inside the hold of a promotion, and in a
 * transaction that stays open.
 */

export interface ColumnInfo {
  readonly name: string;
  /** As format_type writes it, user types with their schema: `character varying(20)`, `shop.status[]`. */
  readonly type: string;
  /** Whether no row has NULL: not where it is NOT VALID. */
  readonly notNull: boolean;
  /** A stored or virtual generated column: never copied, never replicated, computed on each side. */
  readonly generated: boolean;
  /** A generated column that is computed whenever it is read. */
  readonly virtual: boolean;
  /** '' = none, 'a' = GENERATED ALWAYS AS IDENTITY, 'd' = BY DEFAULT. */
  readonly identity: '' | 'a' | 'd';
  readonly hasDefault: boolean;
  /** `default`, `C`, `de_DE` ...; null when the type has none. */
  readonly collation: string | null;
}

export interface KeyColumn {
  readonly name: string;
  readonly type: string;
  readonly collation: string | null;
  /**
   * The encoding of the database, where the column may hold text and our sessions have another (UTF8): not all of its bytes
   * need be any text there. Null else.
   */
  readonly encoding: string | null;
}

/** Whether the type of a column is no part of PostgreSQL: such a one is written with its schema. */
export function isOfUsers({ type }: Pick<ColumnInfo, 'type'>): boolean {
  return type.includes('.');
}

export interface TableKey {
  readonly kind: 'primary' | 'replicaIdentity';
  /** In the order of the index. */
  readonly columns: readonly KeyColumn[];
}

export interface TableInfo {
  readonly oid: number;
  readonly name: TableName;
  /** `partitioned` at whatever level; `partition` = an ordinary table that is a leaf of a partitioned one. */
  readonly kind: 'table' | 'partitioned' | 'partition';
  /** The topmost partitioned parent; the table itself when it has none. */
  readonly root: TableName;
  readonly columns: readonly ColumnInfo[];
  /**
   * What names a row: the index of REPLICA IDENTITY USING INDEX where it is set, else the primary key. A deferrable
   * key is none: PostgreSQL takes it neither for replication nor for ON CONFLICT.
   */
  readonly key: TableKey | null;
  /** relreplident: d = the primary key, i = an index, f = the full row, n = nothing. */
  readonly replicaIdentity: 'd' | 'i' | 'f' | 'n';
  /** As of the last ANALYZE or VACUUM; the sum of its leaves for a partitioned table. */
  readonly estimatedRows: number;
  /** Without indexes, as of the last ANALYZE or VACUUM; the sum of its leaves for a partitioned table. */
  readonly bytes: number;
  readonly owner: string;
}

/**
 * The tables that the plan moves: ordinary, partitioned and partitions. A partition goes with its topmost parent, which
 * is the one whose name the patterns are held against. System schemas, schema verdigris, members of extensions,
 * temporary, unlogged and foreign tables are left out (see catalog-unmoved.ts).
 *
 * @param names only tables of these names are read, and the others of the database not even looked at. Default: all
 */
export async function readTables(
  session: Session,
  patterns: TablePatterns,
  names?: readonly TableName[],
): Promise<TableInfo[]> {
  const moved = tableFilter(patterns);
  return (await query(session, NAMED, names)).filter((table) => moved(table.root));
}

/** The tables of these names, whatever the plan moves, and all that have the same topmost parents. */
export function readTablesWithPartitions(session: Session, names: readonly TableName[]): Promise<TableInfo[]> {
  return query(session, FAMILIES, names);
}

/** @param oids SQL: which tables those of these names stand for. Without names all are read. */
async function query(session: Session, oids: string, names: readonly TableName[] | undefined): Promise<TableInfo[]> {
  const { rows } = await (names === undefined
    ? session.query<TableRow>(TABLES)
    : session.query<TableRow>(`${TABLES} AND c.oid = ANY (ARRAY(${oids}))`, [
        names.map(({ schema }) => schema),
        names.map(({ name }) => name),
      ]));
  return rows.map(tableOf).sort((a, b) => compareNames(a.name, b.name));
}

/** The tables that go into a publication with publish_via_partition_root: ordinary tables and topmost parents. */
export function replicatedRoots(tables: readonly TableInfo[]): TableInfo[] {
  return tables.filter((table) => sameTable(table.name, table.root));
}

/** The tables that have the rows of one that the plan moves: itself, or its partitions that are no parents. */
export async function leavesOf(session: Session, root: TableName): Promise<TableInfo[]> {
  const tables = await readTablesWithPartitions(session, [root]);
  return tables.filter((one) => one.kind !== 'partitioned' && sameTable(one.root, root));
}

export function sameTable(a: TableName, b: TableName): boolean {
  return a.schema === b.schema && a.name === b.name;
}

/** By schema, then by name, in the order of their code units: the same on every machine and server. */
export function compareNames(a: TableName, b: TableName): number {
  if (a.schema !== b.schema) return a.schema < b.schema ? -1 : 1;
  if (a.name !== b.name) return a.name < b.name ? -1 : 1;
  return 0;
}

interface TableRow {
  oid: string;
  schema: string;
  name: string;
  relkind: 'r' | 'p';
  relispartition: boolean;
  root_schema: string;
  root_name: string;
  replica_identity: TableInfo['replicaIdentity'];
  owner: string;
  rows: string;
  bytes: string;
  columns: ColumnInfo[];
  key: TableKey | null;
}

function tableOf(row: TableRow): TableInfo {
  return {
    oid: Number(row.oid),
    name: { schema: row.schema, name: row.name },
    kind: row.relkind === 'p' ? 'partitioned' : row.relispartition ? 'partition' : 'table',
    root: { schema: row.root_schema, name: row.root_name },
    columns: row.columns,
    key: row.key,
    replicaIdentity: row.replica_identity,
    estimatedRows: Number(row.rows),
    bytes: Number(row.bytes),
    owner: row.owner,
  };
}

/** Schemas of PostgreSQL itself and ours, as a condition on pg_namespace `n`. */
export const USER_SCHEMA = `n.nspname <> 'information_schema' AND n.nspname <> 'verdigris' AND n.nspname !~ '^pg_'`;

/** Whether a column may hold letters that UTF8 has not, or that are in no encoding. */
const ANY_TEXT = `current_setting('server_encoding') <> 'UTF8'
  AND EXISTS (SELECT FROM pg_type t WHERE t.oid = a.atttypid
                 AND t.typcategory <> ALL ('{B,D,I,N,T,V}') AND t.typname NOT IN ('uuid', 'bytea'))`;

/** Whether the NOT NULL of a column, where it has one, holds for rows that were there before: from PostgreSQL 18 on it may not. */
const HOLDS_FOR_ALL = `NOT EXISTS (SELECT FROM pg_constraint k
  WHERE k.conrelid = a.attrelid AND k.contype = 'n' AND k.conkey[1] = a.attnum AND NOT k.convalidated)`;

const TABLES = `
SELECT c.oid::text, n.nspname AS schema, c.relname AS name, c.relkind, c.relispartition,
       rn.nspname AS root_schema, r.relname AS root_name,
       c.relreplident AS replica_identity, pg_get_userbyid(c.relowner) AS owner,
       size.rows::text, size.bytes::text, coalesce(columns.list, '[]') AS columns, key.spec AS key
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_class r ON r.oid = coalesce(pg_partition_root(c.oid), c.oid)
  JOIN pg_namespace rn ON rn.oid = r.relnamespace
  CROSS JOIN LATERAL (
       SELECT coalesce(sum(GREATEST(leaf.reltuples, 0)), 0)::bigint AS rows,
              coalesce(sum((leaf.relpages::bigint + coalesce(toast.relpages, 0)) * current_setting('block_size')::int), 0) AS bytes
         FROM (SELECT c.oid AS relid WHERE c.relkind = 'r'
               UNION ALL
               SELECT tree.relid FROM ${partitionTree('c.oid')} tree WHERE c.relkind = 'p' AND tree.isleaf) part
        CROSS JOIN LATERAL (SELECT l.reltuples, l.relpages, l.reltoastrelid FROM pg_class l WHERE l.oid = part.relid OFFSET 0) leaf
         LEFT JOIN LATERAL (SELECT t.relpages FROM pg_class t WHERE t.oid = leaf.reltoastrelid OFFSET 0) toast ON true) size
  LEFT JOIN LATERAL (
       SELECT json_agg(json_build_object(
                'name', a.attname, 'type', format_type(a.atttypid, a.atttypmod), 'notNull', a.attnotnull AND ${HOLDS_FOR_ALL},
                'generated', a.attgenerated <> '', 'virtual', a.attgenerated = 'v', 'identity', a.attidentity,
                'hasDefault', a.atthasdef AND a.attgenerated = '', 'collation', co.collname) ORDER BY a.attnum) AS list
         FROM pg_attribute a
         LEFT JOIN pg_collation co ON co.oid = a.attcollation
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) columns ON true
  LEFT JOIN LATERAL (
       SELECT json_build_object('kind', CASE WHEN i.indisreplident AND c.relreplident = 'i' THEN 'replicaIdentity' ELSE 'primary' END,
                'columns', (SELECT json_agg(json_build_object('name', a.attname, 'type', format_type(a.atttypid, a.atttypmod),
                                                              'collation', co.collname,
                                                              'encoding', CASE WHEN ${ANY_TEXT} THEN current_setting('server_encoding') END)
                                            ORDER BY k.position)
                              FROM unnest(i.indkey::int2[]) WITH ORDINALITY k (attnum, position)
                              JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
                              LEFT JOIN pg_collation co ON co.oid = a.attcollation
                             WHERE k.position <= i.indnkeyatts)) AS spec
         FROM pg_index i
        WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate
          AND (i.indisprimary OR (i.indisreplident AND c.relreplident = 'i'))
        ORDER BY (i.indisreplident AND c.relreplident = 'i') DESC
        LIMIT 1) key ON true
 WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND ${USER_SCHEMA}
   AND NOT EXISTS (SELECT FROM pg_depend d
                    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')`;

/** By $1, the schemas, and $2, the names: each table with its schema at the same place. */
const NAMED = `
SELECT named.oid
  FROM unnest($1::name[], $2::name[]) wanted (schema, name)
  JOIN pg_namespace of_named ON of_named.nspname = wanted.schema
  JOIN pg_class named ON named.relnamespace = of_named.oid AND named.relname = wanted.name`;

const FAMILIES = `
SELECT family.relid
  FROM (${NAMED}) named
 CROSS JOIN LATERAL ${partitionTree('coalesce(pg_partition_root(named.oid), named.oid)')} family`;
