import type { EndpointWindow, SideWindow } from './window.js';

/**
 * Blue's reads to compare with: those of the same window if they are enough, since what troubles both sides now is not
 * green's fault. A large stage leaves blue few or none: then those before the window count as well.
 */
export function baselineOf(
  { blue, blueBefore }: Pick<EndpointWindow, 'blue' | 'blueBefore'>,
  enough: number,
): { readonly reads: SideWindow; readonly when: string } {
  if (blue.requests >= enough) return { reads: blue, when: 'in the same window' };
  return {
    reads: {
      requests: blue.requests + blueBefore.requests,
      errors: blue.errors + blueBefore.errors,
      latency: blue.latency.map((n, bucket) => n + (blueBefore.latency[bucket] ?? 0)),
    },
    when: 'since the routers started',
  };
}
