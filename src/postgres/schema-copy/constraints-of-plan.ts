import { constraintKey, constraintsMade } from '../migrate/constraint-progress.js';
import type { StepContext } from '../migrate/step-context.js';
import type { ConstraintStatement } from './schema-statements.js';

/**
 * Blue's constraints without those that steps of the plan have made on green by the same name: with bootstrap `copy` they
 * come before blue's. Whether they are the same, the comparison of the catalogs says.
 */
export async function withoutThoseOfPlan<C extends ConstraintStatement>(
  { session, runId }: StepContext,
  constraints: readonly C[],
): Promise<readonly C[]> {
  const made = await constraintsMade(session, runId);
  return constraints.filter(({ table, name }) => !made.has(constraintKey(runId, table, name).object));
}
