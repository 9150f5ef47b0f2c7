import type { Session } from '../session.js';

/*
 * What a run has done, one row an object, in verdigris.progress of the database that was changed. A row is written in
 * the transaction that did the work, so that it is never ahead of the truth and never behind it. Rows also say whose an
 * object is: a rollback drops only what the run wrote down as made by itself.
 */

export interface ProgressKey {
  readonly runId: string;
  readonly step: string;
  readonly object: string;
}

export interface ProgressRow<State> {
  readonly state: State;
  readonly done: boolean;
}

/** The row of a step; `State` is what the same step has written. */
export async function readProgress<State>(session: Session, key: ProgressKey): Promise<ProgressRow<State> | undefined> {
  const { rows } = await session.query<ProgressRow<State>>(
    'SELECT state, done FROM verdigris.progress WHERE run_id = $1 AND step = $2 AND object = $3',
    [key.runId, key.step, key.object],
  );
  return rows[0];
}

/**
 * The row of a step as it is now, which is this transaction's until its end: another attempt of the same step waits here,
 * and sees then what has been done.
 *
 * @param first what stands in it where nothing has been done yet
 */
export async function lockProgress<State extends object>(
  session: Session,
  key: ProgressKey,
  first: State,
): Promise<ProgressRow<State>> {
  const ofStep = [key.runId, key.step, key.object];
  await session.query(
    `INSERT INTO verdigris.progress (run_id, step, object, state, done) VALUES ($1, $2, $3, $4, false)
     ON CONFLICT (run_id, step, object) DO NOTHING`,
    [...ofStep, JSON.stringify(first)],
  );
  const { rows } = await session.query<ProgressRow<State>>(
    'SELECT state, done FROM verdigris.progress WHERE run_id = $1 AND step = $2 AND object = $3 FOR UPDATE',
    ofStep,
  );
  return rows[0] ?? { state: first, done: false };
}

export async function writeProgress(session: Session, key: ProgressKey, state: object, done: boolean): Promise<void> {
  await session.query(
    `INSERT INTO verdigris.progress (run_id, step, object, state, done) VALUES ($1, $2, $3, $4, $5)
     ON CONFLICT (run_id, step, object)
     DO UPDATE SET state = excluded.state, done = excluded.done, updated_at = clock_timestamp()`,
    [key.runId, key.step, key.object, JSON.stringify(state), done],
  );
}

/** A row to be written as done. */
export interface Noted {
  readonly key: ProgressKey;
  readonly state: object;
}

/**
 * Writes down on green how it is, all at once; nothing where green takes the writes by now. A worker that was frozen may
 * have looked long before.
 */
export async function noteUnlessGreenServes(green: Session, migration: string, noted: readonly Noted[]): Promise<void> {
  await green.query(
    `INSERT INTO verdigris.progress (run_id, step, object, state, done)
     SELECT noted.run_id, noted.step, noted.object, noted.state, true
       FROM unnest($2::text[], $3::text[], $4::text[], $5::jsonb[]) AS noted (run_id, step, object, state)
      WHERE NOT EXISTS (SELECT FROM verdigris.route WHERE migration = $1 AND writes_on = 'green')
     ON CONFLICT (run_id, step, object)
     DO UPDATE SET state = excluded.state, done = excluded.done, updated_at = clock_timestamp()`,
    [
      migration,
      noted.map(({ key }) => key.runId),
      noted.map(({ key }) => key.step),
      noted.map(({ key }) => key.object),
      noted.map(({ state }) => JSON.stringify(state)),
    ],
  );
}

export async function forgetProgress(session: Session, key: ProgressKey): Promise<void> {
  await session.query('DELETE FROM verdigris.progress WHERE run_id = $1 AND step = $2 AND object = $3', [
    key.runId,
    key.step,
    key.object,
  ]);
}
