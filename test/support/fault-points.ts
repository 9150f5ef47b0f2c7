/**
 * Whether the `n`-th point of a list is taken: every one with VERDIGRIS_FAULT_POINTS=1, every second with 2. Defaults keep
 * the whole run of the faults below 40 minutes on two cores.
 */
export function isTaken(n: number, everyByDefault = 1): boolean {
  return n % Math.max(1, Number(process.env['VERDIGRIS_FAULT_POINTS'] ?? everyByDefault)) === 0;
}
