import type { Run } from './ownership.js';
import type { Session } from './session.js';
import { hasState } from './state.js';

/** What a database knows of a run, whatever that run remembers of itself. */
export interface RunTraces {
  /** Whether the database is the run's, or was last, however it has ended. */
  readonly isOwner: boolean;
  /** Whether the run has had the writes on green, and they are on blue again. */
  readonly isBack: boolean;
}

export async function readRunTraces(session: Session, { runId, migration }: Run): Promise<RunTraces> {
  const none = { isOwner: false, isBack: false };
  if (!(await hasState(session))) return none;
  const { rows } = await session.query<RunTraces>(
    // The event is written when green is open; the epoch has been raised before.
    `SELECT true AS "isOwner",
            coalesce(r.writes_on = 'blue', false) AND EXISTS (
              SELECT FROM verdigris.event e
               WHERE e.run_id = o.run_id
                 AND (e.what = 'writes moved from blue to green'
                      OR e.what LIKE 'claimed%' AND (e.detail ->> 'epoch')::float8 < r.epoch)) AS "isBack"
       FROM verdigris.owner o LEFT JOIN verdigris.route r ON r.migration = $2
      WHERE o.run_id = $1`,
    [runId, migration],
  );
  return rows[0] ?? none;
}
