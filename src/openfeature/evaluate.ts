import type { Route } from '../postgres/state.js';
import { inCohort, isNobody } from '../router/cohort.js';
import type { Side } from '../side.js';

/** Why a user is where he is, in OpenFeature's words. */
export type EvaluationReason = 'STATIC' | 'SPLIT' | 'DEFAULT' | 'STALE';

/** The answer of the flag: `variant` green is `true`. */
export interface Evaluation {
  readonly variant: Side;
  readonly reason: EvaluationReason;
}

/**
 * Where a user's reads go, as the router decides it. Blue on any doubt: for a process that would not hear of an abort,
 * and for a request without a user.
 */
export function evaluate(route: Route, user: string | undefined, isReliable: boolean): Evaluation {
  const { writesOn, greenReadPercent, flag } = route;
  if (!isReliable) return { variant: 'blue', reason: 'STALE' };
  if (writesOn === 'green') return { variant: 'green', reason: 'STATIC' };
  if (greenReadPercent === 0) return { variant: 'blue', reason: 'STATIC' };
  if (isNobody(user)) return { variant: 'blue', reason: 'DEFAULT' };
  return { variant: inCohort(flag, user, greenReadPercent) ? 'green' : 'blue', reason: 'SPLIT' };
}
