import type { HadOthers } from './bring.js';
import type { Haproxies } from './haproxy.js';

/** So many times within a minute is more than a restart or two. */
const TIMES = 3;
const WITHIN_MS = 60_000;
/** Two watches may look at once, while one of them ends: both find the same restart. */
const SAME_WITHIN_MS = 2_000;

/** When each HAProxy had other weights than the share in force, which has not changed since: of all watches in this process. */
const known = new Map<string, { readonly stamp: string; readonly at: readonly number[] }>();

/**
 * Takes up which HAProxies had other weights at a look.
 *
 * @returns those whose weights somebody else sets again and again, such as an agent: there the share is in force for a part of
 * the time alone
 */
export function setByOthers(
  { migration, instances }: Haproxies,
  reset: readonly HadOthers[],
  now = performance.now(),
): string[] {
  return instances.flatMap(({ connection }) => {
    const key = `${migration} ${connection}`;
    const before = known.get(key);
    const stamp = reset.find((one) => one.connection === connection)?.stamp;
    const isSame = stamp === undefined || stamp === before?.stamp;
    const lately = (isSame ? (before?.at ?? []) : []).filter((moment) => now - moment < WITHIN_MS);
    const isNew = stamp !== undefined && now - (lately.at(-1) ?? -Infinity) >= SAME_WITHIN_MS;
    const at = isNew ? [...lately, now] : lately;
    if (at.length === 0) known.delete(key);
    else known.set(key, { stamp: stamp ?? before?.stamp ?? '', at });
    return at.length >= TIMES ? [connection] : [];
  });
}
