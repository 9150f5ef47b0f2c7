/** The middle of the numbers: of two middle ones, their mean; null of none. */
export function median(numbers: readonly number[]): number | null {
  const sorted = [...numbers].sort((a, b) => a - b);
  const upper = sorted[Math.floor(sorted.length / 2)];
  const lower = sorted[Math.floor((sorted.length - 1) / 2)];
  return upper === undefined || lower === undefined ? null : (upper + lower) / 2;
}

/** `a` to `b`; null where one of them is missing or `b` is 0. */
export function ratio(a: number | null, b: number | null): number | null {
  return a === null || b === null || b === 0 ? null : a / b;
}

/**
 * The contestants of one round: every second round is the one before it backwards, and each two begin with another one,
 * so that nobody is always first (cold caches) or always behind the same one.
 */
export function orderOfRound<T>(contestants: readonly T[], round: number): readonly T[] {
  const at = contestants.length === 0 ? 0 : Math.floor(round / 2) % contestants.length;
  const turned = [...contestants.slice(at), ...contestants.slice(0, at)];
  return round % 2 === 0 ? turned : turned.reverse();
}
