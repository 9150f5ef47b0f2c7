import { formatTableName } from '../plan/table-name.js';
import { copyFormat } from './bootstrap/copy/copy-format.js';
import { NOTHING_COMPUTED } from './bootstrap/copy/copy-query.js';
import type { TableInfo } from './catalog.js';

/**
 * Whether a feed of these tables may send values in binary form (`binary` of ensureSubscription): every column that is
 * replicated has the same type on both sides, with a binary form that is the same in all versions and holds no OID.
 * Unlike text, binary values can't go into a column of another type: a statement that changes one later, on one side
 * only, would stop the feed. So it is for plans without raw SQL.
 *
 * @param source the moved tables of the side that is read, @param target those of the side that is filled.
 */
export function isBinarySafe(source: readonly TableInfo[], target: readonly TableInfo[]): boolean {
  const there = new Map(target.map((table) => [formatTableName(table.name), table]));
  return source.every((table) => {
    const other = there.get(formatTableName(table.name));
    const columns = table.columns.filter((column) => !column.generated).map((column) => column.name);
    if (other === undefined) return false;
    return columns.length === 0 || copyFormat(table, other, columns, NOTHING_COMPUTED) === 'binary';
  });
}
