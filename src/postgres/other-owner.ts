import type { Side } from '../side.js';
import type { Session } from './session.js';
import type { Owner } from './state.js';
import { systemIdentifier } from './system-identifier.js';

/** Which database a run has claimed: a copy of it has all that the run has there. */
export interface ClaimedDatabase {
  /** `system_identifier` of its server; empty where the role may not ask for it. */
  readonly system: string;
  /** Its oid: another one after a dump, or CREATE DATABASE ... TEMPLATE. */
  readonly database: string;
}

export async function readClaimedDatabase(session: Session): Promise<ClaimedDatabase> {
  const { rows } = await session.query<{ database: string }>(
    'SELECT oid::text AS database FROM pg_database WHERE datname = current_database()',
  );
  return { system: (await systemIdentifier(session)) ?? '', database: rows[0]?.database ?? '' };
}

/**
 * Why nobody else may have a database that a run owns, and what to do.
 *
 * @param ifGone what to do where the workflow of that run is gone
 */
export async function describeOtherOwner(
  session: Session,
  side: Side,
  owner: Owner,
  ifGone: string,
): Promise<{ readonly message: string; readonly nextStep: string }> {
  const { migration, runId } = owner;
  if (await isCopy(session, owner)) {
    return {
      message: `${side} is a copy of a database that another run moves: migration "${migration}", run ${runId}. What that run has there came along`,
      nextStep:
        "leave that run alone: it goes on with its own database. On this copy, drop first the subscriptions verdigris_* (ALTER SUBSCRIPTION ... DISABLE, then SET (slot_name = NONE), then DROP SUBSCRIPTION), which would take that run's changes, then the publications verdigris_* and schema verdigris (CASCADE). Only where it is no copy, but that database itself after a pg_upgrade: that run has to end first",
    };
  }
  return {
    message: `${side} belongs to another run: migration "${migration}", run ${runId}`,
    nextStep: `let that run end or roll it back (workflow verdigris/${migration}); only one run may move a database. If that workflow is gone: ${ifGone}. If this is a copy of the database that it moves, such as from a snapshot, leave that run alone: docs/what-if.md, "a backup of blue"`,
  };
}

/**
 * Whether it is another database than the run has claimed. A physical copy is not told from it: a replica that took over is
 * one, too.
 */
async function isCopy(session: Session, { runId, side }: Owner): Promise<boolean> {
  const { rows } = await session.query<{ system: string | null; database: string | null }>(
    `SELECT detail ->> 'system' AS system, detail ->> 'database' AS database FROM verdigris.event
      WHERE run_id = $1 AND what = $2 ORDER BY id DESC LIMIT 1`,
    [runId, `claimed ${side}`],
  );
  const [claimed] = rows;
  const { system, database } = { system: claimed?.system ?? '', database: claimed?.database ?? '' };
  // An earlier version has not written it down.
  if (database === '') return false;
  const now = await readClaimedDatabase(session);
  return now.database !== database || (system !== '' && now.system !== '' && now.system !== system);
}
