import { parseDuration } from '../../plan/duration.js';
import { distanceOfHold, measureRoundTrips } from '../round-trips.js';
import type { PairCheck } from './check.js';

/** Whether whoever asks (the worker) is so far away that its round trips make the hold of a promotion long. */
export const distance: PairCheck = {
  name: 'distance',
  run: async ({ blue, green }) => {
    const roundTrips = await measureRoundTrips(blue.session, green.session);
    const { maxHold } = blue.plan.promote;
    const holdMs = distanceOfHold(roundTrips);
    const isTooLong = holdMs > parseDuration(maxHold);
    if (!isTooLong && holdMs <= LONG_HOLD_MS) return [];
    const [toBlue, toGreen] = [roundTrips.from, roundTrips.to].map(Math.round);
    return [
      {
        severity: 'warning',
        side: 'both',
        object: 'round trips',
        message:
          `from here a round trip to blue takes ${toBlue} ms and one to green ${toGreen} ms: by these alone writers wait for up to ${Math.round(holdMs)} ms in a promotion` +
          (isTooLong ? `, and promote.maxHold is ${maxHold}: it may never go through` : ''),
        remedy: `Run the worker near blue and green${isTooLong ? ', or set a longer promote.maxHold' : ''}`,
      },
    ];
  },
};

/** Near the databases a hold takes some 20 ms in all. */
const LONG_HOLD_MS = 100;
