import type { EndpointWindow, SideWindow } from './window.js';

/** With fewer reads than this part of green's, blue's of the same time have too little to say. */
export const PART_OF_GREEN = 1 / 4;

/** Whether a stage of so many percent of the users leaves blue too few reads to be compared with. */
export function leavesBlueTooFew(percent: number): boolean {
  return 100 - percent < percent * PART_OF_GREEN;
}

export interface Baseline {
  readonly reads: SideWindow;
  readonly when: string;
  /** Of the same window: blue is compared with moment by moment. */
  readonly isBeside: boolean;
}

/**
 * Blue's reads to compare with: those of the same window if they are enough, since what troubles both sides now is not
 * green's fault. A large stage leaves blue few or none: then those before the window count as well.
 */
export function baselineOf(
  { green, blue, blueBefore }: Pick<EndpointWindow, 'green' | 'blue' | 'blueBefore'>,
  enough: number,
): Baseline {
  if (isBeside(green, blue) && blue.requests >= enough) {
    return { reads: blue, when: 'in the same window', isBeside: true };
  }
  return {
    reads: {
      requests: blue.requests + blueBefore.requests,
      errors: blue.errors + blueBefore.errors,
      latency: blue.latency.map((n, bucket) => n + (blueBefore.latency[bucket] ?? 0)),
    },
    when: 'since the routers started',
    isBeside: false,
  };
}

function isBeside(green: Pick<SideWindow, 'requests'>, blue: Pick<SideWindow, 'requests'>): boolean {
  return blue.requests > 0 && blue.requests >= green.requests * PART_OF_GREEN;
}
