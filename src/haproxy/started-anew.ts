import type { SharePeriod } from '../postgres/green-reads.js';
import type { Haproxies } from './haproxy.js';
import { Instance } from './instance.js';

/** HAProxy tells whole seconds. */
const ROUNDING_S = 1;

/**
 * Those whose process has begun while green had a share. A reload leaves the process before with its connections, and nobody
 * can ask or cut that one any more. A HAProxy that does not answer is told of elsewhere.
 *
 * @returns warnings, each time in the same words
 */
export async function startedAnew(setup: Haproxies, { beganAgo, endedAgo }: SharePeriod): Promise<string[]> {
  const found = await Promise.all(
    setup.instances.map(async (haproxy) => {
      const runsFor = await new Instance(haproxy, setup).runsFor().catch(() => undefined);
      const hasBegunMeanwhile =
        runsFor !== undefined && runsFor + ROUNDING_S < beganAgo && runsFor + ROUNDING_S > endedAgo;
      return hasBegunMeanwhile ? [warningOf(haproxy.connection)] : [];
    }),
  );
  return found.flat();
}

function warningOf(connection: string): string {
  return `HAProxy "${connection}" was started while green had a share of the reads. If that was a reload, the process before may still read on green, where it can't be cut: until hard-stop-after in its configuration is over, or its clients have gone (docs/haproxy.md)`;
}
