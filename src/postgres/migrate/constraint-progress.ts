import { formatTableName, type TableName } from '../../plan/table-name.js';
import type { Session } from '../session.js';
import type { ProgressKey } from './progress-row.js';

const STEP = 'addConstraint';

/** What a run writes down with a constraint that it makes: only such constraints are dropped by its rollback. */
export function constraintKey(runId: string, table: TableName, name: string): ProgressKey {
  return { runId, step: STEP, object: `${formatTableName(table)} ${name}` };
}

export interface ConstraintState {
  /** False when the constraint was there before the run. */
  readonly ours: boolean;
}

/** The constraints that a run has made, each as the object of its key. */
export async function constraintsMade(session: Session, runId: string): Promise<ReadonlySet<string>> {
  const { rows } = await session.query<{ object: string; state: ConstraintState }>(
    'SELECT object, state FROM verdigris.progress WHERE run_id = $1 AND step = $2',
    [runId, STEP],
  );
  return new Set(rows.flatMap(({ object, state }) => (state.ours ? [object] : [])));
}
