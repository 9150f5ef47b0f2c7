/** The two databases of a migration: blue is the current one, green the new one. */
export type Side = 'blue' | 'green';

/** The direction of a replication feed, named after the database that it fills. */
export type Direction = 'to_green' | 'to_blue';

export function otherSide(side: Side): Side {
  return side === 'blue' ? 'green' : 'blue';
}
