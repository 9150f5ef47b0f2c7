import type { Side } from '../side.js';

/**
 * The weights of both servers always add up to this. HAProxy takes whole numbers up to 256, so this is the largest total
 * in which every whole and half percent is exact, and in which one server can have all of it.
 */
export const SERVER_WEIGHTS = 200;

/** The smallest step between two shares, in percent. */
export const SMALLEST_STEP = 100 / SERVER_WEIGHTS;

/** Whether HAProxy can share new connections exactly so. */
export function isExactShare(percent: number): boolean {
  return Number.isInteger(percent / SMALLEST_STEP);
}

/** The weights by which `percent` of the new connections go to green. Weight 0 takes none at all. */
export function weightsOf(percent: number): Readonly<Record<Side, number>> {
  const green = Math.round(percent / SMALLEST_STEP);
  return { blue: SERVER_WEIGHTS - green, green };
}
