/**
 * Whoever reads a sequence, or sets it, has a lock on it until the transaction ends, and a server has room for so many locks:
 * 64 for each connection that it allows by default, of which the application needs its own. A statement for each of them is
 * a round trip for each, which writers would wait for.
 */
export const LOCKED_AT_ONCE = 4_000;

/** Part of a list. */
export interface Piece<T> {
  /** The place of its first one in the list. */
  readonly from: number;
  readonly some: readonly T[];
}

/** Cuts a list into pieces of `length` at most, in order. Pure. */
export function inPieces<T>(list: readonly T[], length: number): Piece<T>[] {
  return Array.from({ length: Math.ceil(list.length / length) }, (_, n) => ({
    from: n * length,
    some: list.slice(n * length, (n + 1) * length),
  }));
}
