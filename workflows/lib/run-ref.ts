import type { Plan } from '../../src/plan/schema.js';

/** What every activity of a run is given: the plan with its defaults, and which run this is. */
export interface RunRef {
  readonly plan: Plan;
  /** Unique for each run of the workflow; the owner in both databases. */
  readonly runId: string;
}
