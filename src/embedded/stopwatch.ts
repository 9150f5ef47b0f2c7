/** Starts a stopwatch; the function that it returns reads it: `1.4 s`. */
export function stopwatch(): () => string {
  const since = performance.now();
  return () => `${((performance.now() - since) / 1_000).toFixed(1)} s`;
}
