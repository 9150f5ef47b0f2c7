import { isAway, type Found, type Inventory } from './inventory.js';
import type { Kept } from './plan-cleaning.js';

/*
 * Which share of the reads is on green, blue's row alone says: green's knows no stage. So where blue can't be reached from
 * here, applications may reach it all the same, and read on green by its word.
 */

/**
 * Whether applications may read on green, what its subscriptions bring there. Before the fence is closed no stage has begun,
 * and a green that has the writes follows nobody. Pure.
 */
export function mayFeedReaders({ side, subscriptions, fenceOpen, route }: Inventory, { blue }: Found): boolean {
  if (side !== 'green' || subscriptions.length === 0 || !isAway(blue)) return false;
  return fenceOpen === false && route?.writesOn !== 'green';
}

/** What is said of them: how they end where blue never comes back. Pure. */
export function keptFeeds({ side, subscriptions }: Inventory): Kept[] {
  return subscriptions.map(({ name }) => ({
    side,
    what: `subscription ${name}`,
    why: `a stage may be open, which blue alone knows: whoever reads on green would read what never changes again. Run this again when blue is back. Where blue is gone for good, on green: ALTER SUBSCRIPTION "${name}" DISABLE; ALTER SUBSCRIPTION "${name}" SET (slot_name = NONE); DROP SUBSCRIPTION "${name}";`,
  }));
}
