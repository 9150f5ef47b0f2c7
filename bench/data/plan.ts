import { readFileSync } from 'node:fs';
import { planSchema, type PlanInput } from '../../src/plan/schema.js';

export const BLUE_CONNECTION = 'bench_blue';
export const GREEN_CONNECTION = 'bench_green';

/** The steps of the seed's plan, as it is published. */
export function seedSteps(): NonNullable<PlanInput['migrations']> {
  const seed = JSON.parse(readFileSync(new URL('../../examples/seed.json', import.meta.url), 'utf8')) as PlanInput;
  planSchema.parse(seed);
  return seed.migrations ?? [];
}

export interface BenchPlan {
  /** Unique in the benchmark: the workflow's id has it. */
  readonly name: string;
  readonly bootstrap: NonNullable<PlanInput['bootstrap']>;
  readonly migrations?: PlanInput['migrations'];
}

/**
 * A plan with the defaults of the product, except for what would measure a wait: replication need not stay caught up
 * for 5 s to be caught up. It stops before any traffic, for an approval that never comes.
 */
export function benchPlan({ name, bootstrap, migrations }: BenchPlan): PlanInput {
  return {
    name,
    blue: { connection: BLUE_CONNECTION },
    green: { connection: GREEN_CONNECTION },
    bootstrap,
    replicate: { holdFor: '100ms' },
    migrations: migrations ?? [],
    traffic: { approval: { before: ['traffic', 'promote'] } },
  };
}
