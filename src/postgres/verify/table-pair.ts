import { VerdigrisError } from '../../errors.js';
import { formatTableName, type TableName } from '../../plan/table-name.js';
import type { KeyColumn, TableInfo } from '../catalog.js';
import { ident, qualified } from '../identifier.js';
import { wrongRows, type WrongRows } from '../migrate/backfill-statement.js';
import type { ChangedTable } from '../migrate/changed-table.js';
import { keyList } from '../migrate/key-range.js';
import { commonColumns, type Derived } from '../migrate/plan-work.js';
import type { Direction } from '../../side.js';

/** A table on both sides, and what is compared of it. */
export interface TablePair {
  readonly table: TableName;
  /** The name as people write it. */
  readonly object: string;
  readonly key: readonly KeyColumn[];
  /** Whether the key's values have the same order on both servers, so that ranges of it hold the same rows. */
  readonly ordered: boolean;
  /** Columns whose values must be equal. */
  readonly columns: readonly string[];
  /** Stored columns of the source that are not compared: missing on the target, or of another type there. */
  readonly leftOut: readonly string[];
  /** What the target's derived columns must not be. Empty while the application writes them. */
  readonly checks: readonly WrongRows[];
  readonly estimatedRows: number;
  /** For both sides, so that the text of names in values (regclass) is the same. */
  readonly searchPath: string;
  readonly partitioned: boolean;
}

/**
 * Types whose order is the same on every server: it does not depend on collations, enum definitions or libraries.
 * Everything else is compared in buckets of a hash.
 */
const SAME_ORDER =
  /^(smallint|integer|bigint|oid|numeric(\(\d+,-?\d+\))?|boolean|uuid|date|bytea|inet|cidr|macaddr|time(stamp)?(\(\d\))? with(out)? time zone)$/;
const TEXT = /^(text|character varying(\(\d+\))?|character(\(\d+\))?)$/;
const BYTEWISE: ReadonlySet<string | null> = new Set(['C', 'POSIX', 'ucs_basic']);

/** @throws VerdigrisError VerificationFailed when the two can't be compared. */
export function tablePair(
  source: ChangedTable,
  target: ChangedTable,
  derived: readonly Derived[],
  direction: Direction,
): TablePair {
  const object = formatTableName(source.info.name);
  const filled = new Set(derived.filter(({ kind }) => kind === 'fill').map(({ column }) => column));
  const common = commonColumns(source.info, target.info);
  const columns = common.filter((name) => !filled.has(name));
  const key = source.info.key?.columns;
  if (key === undefined || key.some(({ name }) => !common.includes(name))) {
    throw new VerdigrisError({
      type: 'VerificationFailed',
      message: `table ${object} has no key that both sides have: its rows can't be told apart`,
      nextStep: 'give it a primary key, or leave the table out of the plan',
    });
  }
  return {
    table: source.info.name,
    object,
    key,
    ordered: key.every((column) => sameOrder(column, target.info)),
    columns,
    leftOut: source.info.columns.filter((c) => !c.generated && !common.includes(c.name)).map((c) => c.name),
    // Blue's rows arrive on green through the trigger. Green's own rows are the application's.
    checks: direction === 'to_green' ? wrongRows(target.info, derived) : [],
    estimatedRows: source.info.estimatedRows,
    searchPath: target.searchPath,
    partitioned: source.info.kind === 'partitioned' || target.info.kind === 'partitioned',
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

/**
 * A hash of the compared columns of a row. Of their text, which is the same on all versions under the session's fixed
 * settings; bytewise, since a collation may call two different strings equal.
 */
export function rowHash(pair: TablePair): string {
  return `hashtextextended(ROW(${pair.columns.map(ident).join(', ')})::text COLLATE "C", 0)`;
}

/** A hash of the key, for buckets. */
export function keyHash(pair: TablePair): string {
  return `hashtextextended(ROW(${keyList(pair.key)})::text COLLATE "C", 0)`;
}
