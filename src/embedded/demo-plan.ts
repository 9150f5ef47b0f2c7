import { readFileSync } from 'node:fs';
import { planSchema, type PlanInput } from '../plan/schema.js';

/** The plan of the seed as it is published; the demo runs it with shorter waits. */
export const SEED_PLAN = new URL('../../examples/seed.json', import.meta.url);

export interface ShortPlanOptions {
  /** How long each stage lasts at least, such as `5s`. */
  readonly stage: string;
  readonly standby: string;
  /** Requests a second: what the gates can be asked to decide in seconds. */
  readonly rate: number;
}

/** Wide: blue, green, the load and everything else share the cores of one machine, which may be busy with more. */
const MAX_INCREASE = '250ms';
/** Below it, a stage of 1 % of the users would take long to have 59 reads. */
const RATE_OF_STRICT_GATES = 500;

/**
 * The seed's plan with stages of seconds, and with gates that the traffic of a few seconds can decide: "less than 0.1 %
 * errors" takes 2,995 requests on green, "less than 5 %" takes 59 (as the 95th percentile does), "less than 25 %" 11.
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
        { metric: 'errorRate', max: options.rate < RATE_OF_STRICT_GATES ? 0.25 : 0.05 },
        { metric: options.rate < RATE_OF_STRICT_GATES ? 'p50' : 'p95', maxIncrease: MAX_INCREASE },
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
