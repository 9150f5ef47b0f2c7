import { serverClock } from '../server-clock.js';
import type { PairCheck } from './check.js';

/** More than servers differ whose clocks are kept right, and than round trips make of it. */
const APART_MS = 60_000;

/** Whether the clocks of both servers agree: the application's now() goes on by green's when the writes move. */
export const clocks: PairCheck = {
  name: 'clocks',
  run: async ({ blue, green }) => {
    const [onBlue, onGreen] = [await serverClock(blue.session), await serverClock(green.session)];
    const ahead = onGreen() - onBlue();
    if (Math.abs(ahead) <= APART_MS) return [];
    return [
      {
        side: 'both',
        severity: 'warning',
        object: 'clock_timestamp()',
        message: `green's clock is ${Math.round(Math.abs(ahead) / 1_000)} s ${ahead > 0 ? 'ahead of' : 'behind'} blue's: times that the application has the database write jump when the writes move`,
        remedy: 'Mend the clock that is wrong (NTP) before the run',
      },
    ];
  },
};
