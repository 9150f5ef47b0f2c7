import { readFileSync } from 'node:fs';
import { planSchema, type PlanInput } from '../plan/schema.js';

/** The plan of the seed as it is published; the demo runs it with shorter waits. */
export const SEED_PLAN = new URL('../../examples/seed.json', import.meta.url);

export interface ShortPlanOptions {
  /** How long each stage lasts at least, such as `5s`. */
  readonly stage: string;
  readonly standby: string;
}

/**
 * The seed's plan with stages of seconds, and with gates that the traffic of a few seconds can decide: "less than 0.1 %
 * errors" takes 2,995 requests on green, "less than 5 %" takes 59.
 */
export function shortPlan(options: ShortPlanOptions): PlanInput {
  const seed = readSeedPlan();
  return {
    ...seed,
    replicate: { ...seed.replicate, holdFor: '2s' },
    traffic: {
      ...seed.traffic,
      stages: (seed.traffic?.stages ?? []).map(({ percent }) => ({ percent, for: options.stage })),
      gates: [
        { metric: 'errorRate', max: 0.05 },
        { metric: 'p95', maxIncrease: '50ms' },
        { metric: 'lag', max: '1s' },
      ],
      maxStageDuration: '5m',
    },
    standby: { for: options.standby },
  };
}

function readSeedPlan(): PlanInput {
  const seed = JSON.parse(readFileSync(SEED_PLAN, 'utf8')) as PlanInput;
  planSchema.parse(seed);
  // The reference to the schema is relative to the file's own folder.
  return { ...seed, $schema: undefined };
}
