import type { Direction, Side } from '../side.js';
import { otherSide } from '../side.js';

/*
 * A feed is one direction of logical replication: a publication and a slot on the side that it reads, a subscription
 * on the side that it fills, and a marker table. All three objects of a feed have the same name.
 */

/** Name of the publication, slot and subscription of one direction: below 63 bytes, and allowed for a slot. */
export function feedName(migration: string, direction: Direction): string {
  return `verdigris_${migration.replaceAll('-', '_')}_${direction}`;
}

/** The side that a direction fills. */
export function targetOf(direction: Direction): Side {
  return direction === 'to_green' ? 'green' : 'blue';
}

/** The side that a direction reads. */
export function sourceOf(direction: Direction): Side {
  return otherSide(targetOf(direction));
}

/** The direction that fills a side. */
export function directionTo(side: Side): Direction {
  return side === 'green' ? 'to_green' : 'to_blue';
}
