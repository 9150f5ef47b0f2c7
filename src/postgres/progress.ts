import type { Run } from './ownership.js';
import type { Session } from './session.js';

/** What a run has written down about one step on one object. */
export interface Progress<T> {
  readonly state: T;
  readonly done: boolean;
}

/** Reads what was written down; undefined when nothing was. */
export async function readProgress<T>(
  session: Session,
  run: Run,
  step: string,
  object: string,
): Promise<Progress<T> | undefined> {
  const { rows } = await session.query<{ state: T; done: boolean }>(
    'SELECT state, done FROM verdigris.progress WHERE run_id = $1 AND step = $2 AND object = $3',
    [run.runId, step, object],
  );
  return rows[0];
}

/** Writes down how far a step is, in the transaction that is open on the session, if one is. */
export async function writeProgress(
  session: Session,
  run: Run,
  step: string,
  object: string,
  state: unknown,
  done = false,
): Promise<void> {
  await session.query(
    `INSERT INTO verdigris.progress (run_id, step, object, state, done) VALUES ($1, $2, $3, $4, $5)
     ON CONFLICT (run_id, step, object) DO UPDATE
        SET state = excluded.state, done = excluded.done, updated_at = clock_timestamp()`,
    [run.runId, step, object, JSON.stringify(state), done],
  );
}
