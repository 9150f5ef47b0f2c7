import type { TablePatterns } from './catalog-pattern.js';
import { readMovedSequences } from './catalog-sequences.js';
import { ident, qualified } from './identifier.js';
import type { TableName } from '../plan/table-name.js';
import { furtherPosition, leastGap, positionWithGap, readPositions, readSequenceShapes } from './sequences.js';
import type { SequencePosition, SequenceShape } from './sequences.js';
import type { Session } from './session.js';

/** An integer column whose values come from a sequence: serial, identity, or a default. */
interface FilledColumn {
  readonly sequence: TableName;
  readonly table: TableName;
  readonly column: string;
  /** What its type can hold. */
  readonly min: bigint;
  readonly max: bigint;
}

/** How a sequence goes on beyond rows. */
export interface SequenceMove {
  readonly from: SequencePosition;
  readonly to: SequencePosition;
  /** A value of a row that the sequence does not go beyond: it is too far away to have come from it. */
  readonly leaves?: bigint;
}

/**
 * How those sequences of a closed side that the patterns move go on beyond the values that its rows have, and `gap` further,
 * where the side that gave them can't be asked any more: rows arrive by the feed, sequences do not. Values that were taken
 * and not stored, and sequences that fill no integer column, can only be met by the gap. None goes back. Changes nothing.
 */
export async function readMovesBeyondRows(
  session: Session,
  gap: number,
  patterns: TablePatterns,
): Promise<SequenceMove[]> {
  const moves = new Set((await readMovedSequences(session, patterns)).map(qualified));
  const shapes = (await readSequenceShapes(session)).filter(({ name }) => moves.has(qualified(name)));
  const positions = new Map((await readPositions(session, shapes)).map((one) => [qualified(one.name), one]));
  const columns = await readFilledColumns(session);
  const found: SequenceMove[] = [];
  for (const shape of shapes) {
    const name = qualified(shape.name);
    const from = positions.get(name);
    if (from === undefined) continue;
    const filled = columns.filter(({ sequence }) => qualified(sequence) === name);
    found.push(await moveBeyondRows(session, shape, from, filled, gap));
  }
  return found;
}

async function moveBeyondRows(
  session: Session,
  shape: SequenceShape,
  from: SequencePosition,
  filled: readonly FilledColumn[],
  gap: number,
): Promise<SequenceMove> {
  let [furthest, leaves]: [SequencePosition, bigint | undefined] = [from, undefined];
  for (const column of filled) {
    const stored = await readFurthestValue(session, withinColumn(shape, column), column, from.lastValue, gap);
    if (stored.taken !== undefined) furthest = furtherPosition(shape, called(shape, stored.taken), furthest);
    leaves ??= stored.leaves;
  }
  const bounds = withinColumns(shape, filled);
  const to = positionWithGap(bounds, furthest, leastGap(bounds, furthest, gap));
  return { from, to, ...(leaves === undefined ? {} : { leaves }) };
}

function called({ name }: SequenceShape, lastValue: bigint): SequencePosition {
  return { name, lastValue, isCalled: true };
}

/** A sequence that may go beyond what a column can hold has no room there. */
function withinColumn(shape: SequenceShape, { min, max }: Pick<FilledColumn, 'min' | 'max'>): SequenceShape {
  return { ...shape, min: shape.min > min ? shape.min : min, max: shape.max < max ? shape.max : max };
}

/** Of several columns the widest says how far it may go. */
function withinColumns(shape: SequenceShape, filled: readonly FilledColumn[]): SequenceShape {
  const [widest] = [...filled].sort((one, other) => (one.max > other.max ? -1 : 1));
  return widest === undefined ? shape : withinColumn(shape, widest);
}

/** Of partitions only what no table above them fills from the same sequence: its rows are theirs. */
async function readFilledColumns(session: Session): Promise<FilledColumn[]> {
  const { rows } = await session.query<{
    sequence_schema: string;
    sequence_name: string;
    table_schema: string;
    table_name: string;
    column: string;
    bytes: number;
  }>(
    `WITH filled AS (
       SELECT d.objid AS sequence, d.refobjid AS relation, d.refobjsubid AS number FROM pg_depend d
        WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0
          AND d.deptype IN ('a', 'i')
       UNION
       SELECT d.refobjid, a.adrelid, a.adnum FROM pg_depend d JOIN pg_attrdef a ON a.oid = d.objid
        WHERE d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass)
     SELECT sn.nspname AS sequence_schema, s.relname AS sequence_name, tn.nspname AS table_schema, t.relname AS table_name,
            a.attname AS column, a.attlen::int AS bytes
       FROM filled f
       JOIN pg_class s ON s.oid = f.sequence AND s.relkind = 'S' JOIN pg_namespace sn ON sn.oid = s.relnamespace
       JOIN pg_class t ON t.oid = f.relation AND t.relkind IN ('r', 'p')
       JOIN pg_namespace tn ON tn.oid = t.relnamespace
       JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = f.number
      WHERE NOT EXISTS (
              SELECT FROM filled above JOIN pg_attribute aa ON aa.attrelid = above.relation AND aa.attnum = above.number
               WHERE t.relispartition AND above.sequence = f.sequence AND above.relation <> t.oid AND aa.attname = a.attname
                 AND above.relation IN (SELECT relid FROM pg_partition_ancestors(t.oid)))
        AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)
      ORDER BY 1, 2, 3, 4, 5`,
  );
  return rows.map((row) => ({
    sequence: { schema: row.sequence_schema, name: row.sequence_name },
    table: { schema: row.table_schema, name: row.table_name },
    column: row.column,
    min: -(1n << BigInt(8 * row.bytes - 1)),
    max: (1n << BigInt(8 * row.bytes - 1)) - 1n,
  }));
}

/**
 * The value of the column that the sequence would reach last, of those that can have come from it. One that is further on
 * than half of what the sequence has left, with nothing before it that leads there, was written by hand or made elsewhere
 * ("deleted user" as 2147483647): beyond it there may be no value for the next INSERT.
 */
async function readFurthestValue(
  session: Session,
  shape: SequenceShape,
  column: FilledColumn,
  from: bigint,
  gap: number,
): Promise<{ readonly taken?: bigint; readonly leaves?: bigint }> {
  const sign = shape.increment > 0n ? 1n : -1n;
  const [begin, end] = sign > 0n ? [shape.min, shape.max] : [shape.max, shape.min];
  const leads = BigInt(gap) * shape.increment * sign;
  const furthest = await readLast(session, column, begin, end);
  if (furthest === undefined) return {};
  let at = from;
  while ((furthest - at) * sign > ((end - at) * sign) / 2n) {
    const half = at + (end - at) / 2n;
    const near = await readLast(session, column, begin, half);
    const before = near === undefined || (near - at) * sign < 0n ? at : near;
    const next = (await readLast(session, column, end, half + sign)) ?? furthest;
    if ((next - before) * sign > leads) return { taken: before, leaves: next };
    at = next;
  }
  return { taken: furthest };
}

/** The last of the column's values on the way from one value to another; undefined without one. */
async function readLast(
  session: Session,
  { table, column }: FilledColumn,
  from: bigint,
  to: bigint,
): Promise<bigint | undefined> {
  const [last, low, high] = from < to ? ['max', from, to] : ['min', to, from];
  const { rows } = await session.query<{ value: string | null }>(
    `SELECT ${last}(${ident(column)})::text AS value FROM ${qualified(table)}
      WHERE ${ident(column)} BETWEEN $1::bigint AND $2::bigint`,
    [low.toString(), high.toString()],
  );
  const value = rows[0]?.value ?? null;
  return value === null ? undefined : BigInt(value);
}
