import { formatTableName } from '../../../plan/table-name.js';
import { sameTable, type TableInfo } from '../../catalog.js';
import type { Session } from '../../session.js';
import type { Stream } from '../../streams.js';
import type { SourceTable } from './plan-parcels.js';

/**
 * The tables of blue that hold rows, measured now: what ANALYZE knew may be far from the truth.
 *
 * @param blue a session of blue; where it reads a snapshot, the files are those of that moment
 * @param alike whether both servers give the same answers to the same expressions (answersBy)
 */
export async function sourceTables(
  blue: Session,
  tables: readonly TableInfo[],
  green: readonly TableInfo[],
  streams: readonly Stream[],
  alike: boolean,
): Promise<SourceTable[]> {
  const leaves = tables.filter((table) => table.kind !== 'partitioned');
  const streamOf = new Map(streams.flatMap(({ name, tables: own }) => own.map((t) => [formatTableName(t), name])));
  const { rows } = await blue.query<{ oid: number; blocks: string; bytes: string; node: string }>(
    `SELECT c.oid::int8::float8 AS oid, c.relfilenode::int8::text AS node,
            (pg_relation_size(c.oid) / current_setting('block_size')::int)::text AS blocks,
            (pg_relation_size(c.oid) + CASE c.reltoastrelid WHEN 0 THEN 0 ELSE pg_relation_size(c.reltoastrelid) END)::text AS bytes
       FROM pg_class c WHERE c.oid = ANY ($1::oid[]) AND pg_relation_size(c.oid) IS NOT NULL`,
    [leaves.map(({ oid }) => oid)],
  );
  const elsewhere = await perhapsElsewhere(blue, leaves, alike);
  const sizes = new Map(rows.map((row) => [row.oid, row]));
  const onGreen = byName(green);
  return leaves.flatMap((leaf) => {
    const size = sizes.get(leaf.oid);
    const stream = streamOf.get(formatTableName(leaf.root));
    // A table that has been made since the publications is none of the run's; the catalogs are compared later.
    if (size === undefined || stream === undefined) return [];
    return [
      {
        table: leaf.name,
        root: leaf.root,
        target: elsewhere.has(leaf.oid) ? leaf.root : targetOf(leaf, onGreen),
        stream,
        blocks: Number(size.blocks),
        bytes: Number(size.bytes),
        estimatedRows: leaf.estimatedRows,
        fileNode: Number(size.node),
      },
    ];
  });
}

/**
 * The leaves whose rows green may have in other ones (pg_dump loads such tables through their roots, too). The hash of an
 * enum is that of its label's OID, which each database gives itself; arrays, composites and ranges may be made of enums.
 * The order of text, and what a nondeterministic collation calls equal, is what a server's library says.
 */
async function perhapsElsewhere(
  blue: Session,
  leaves: readonly TableInfo[],
  alike: boolean,
): Promise<ReadonlySet<number>> {
  const { rows } = await blue.query<{ oid: number }>(
    `SELECT DISTINCT leaf.oid::int8::float8 AS oid
       FROM unnest($1::oid[]) leaf (oid)
       CROSS JOIN LATERAL pg_partition_ancestors(leaf.oid) above (relid)
       JOIN pg_partitioned_table p ON p.partrelid = above.relid
      WHERE (p.partstrat = 'h' AND EXISTS (
               SELECT FROM pg_opclass c WHERE c.oid = ANY (p.partclass::oid[])
                  AND c.opcintype IN ('anyenum'::regtype, 'anyarray'::regtype, 'record'::regtype, 'anyrange'::regtype, 'anymultirange'::regtype)))
         OR (NOT $2 AND EXISTS (
               SELECT FROM pg_collation c WHERE c.oid = ANY (p.partcollation::oid[])
                  AND CASE p.partstrat WHEN 'r' THEN c.collname NOT IN ('C', 'POSIX') ELSE NOT c.collisdeterministic END))`,
    [leaves.map(({ oid }) => oid), alike],
  );
  return new Set(rows.map(({ oid }) => oid));
}

/** A leaf goes into green's leaf of the same name, which spares the routing of each row; else into its root. */
function targetOf(leaf: TableInfo, green: ReadonlyMap<string, TableInfo>): TableInfo['name'] {
  const same = green.get(formatTableName(leaf.name));
  return same !== undefined && same.kind !== 'partitioned' && sameTable(same.root, leaf.root) ? leaf.name : leaf.root;
}

/** Finds tables by name; built once, since thousands of them are looked up. */
export function byName(tables: readonly TableInfo[]): ReadonlyMap<string, TableInfo> {
  return new Map(tables.map((table) => [formatTableName(table.name), table]));
}
