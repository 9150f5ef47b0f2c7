import type { TablePatterns } from './catalog-pattern.js';
import { readMovedSequences } from './catalog-sequences.js';
import { ident, qualified } from './identifier.js';
import type { TableName } from '../plan/table-name.js';
import {
  furtherPosition,
  leastGap,
  positionWithGap,
  readPositions,
  readSequenceShapes,
  setPositions,
} from './sequences.js';
import type { SequencePosition, SequenceShape } from './sequences.js';
import type { Session } from './session.js';

/** An integer column whose values come from a sequence: serial, identity, or a default. */
interface FilledColumn {
  readonly sequence: TableName;
  readonly table: TableName;
  readonly column: string;
}

/**
 * Moves those sequences of a closed side that the patterns move beyond the values that its rows have, and `gap` further,
 * where the side that gave them can't be asked any more: rows arrive by the feed, sequences do not. Values that were taken
 * and not stored, and sequences that fill no integer column, can only be met by the gap. None goes back.
 */
export async function moveSequencesBeyondRows(session: Session, gap: number, patterns: TablePatterns): Promise<void> {
  const moves = new Set((await readMovedSequences(session, patterns)).map(qualified));
  const shapes = (await readSequenceShapes(session)).filter(({ name }) => moves.has(qualified(name)));
  const positions = new Map((await readPositions(session, shapes)).map((one) => [qualified(one.name), one]));
  const columns = await readFilledColumns(session);
  const moved: SequencePosition[] = [];
  for (const shape of shapes) {
    const name = qualified(shape.name);
    let furthest = positions.get(name);
    if (furthest === undefined) continue;
    for (const column of columns.filter(({ sequence }) => qualified(sequence) === name)) {
      const stored = await readFurthestValue(session, shape, column);
      if (stored !== undefined) furthest = furtherPosition(shape, stored, furthest);
    }
    moved.push(positionWithGap(shape, furthest, leastGap(shape, furthest, gap)));
  }
  await setPositions(session, moved);
}

/** Of partitions only the root: its rows are theirs. */
async function readFilledColumns(session: Session): Promise<FilledColumn[]> {
  const { rows } = await session.query<{
    sequence_schema: string;
    sequence_name: string;
    table_schema: string;
    table_name: string;
    column: string;
  }>(
    `WITH filled AS (
       SELECT d.objid AS sequence, d.refobjid AS relation, d.refobjsubid AS number FROM pg_depend d
        WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0
          AND d.deptype IN ('a', 'i')
       UNION
       SELECT d.refobjid, a.adrelid, a.adnum FROM pg_depend d JOIN pg_attrdef a ON a.oid = d.objid
        WHERE d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass)
     SELECT sn.nspname AS sequence_schema, s.relname AS sequence_name, tn.nspname AS table_schema, t.relname AS table_name,
            a.attname AS column
       FROM filled f
       JOIN pg_class s ON s.oid = f.sequence AND s.relkind = 'S' JOIN pg_namespace sn ON sn.oid = s.relnamespace
       JOIN pg_class t ON t.oid = f.relation AND t.relkind IN ('r', 'p') AND NOT t.relispartition
       JOIN pg_namespace tn ON tn.oid = t.relnamespace
       JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = f.number
      WHERE a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)
      ORDER BY 1, 2, 3, 4, 5`,
  );
  return rows.map((row) => ({
    sequence: { schema: row.sequence_schema, name: row.sequence_name },
    table: { schema: row.table_schema, name: row.table_name },
    column: row.column,
  }));
}

/** The value of the column that the sequence would reach last; undefined without one within its bounds. */
async function readFurthestValue(
  session: Session,
  shape: SequenceShape,
  { table, column }: FilledColumn,
): Promise<SequencePosition | undefined> {
  const furthest = shape.increment > 0n ? 'max' : 'min';
  const { rows } = await session.query<{ value: string | null }>(
    `SELECT ${furthest}(${ident(column)})::text AS value FROM ${qualified(table)}
      WHERE ${ident(column)} BETWEEN $1::bigint AND $2::bigint`,
    [shape.min.toString(), shape.max.toString()],
  );
  const value = rows[0]?.value ?? null;
  return value === null ? undefined : { name: shape.name, lastValue: BigInt(value), isCalled: true };
}
