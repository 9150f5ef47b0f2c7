import { formatTableName, type TableName } from '../../plan/table-name.js';
import type { ProgressKey } from './progress-row.js';

/** What a run writes down with a constraint that it makes: only such constraints are dropped by its rollback. */
export function constraintKey(runId: string, table: TableName, name: string): ProgressKey {
  return { runId, step: 'addConstraint', object: `${formatTableName(table)} ${name}` };
}

export interface ConstraintState {
  /** False when the constraint was there before the run. */
  readonly ours: boolean;
}
