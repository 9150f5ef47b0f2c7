import type { Finding } from '../../src/plan/finding.js';
import { lintPlan } from '../../src/plan/lint.js';
import type { PlanInput } from '../../src/plan/schema.js';
import { planSchema } from '../../src/plan/schema.js';

/** A plan with the given parts; the rest is the smallest that is right. */
export function planWith(parts: Partial<PlanInput> = {}): PlanInput {
  return { name: 'orders', blue: { connection: 'orders_blue' }, green: { connection: 'orders_green' }, ...parts };
}

/** The findings of a plan of one or more migrations. */
export async function lintMigrations(...migrations: NonNullable<PlanInput['migrations']>): Promise<Finding[]> {
  return lint({ migrations });
}

export async function lint(parts: Partial<PlanInput>): Promise<Finding[]> {
  return lintPlan(planSchema.parse(planWith(parts)));
}
