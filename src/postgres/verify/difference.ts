import type { KeyValues } from '../migrate/key-range.js';

/**
 * How a row differs:
 *
 *   missing    on the source, not on the target
 *   extra      on the target, not on the source
 *   different  on both, with other values
 *   derived    a new column on the target is not what the plan's `up` says, or its default
 *   unsettled  written so often that the two sides could not be seen at the same moment. It is no proof of a difference,
 *              but the row has not been verified, so it counts as one
 */
export type DifferenceKind = 'missing' | 'extra' | 'different' | 'derived' | 'unsettled';

export interface Difference {
  readonly table: string;
  /** `id = 7` */
  readonly key: string;
  readonly kind: DifferenceKind;
  /** With `different` and `derived`: which columns. Never their values. */
  readonly columns?: readonly string[];
}

/** A row whose two sides do not agree, before it is worded. */
export interface RowDifference {
  readonly key: KeyValues;
  readonly kind: DifferenceKind;
  readonly columns?: readonly string[];
}

/** How many differences are listed with their keys; all are counted. */
export const LISTED = 100;
/** A table with so many differences is not looked at any further: it has not been replicated at all. */
export const ENOUGH = 1_000;
