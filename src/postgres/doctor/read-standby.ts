import { readPromotionPosition } from '../bootstrap/standby/promotion-position.js';
import { readIdentity } from '../bootstrap/standby/recovery.js';
import { hasState } from '../state.js';
import { withSession, type Databases, type Session, type SessionOptions } from '../session.js';
import type { SideFound } from './inventory.js';

/** What the bootstrap `standby` leaves on a server. */
export interface StandbyTraces {
  /** It takes no writes, and what it shows is what the server that it follows has written. */
  readonly inRecovery: boolean;
  /** The run that owns it has begun to make a green of a standby. Green has that from blue. */
  readonly byStandby: boolean;
  /** Such a run has made its default read-only for the time until green is fenced, and it is so still. */
  readonly closedByDefault: boolean;
}

export async function readStandbyTraces(session: Session): Promise<StandbyTraces> {
  const { rows } = await session.query<{ inRecovery: boolean; readOnly: boolean }>(
    `SELECT pg_is_in_recovery() AS "inRecovery", reset_val = 'on' AS "readOnly"
       FROM pg_settings WHERE name = 'default_transaction_read_only'`,
  );
  const { inRecovery = false, readOnly = false } = rows[0] ?? {};
  if (!(await hasState(session))) return { inRecovery, byStandby: false, closedByDefault: false };
  const begun = await session.query<{ any: boolean; closes: boolean }>(
    `SELECT count(*) > 0 AS any, coalesce(bool_or(p.state ->> 'closed' = 'true'), false) AS closes
       FROM verdigris.progress p JOIN verdigris.owner o USING (run_id) WHERE p.step = 'standby'`,
  );
  const { any: byStandby = false, closes = false } = begun.rows[0] ?? {};
  return { inRecovery, byStandby, closedByDefault: closes && readOnly };
}

/**
 * Green, where it is or was a physical standby of blue. Until it is taken over, what it shows is blue's:
 *
 *   in recovery   it takes no writes, and nothing can be done there: it counts as not reached
 *   promoted      the owner's row still says that it is blue
 *   taken over    an earlier version has not written down in which epoch it was claimed: in the one of blue's claim
 *
 * A standby of a green that has been taken over is none of blue's: it is left as it was found.
 */
export async function greenAsItIs(
  databases: Databases,
  blue: SideFound,
  green: SideFound,
  look: SessionOptions,
): Promise<SideFound> {
  if (!green.reached) return green;
  const { inventory } = green;
  const { owner, inRecovery, closedByDefault, sessions } = inventory;
  const ofBlue = blue.reached ? blue.inventory.owner : null;
  const sameRun = ofBlue === null || owner === null || ofBlue.runId === owner.runId;
  const claimedEpoch = owner?.claimedEpoch ?? (sameRun ? (ofBlue?.claimedEpoch ?? null) : null);
  if (owner?.side === 'green' && sameRun) {
    return { reached: true, inventory: { ...inventory, owner: { ...owner, claimedEpoch } } };
  }
  if (inRecovery) {
    const isOfBlue = blue.reached ? (await relation(databases, look)) === 'standby' : owner?.side === 'blue';
    if (isOfBlue) return { reached: false, side: 'green', why: STANDBY, standby: { closedByDefault, sessions } };
  } else if (blue.reached && owner?.side === 'blue' && sameRun) {
    const byStandby = inventory.byStandby || blue.inventory.byStandby;
    if (byStandby && (await relation(databases, look)) === 'promoted') {
      return { reached: true, inventory: { ...inventory, owner: { ...owner, side: 'green', claimedEpoch } } };
    }
  }
  return green;
}

const STANDBY = "it is a physical standby of blue: it takes no writes, and what it shows is blue's";

/** What green is to blue by the servers themselves; undefined when it is no copy of it, or can't be told. */
async function relation({ blue, green }: Databases, look: SessionOptions): Promise<'standby' | 'promoted' | undefined> {
  try {
    return await withSession(blue, look, (source) =>
      withSession(green, look, async (copy) => {
        const [one, other] = [await readIdentity(source), await readIdentity(copy)];
        if (one.inRecovery || one.system !== other.system || one.database !== other.database) return undefined;
        if (other.inRecovery) return 'standby';
        // Only a copy that has left blue's timeline has it among those before its own: names that are mixed up are seen.
        await readPromotionPosition(copy, one.timeline);
        return 'promoted';
      }),
    );
  } catch {
    return undefined;
  }
}
