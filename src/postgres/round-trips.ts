import type { Session } from './session.js';

/*
 * How far the worker is from the two sides. A marker, and the hold, take several round trips one after the other: between
 * regions they take longer than the feed, which may be close behind all the same.
 */

/** Round trips of one worker, ms. */
export interface RoundTrips {
  /** To the side that gives writes away. */
  readonly from: number;
  /** To the side that takes them. */
  readonly to: number;
}

/** The shortest of a few round trips to each side: whatever is above it is no distance. */
export async function measureRoundTrips(from: Session, to: Session): Promise<RoundTrips> {
  const [there, other] = await Promise.all([shortestRoundTrip(from), shortestRoundTrip(to)]);
  return { from: there, to: other };
}

async function shortestRoundTrip(session: Session): Promise<number> {
  let shortest = Number.POSITIVE_INFINITY;
  for (let i = 0; i < ROUND_TRIPS; i++) {
    const began = performance.now();
    await session.query('SELECT 1');
    shortest = Math.min(shortest, performance.now() - began);
  }
  return shortest;
}

const ROUND_TRIPS = 5;

/**
 * What of a marker's time is distance, ms: it is written, looked for too early, and looked for again after a twentieth of
 * the time until then (see waitForMarker). The way of the feed lies within these.
 */
export function distanceOfMarker({ from, to }: RoundTrips): number {
  return from + 2.1 * to;
}

/** What of a hold is distance, ms, at most: so many round trips to either side follow one another in it. */
export function distanceOfHold({ from, to }: RoundTrips): number {
  return 5 * (from + to);
}
