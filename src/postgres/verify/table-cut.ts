import { inRange, Parameters, type KeyValues } from '../migrate/key-range.js';
import type { Rows } from './compare-rows.js';
import type { TablePair } from './table-pair.js';

/*
 * A table is compared in parts: small enough that no snapshot is held for long, and each the same rows on both sides.
 * Parts that follow each other are a segment, which one lane compares and which has a cursor of its own.
 */

/** How a table is cut. Written down, so that another try of the same pass finds the same parts. */
export type TableCut =
  /** Ranges of the key that end at these keys, and one without an end. */
  | { readonly by: 'keys'; readonly bounds: readonly KeyValues[]; readonly rows: number }
  /** So many passes over the table, each for the rows whose key hashes to its number. */
  | { readonly by: 'buckets'; readonly passes: number; readonly rows: number };

/** A table that is compared at once. */
export function uncut(rows: number): TableCut {
  return { by: 'keys', bounds: [], rows };
}

/** Parts of a segment: about a million rows. */
const PARTS_OF_SEGMENT = 10;

export function partsOf(cut: TableCut): number {
  return cut.by === 'keys' ? cut.bounds.length + 1 : cut.passes;
}

export function segmentsOf(cut: TableCut): number {
  return Math.ceil(partsOf(cut) / PARTS_OF_SEGMENT);
}

/** The parts of a segment, by their numbers: from and including `first`, up to and without `end`. */
export function partsOfSegment(cut: TableCut, segment: number): { first: number; end: number } {
  const first = segment * PARTS_OF_SEGMENT;
  return { first, end: Math.min(partsOf(cut), first + PARTS_OF_SEGMENT) };
}

/** The rows of a part. The first has no beginning and the last no end: nothing of the target lies outside. */
export function rowsOfPart(pair: TablePair, cut: TableCut, part: number): Rows {
  if (cut.by === 'buckets') {
    return { where: `(${pair.keyHash} & 2147483647) % ${cut.passes} = ${part}`, values: [], read: 'all' };
  }
  const parameters = new Parameters();
  const range = { after: cut.bounds[part - 1] ?? null, upTo: cut.bounds[part] ?? null };
  const where = inRange(pair.key, range, parameters);
  return { where, values: parameters.values, read: cut.bounds.length === 0 ? 'all' : 'by key' };
}
