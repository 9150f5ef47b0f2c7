import type { Side } from '../side.js';
import type { Session } from './session.js';
import { FENCE_OPEN } from './state.js';

/** How the last run has left a database that must not take writes by itself. */
export interface GivenAway {
  /** What is so, in words. */
  readonly why: string;
  /** What opens it all the same, or which database to name instead. */
  readonly nextStep: string;
}

/**
 * Whether a run that has ended left this database without the writes: its route row gives them to the other side, or its
 * fence is closed, as that of a blue after its retirement. Such a database can't be blue of a new run: opened again, it
 * would take writes beside the one that has them. Undefined when it may be blue. Asks for schema verdigris.
 */
export async function findGivenAway(session: Session): Promise<GivenAway | undefined> {
  const { rows } = await session.query<{
    migration: string | null;
    side: Side | null;
    writes_on: Side | null;
    epoch: string | null;
    open: boolean;
  }>(
    `SELECT o.migration, o.side, r.writes_on, r.epoch::text AS epoch, f.last_value = ${FENCE_OPEN} AS open
       FROM verdigris.fence f
       LEFT JOIN verdigris.owner o ON true
       LEFT JOIN verdigris.route r ON r.migration = o.migration`,
  );
  const found = rows[0];
  if (found === undefined) return undefined;
  const { migration, side, writes_on: writesOn, epoch, open } = found;
  const gaveAway = side !== null && writesOn !== null && writesOn !== side;
  if (open && !gaveAway) return undefined;
  const of = migration === null ? '' : ` (${side ?? 'a side'} of migration "${migration}", which has ended)`;
  return {
    why: `${gaveAway ? `it has given its writes to ${writesOn} at epoch ${epoch ?? ''}` : 'its fence is closed'}${of}: opened again, two databases would take writes`,
    nextStep: `as "blue" of the plan name the database that has the writes: verdigris doctor plan.json --who-is-primary, with the plan of that migration, says which. If this one is to take them all the same: verdigris doctor plan.json --clean --yes --release-${side ?? 'blue'} ${migration ?? 'NAME'}`,
  };
}
