/**
 * A subquery: a table and, where it is partitioned, all that is below it at whatever level, as `relid`, `parentrelid` (null for
 * the table itself), `isleaf` and `level` (0 = the table itself). Tables that inherit in the old way are not below one, and a
 * partition that is being detached CONCURRENTLY no longer is.
 *
 * pg_partition_tree() would say the same, but it takes ACCESS SHARE on every partition, until the end of the transaction, and
 * so waits for whoever has one of them to himself. This reads catalogs alone, by their indexes: joins that the planner might
 * make otherwise, where catalogs have no statistics yet, would read all of pg_class for each table.
 *
 * @param table SQL of the table's oid; may name what stands before it in a FROM, with LATERAL. No row where there is none.
 */
export function partitionTree(table: string): string {
  return `(
  WITH RECURSIVE tree (relid, parentrelid, isleaf, level) AS (
    SELECT verdigris_top.oid, NULL::oid, verdigris_top.relkind <> 'p', 0 FROM pg_class verdigris_top WHERE verdigris_top.oid = ${table}
    UNION ALL
    SELECT part.inhrelid, part.inhparent, (SELECT c.relkind <> 'p' FROM pg_class c WHERE c.oid = part.inhrelid), tree.level + 1
      FROM tree
     CROSS JOIN LATERAL (SELECT i.inhrelid, i.inhparent FROM pg_inherits i
                          WHERE i.inhparent = tree.relid AND NOT i.inhdetachpending OFFSET 0) part
     WHERE NOT tree.isleaf)
  SELECT relid, parentrelid, isleaf, level FROM tree)`;
}
