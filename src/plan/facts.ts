import type { ExpressionFact, IndexElementFact } from './expressions.js';
import { readExpressions, readIndexElements } from './expressions.js';
import type { RawSql } from './raw-sql.js';
import { createdByPlan, readRawSql } from './raw-sql.js';
import type { Plan } from './schema.js';
import type { SquawkReport } from './squawk.js';
import { squawk } from './squawk.js';
import type { TableStep } from './steps.js';
import { tableSteps } from './steps.js';
import type { TypeFact } from './types.js';
import { readTypes } from './types.js';

/** A plan with all its SQL parsed: what the rules look at. Everything slow or asynchronous happens here, once. */
export interface PlanFacts {
  readonly plan: Plan;
  /** The steps on tables. */
  readonly steps: readonly TableStep[];
  readonly expressions: readonly ExpressionFact[];
  readonly indexElements: readonly IndexElementFact[];
  readonly types: readonly TypeFact[];
  /** `up` and `down` of every `sql` step. */
  readonly raw: readonly RawSql[];
  /** Tables, views and types that the plan's own SQL creates, as `schema.name`: nobody uses them yet. */
  readonly created: ReadonlySet<string>;
  /** What squawk says of the `up` of the `sql` steps; or why it could not be asked. */
  readonly squawk: SquawkReport;
}

/** Parses everything in a plan that is SQL. Squawk, a process of its own, is asked only when its rules are. */
export async function readFacts(plan: Plan, askSquawk: boolean): Promise<PlanFacts> {
  const raw = await readRawSql(plan);
  return {
    plan,
    raw,
    steps: tableSteps(plan),
    expressions: await readExpressions(plan),
    indexElements: await readIndexElements(plan),
    types: await readTypes(plan),
    created: createdByPlan(raw),
    squawk: await squawk(askSquawk ? raw.filter((sql) => sql.direction === 'up' && sql.error === undefined) : []),
  };
}
