import type { Side } from '../../side.js';
import type { Found, Inventory } from './inventory.js';

/** A side that belongs to a later migration than the other one, with which it was in the hands of one before. */
export interface HandedOn {
  readonly side: Side;
  /** The migration that has left it, and still owns the other side. */
  readonly before: string;
  /** The one that it belongs to. */
  readonly now: string;
}

/** The side that a later migration has taken over from that of the other side; undefined where none has. Pure. */
export function handedOn({ blue, green }: Found): HandedOn | undefined {
  if (!blue.reached || !green.reached) return undefined;
  return asGreen(blue.inventory, green.inventory) ?? asBlueAgain(blue.inventory, green.inventory);
}

/**
 * As the green of one migration becomes the blue of the next: it still has the route row of the earlier one, for its
 * routers. Two rows of each other prove nothing.
 */
function asGreen(blue: Inventory, green: Inventory): HandedOn | undefined {
  const knows = (one: Inventory, other: Inventory): boolean =>
    other.owner !== null && one.otherMigrations.includes(other.owner.migration);
  const [byBlue, byGreen] = [knows(blue, green), knows(green, blue)];
  if (byBlue === byGreen) return undefined;
  const [one, other] = byBlue ? [blue, green] : [green, blue];
  // A side that was given under the wrong name is mixed up all the same.
  if (one.owner === null || other.owner === null || other.owner.side !== other.side) return undefined;
  return { side: one.side, before: other.owner.migration, now: one.owner.migration };
}

/**
 * As a blue that was rolled back to begins a run of another name: nothing on it knows the run before. The green that was
 * kept says that the writes are on blue, and that its run has ended, so that nothing of a run that lives hangs on names
 * that are mixed up. Both epochs began with blue's clock.
 */
function asBlueAgain(blue: Inventory, green: Inventory): HandedOn | undefined {
  const [now, before] = [blue.owner, green.owner];
  if (now === null || before === null || now.migration === before.migration) return undefined;
  if (now.side !== 'blue' || before.side !== 'green' || before.outcome === null) return undefined;
  if (green.route?.writesOn !== 'blue') return undefined;
  const epoch = blue.route?.epoch ?? now.claimedEpoch ?? 0;
  if (epoch <= green.route.epoch) return undefined;
  return { side: 'blue', before: before.migration, now: now.migration };
}

/** What belongs to one migration: a side that was handed on to a later one is left out, with all that is in it. Pure. */
export function withoutHandedOn(found: Found): Found {
  const on = handedOn(found);
  if (on === undefined) return found;
  const { side, now } = on;
  return { ...found, [side]: { reached: false, side, why: `it belongs to migration "${now}" by now`, handedOn: now } };
}
