/** Milliseconds since 1970 as all processes of this machine agree on them, finer than Date.now(). */
export function now(): number {
  return performance.timeOrigin + performance.now();
}
