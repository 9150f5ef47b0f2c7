import { VerdigrisError } from '../../errors.js';
import { formatTableName, type TableName } from '../../plan/table-name.js';
import type { KeyColumn, TableInfo } from '../catalog.js';
import { ident, qualified } from '../identifier.js';
import { wrongRows, type WrongRows } from '../migrate/backfill-statement.js';
import { commonColumns, type Derived } from '../migrate/plan-work.js';
import type { Direction } from '../../side.js';
import { filledValues } from './filled-values.js';
import { hashOf, type Hashed } from './row-hash.js';

/** A table on both sides, and what is compared of it. */
export interface TablePair {
  readonly table: TableName;
  /** The name as people write it. */
  readonly object: string;
  readonly key: readonly KeyColumn[];
  /** Whether the key's order is the same on every server; else both are asked (see cut-table.ts). */
  readonly ordered: boolean;
  /** Columns whose values must be equal. */
  readonly columns: readonly string[];
  /** SQL of the values of those that are filled: what stands in for NULL on green does so on blue, too. */
  readonly values: Readonly<Record<string, string>>;
  /** SQL of a hash of these columns, and of one of the key. */
  readonly rowHash: string;
  readonly keyHash: string;
  /** Stored columns that are not compared: missing on the target, or of another type there, or new and not known. */
  readonly leftOut: readonly string[];
  /** What the target's new columns must not be. Empty while the application writes them. */
  readonly checks: readonly WrongRows[];
  readonly estimatedRows: number;
  /** The table on the source, for its size. */
  readonly sourceOid: number;
  /** For both sides, so that the text of names in values (regclass) is the same: that of expressions, or OWN_PATH. */
  readonly searchPath: string;
  readonly partitioned: boolean;
}

/** Types whose order is the same on every server: it does not depend on collations, enum definitions or libraries. */
const SAME_ORDER =
  /^(smallint|integer|bigint|oid|numeric(\(\d+,-?\d+\))?|boolean|uuid|date|bytea|inet|cidr|macaddr|time(stamp)?(\(\d\))? with(out)? time zone)$/;
const TEXT = /^(text|character varying(\(\d+\))?|character(\(\d+\))?)$/;
const BYTEWISE: ReadonlySet<string | null> = new Set(['C', 'POSIX', 'ucs_basic']);

/**
 * @param searchPath for both sides.
 * @param incomparable filled columns whose `up` one of the sides can't compute, and generated ones that may rightly differ.
 * @throws VerdigrisError VerificationFailed when the two can't be compared.
 */
export function tablePair(
  source: TableInfo,
  target: TableInfo,
  derived: readonly Derived[],
  direction: Direction,
  searchPath: string,
  incomparable: ReadonlySet<string> = new Set(),
): TablePair {
  const object = formatTableName(source.name);
  const common = new Set(commonColumns(source, target).filter((name) => !incomparable.has(name)));
  const fills = new Map(filledValues(source, derived).map(({ column, value }) => [column, value]));
  const columns = source.columns
    .filter(({ name }) => common.has(name))
    .map(({ name, type }): Hashed => {
      const value = fills.get(name);
      return value === undefined ? { name, type } : { name, type, value };
    });
  const key = source.key?.columns;
  if (key === undefined || key.some(({ name }) => !common.has(name))) {
    throw new VerdigrisError({
      type: 'VerificationFailed',
      message: `table ${object} has no key that both sides have: its rows can't be told apart`,
      nextStep: 'give it a primary key, or leave the table out of the plan',
    });
  }
  return {
    table: source.name,
    object,
    key,
    ordered: key.every((column) => sameOrder(column, target)),
    columns: columns.map(({ name }) => name),
    values: Object.fromEntries([...fills].filter(([name]) => common.has(name))),
    rowHash: hashOf(columns),
    keyHash: hashOf(key),
    leftOut: source.columns.filter((c) => !c.virtual && !common.has(c.name)).map((c) => c.name),
    // Blue's rows arrive on green through the trigger. Green's own rows are the application's.
    checks: direction === 'to_green' ? wrongRows(target, derived) : [],
    estimatedRows: source.estimatedRows,
    sourceOid: source.oid,
    searchPath,
    partitioned: source.kind === 'partitioned' || target.kind === 'partitioned',
  };
}

function sameOrder(column: KeyColumn, target: TableInfo): boolean {
  if (SAME_ORDER.test(column.type)) return true;
  const there = target.columns.find(({ name }) => name === column.name);
  return TEXT.test(column.type) && BYTEWISE.has(column.collation) && BYTEWISE.has(there?.collation ?? null);
}

/** The table in FROM, under its own name, which expressions may use. Rows of inheriting tables are not its rows. */
export function fromTable(pair: TablePair): string {
  return `FROM ${pair.partitioned ? '' : 'ONLY '}${qualified(pair.table)} AS ${ident(pair.table.name)}`;
}
