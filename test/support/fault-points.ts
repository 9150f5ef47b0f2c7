/**
 * Whether the `n`-th point of a list is taken: every one with VERDIGRIS_FAULT_POINTS=1, every second with 2. With
 * VERDIGRIS_FAULT_FROM=k beside it, those that come k later: so a long list can be gone through in parts. Defaults are
 * chosen to keep the whole run of the faults short.
 */
export function isTaken(n: number, everyByDefault = 1): boolean {
  const every = everyOf(everyByDefault);
  return n % every === Number(process.env[FAULTS_FROM] ?? 0) % every;
}

function everyOf(everyByDefault: number): number {
  return Math.max(1, Number(process.env['VERDIGRIS_FAULT_POINTS'] ?? everyByDefault));
}

/**
 * Of points at which there is a before and an after, as many of both on every day, and those of different points: `n` counts
 * the befores, and the afters, each for themselves.
 */
export function isHalfTaken(when: 'before' | 'after', n: number, everyByDefault = 1): boolean {
  return isTaken(when === 'before' ? n : n + Math.ceil(everyOf(everyByDefault) / 2), everyByDefault);
}

/** `npm run test:faults` sets it to the number of the day where nobody has: a run a day comes by every point. */
export const FAULTS_FROM = 'VERDIGRIS_FAULT_FROM';
