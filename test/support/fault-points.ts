/**
 * Whether the `n`-th point of a list is taken: every one with VERDIGRIS_FAULT_POINTS=1, every second with 2. With
 * VERDIGRIS_FAULT_FROM=k beside it, those that come k later: so a long list can be gone through in parts. Defaults are
 * chosen to keep the whole run of the faults short.
 */
export function isTaken(n: number, everyByDefault = 1): boolean {
  const every = Math.max(1, Number(process.env['VERDIGRIS_FAULT_POINTS'] ?? everyByDefault));
  return n % every === Number(process.env[FAULTS_FROM] ?? 0) % every;
}

/** `npm run test:faults` sets it to the number of the day where nobody has: a run a day comes by every point. */
export const FAULTS_FROM = 'VERDIGRIS_FAULT_FROM';
