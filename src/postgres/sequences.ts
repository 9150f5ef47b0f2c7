import { qualified } from './identifier.js';
import type { TableName } from '../plan/table-name.js';
import { inPieces, LOCKED_AT_ONCE } from './sequence-pieces.js';
import type { Session } from './session.js';
import { planUncalled, readPlanned, readUncalled, type PlannedRead } from './uncalled-sequences.js';

/** A sequence and the bounds that it stays in. */
export interface SequenceShape {
  readonly name: TableName;
  readonly increment: bigint;
  readonly min: bigint;
  readonly max: bigint;
  /** CYCLE: at its end it begins again at its other bound. */
  readonly cycles: boolean;
  /** CACHE: how many values a session takes at once, and keeps for itself. */
  readonly cache: number;
}

/** Where a sequence stands, exactly: the two columns of the sequence itself. */
export interface SequencePosition {
  readonly name: TableName;
  readonly lastValue: bigint;
  readonly isCalled: boolean;
}

/** The sequences of this database outside of system schemas, schema verdigris and extensions. */
export async function readSequenceShapes(session: Session): Promise<SequenceShape[]> {
  const { rows } = await session.query<{
    schema: string;
    name: string;
    inc: string;
    min: string;
    max: string;
    cycles: boolean;
    cache: number;
  }>(
    `SELECT n.nspname AS schema, c.relname AS name, s.seqincrement::text AS inc, s.seqmin::text AS min, s.seqmax::text AS max,
            s.seqcycle AS cycles, s.seqcache::float8 AS cache
       FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE n.nspname NOT LIKE 'pg\\_%' AND n.nspname NOT IN ('information_schema', 'verdigris')
        AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
      ORDER BY 1, 2`,
  );
  return rows.map((row) => ({
    name: { schema: row.schema, name: row.name },
    increment: BigInt(row.inc),
    min: BigInt(row.min),
    max: BigInt(row.max),
    cycles: row.cycles,
    cache: row.cache,
  }));
}

/** The sequences that both sides have, the ones that are carried over, each within the bounds of both. */
export function commonSequences(from: readonly SequenceShape[], to: readonly SequenceShape[]): SequenceShape[] {
  const there = new Map(to.map((shape) => [qualified(shape.name), shape]));
  return from.flatMap((shape) => {
    const other = there.get(qualified(shape.name));
    if (other === undefined) return [];
    const bounds = { min: larger(shape.min, other.min), max: other.max < shape.max ? other.max : shape.max };
    return [{ ...shape, ...bounds, cache: Math.max(shape.cache, other.cache) }];
  });
}

function larger(one: bigint, other: bigint): bigint {
  return one > other ? one : other;
}

/** Sequences that stand where the other side's may not go: `setval` would fail there. In words, with what mends it. */
export function beyondBounds(
  shapes: readonly SequenceShape[],
  positions: ReadonlyMap<string, SequencePosition>,
  to: string,
): string[] {
  return shapes.flatMap(({ name, min, max }) => {
    const at = positions.get(qualified(name))?.lastValue;
    if (at === undefined || (at >= min && at <= max)) return [];
    return [
      `sequence ${qualified(name)} stands at ${at}, which ${to}'s (${min} to ${max}) can't take: ALTER SEQUENCE on ${to} as it is on the other side`,
    ];
  });
}

/**
 * Reads where sequences stand from the sequences themselves. MAX(column) would miss values that were taken and not
 * stored, sequences that belong to no column, and descending ones.
 *
 * @param planned how planReads() on this session has had some of the same sequences read. Default: none
 */
export async function readPositions(
  session: Session,
  shapes: readonly SequenceShape[],
  planned: readonly PlannedRead[] = [],
): Promise<SequencePosition[]> {
  if (shapes.length === 0) return [];
  const rows: { readonly i: number; readonly last: string | null }[] = [];
  for (const { from, some } of inPieces(shapes, LOCKED_AT_ONCE)) {
    const read = await session.query<{ i: number; last: string | null }>(
      `SELECT i::int - 1 + $2 AS i, pg_sequence_last_value(to_regclass(name))::text AS last
         FROM unnest($1::text[]) WITH ORDINALITY AS t (name, i) WHERE to_regclass(name) IS NOT NULL`,
      [some.map((shape) => qualified(shape.name)), from],
    );
    rows.push(...read.rows);
  }
  const there = new Set(rows.map(({ i }) => i));
  const uncalled = new Set(rows.flatMap(({ i, last }) => (last === null ? [i] : [])));
  // A statement that names one which is gone fails.
  const usable = planned.filter(
    ({ known }) => known.every(({ i }) => there.has(i)) && known.some(({ i }) => uncalled.has(i)),
  );
  const met = new Set(usable.flatMap(({ known }) => known.map(({ i }) => i)));
  const unplanned = shapes.flatMap(({ name }, i) => (uncalled.has(i) && !met.has(i) ? [{ i, name }] : []));
  const positions = new Map<number, Omit<SequencePosition, 'name'>>();
  for (const { i, last } of rows) if (last !== null) positions.set(i, { lastValue: BigInt(last), isCalled: true });
  const read = [...(await readPlanned(session, usable)), ...(await readUncalled(session, unplanned))];
  for (const { i, lastValue, isCalled } of read) positions.set(i, { lastValue, isCalled });
  return shapes.flatMap(({ name }, i) => {
    const position = positions.get(i);
    return position === undefined ? [] : [{ name, ...position }];
  });
}

/**
 * Has readPositions() of the same sequences take two round trips on this session, unless others than these have given no
 * value then. Once on a session.
 */
export function planReads(
  session: Session,
  shapes: readonly SequenceShape[],
  positions: ReadonlyMap<string, SequencePosition>,
): Promise<PlannedRead[]> {
  const uncalled = shapes.flatMap(({ name }, i) => {
    const position = positions.get(qualified(name));
    return position?.isCalled === false ? [{ ...position, i, name }] : [];
  });
  return planUncalled(session, uncalled);
}

/**
 * Where a sequence of the new side begins: `gap` values beyond the old side's position, for values that sessions have
 * taken from the old one and not stored yet. Within its bounds; a sequence that has no room left gets no gap. One that
 * cycles goes on at its other bound, where its circle is longer than the gap.
 */
export function positionWithGap(shape: SequenceShape, position: SequencePosition, gap: number): SequencePosition {
  const left = stepsLeft(shape, position.lastValue);
  if (shape.cycles && BigInt(gap) > left) {
    const beyond = BigInt(gap) - left - 1n;
    const fits = BigInt(gap) <= stepsLeft(shape, beginning(shape));
    return fits ? { ...position, lastValue: beginning(shape) + beyond * shape.increment } : position;
  }
  const moved = position.lastValue + BigInt(gap) * shape.increment;
  const fits = moved >= shape.min && moved <= shape.max;
  return fits ? { ...position, lastValue: moved } : position;
}

/** So many sessions may take values from the old side, each its whole cache, before they hear of a promotion. */
const CACHING_SESSIONS = 10;

/**
 * How many values the new side's sequence skips at least: `asked`, or more where sessions take them by the cache (what they
 * have taken is in no table, and no `setval` takes it from them), as long as there is room for that.
 */
export function leastGap(shape: SequenceShape, position: SequencePosition, asked: number): number {
  const cached = shape.cache > 1 ? CACHING_SESSIONS * shape.cache : 0;
  if (cached <= asked || positionWithGap(shape, position, cached).lastValue === position.lastValue) return asked;
  return cached;
}

/** How many values come after this one until the bound. */
function stepsLeft({ increment, min, max }: SequenceShape, value: bigint): bigint {
  return ((increment > 0n ? max : min) - value) / increment;
}

/** Where a sequence that cycles begins again. */
function beginning({ increment, min, max }: SequenceShape): bigint {
  return increment > 0n ? min : max;
}

/** How many values lie between two positions of a sequence, in the direction in which it counts. */
function stepsBetween(shape: SequenceShape, from: bigint, to: bigint): bigint {
  const steps = (to - from) / shape.increment;
  if (steps >= 0n || !shape.cycles) return steps;
  return stepsLeft(shape, from) + 1n + (to - beginning(shape)) / shape.increment;
}

/** For how long an application that has not heard of a promotion may go on to take values from the old side, s. */
const HEAD_START_S = 5;

/**
 * How many values the new side's sequence skips: what the old side's takes in some seconds at the rate that was seen, and
 * never fewer than `least`. A sequence that has no room for that many skips `least`.
 */
export function gapAtItsRate(
  shape: SequenceShape,
  before: SequencePosition | undefined,
  now: SequencePosition,
  elapsedMs: number,
  least: number,
): number {
  if (before === undefined) return least;
  const taken = Number(stepsBetween(shape, before.lastValue, now.lastValue));
  const gap = Math.ceil((taken / Math.max(1, elapsedMs)) * 1_000 * HEAD_START_S);
  if (gap <= least || positionWithGap(shape, now, gap).lastValue === now.lastValue) return least;
  return gap;
}

/**
 * Where a sequence of the new side goes: never back, in the direction in which it counts. But of one that cycles nobody can
 * tell what is back, and the old side's position is where its values are. Pure.
 */
export function carriedPosition(
  shape: SequenceShape,
  old: SequencePosition,
  there: SequencePosition | undefined,
): SequencePosition {
  return shape.cycles ? old : furtherPosition(shape, old, there);
}

/** Of two positions of a sequence the one that is further on, in the direction in which it counts. Pure. */
export function furtherPosition(
  shape: SequenceShape,
  one: SequencePosition,
  other: SequencePosition | undefined,
): SequencePosition {
  if (other === undefined) return one;
  if (other.lastValue === one.lastValue) return other.isCalled ? other : one;
  const isFurther = shape.increment > 0n ? other.lastValue > one.lastValue : other.lastValue < one.lastValue;
  return isFurther ? other : one;
}

export function isSamePosition(one: SequencePosition, other: SequencePosition | undefined): boolean {
  return one.lastValue === other?.lastValue && one.isCalled === other.isCalled;
}

/** Sets sequences, some thousand in one transaction. `setval` is not undone by a rollback: only ever moves a closed side. */
export async function setPositions(
  session: Session,
  positions: readonly SequencePosition[],
  over?: AbortSignal,
): Promise<void> {
  for (const { some } of inPieces(positions, LOCKED_AT_ONCE)) {
    // A try that is given up must set none behind a later one.
    over?.throwIfAborted();
    await session.query(
      `SELECT setval(to_regclass(s), v, c) FROM unnest($1::text[], $2::bigint[], $3::boolean[]) AS t (s, v, c)
        WHERE to_regclass(s) IS NOT NULL`,
      [some.map((p) => qualified(p.name)), some.map((p) => p.lastValue.toString()), some.map((p) => p.isCalled)],
    );
  }
}
