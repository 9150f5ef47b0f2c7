/** A column that rows are given a value of: computed from others, or where it is NULL (`setNotNull`). */
export interface ComputedColumn {
  readonly column: string;
  /** `fill`: the value stands in for NULL. */
  readonly kind: 'compute' | 'fill';
  /** Columns that its expression reads. */
  readonly reads: readonly string[];
}

/**
 * The order in which the columns of a row are computed: the plan's, but each behind those that it is computed from. So what
 * reads a column that a later `setNotNull` fills finds the value that stands in for NULL; an earlier `setNotNull` does not.
 * The plan's own order where columns are computed from each other in a circle.
 */
export function computedOrder<Column extends ComputedColumn>(columns: readonly Column[]): Column[] {
  const ordered: Column[] = [];
  const place = (column: Column, waiting: readonly Column[]): boolean => {
    if (ordered.includes(column)) return true;
    if (waiting.includes(column)) return false;
    const sources = columns.filter((other) => isSource(columns, other, column));
    if (!sources.every((source) => place(source, [...waiting, column]))) return false;
    ordered.push(column);
    return true;
  };
  return columns.every((column) => place(column, [])) ? ordered : [...columns];
}

function isSource(columns: readonly ComputedColumn[], other: ComputedColumn, column: ComputedColumn): boolean {
  if (other === column || !column.reads.includes(other.column)) return false;
  return column.kind !== 'fill' || other.kind !== 'fill' || columns.indexOf(other) < columns.indexOf(column);
}
