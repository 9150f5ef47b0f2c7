import { VerdigrisError } from '../src/errors.js';
import { readProgress, type ProgressKey } from '../src/postgres/migrate/progress-row.js';
import type { Run } from '../src/postgres/ownership.js';
import { SHORT_STATEMENTS, type Session } from '../src/postgres/session.js';
import { hasState, readOwner, readRoute } from '../src/postgres/state.js';
import { openingLost, refuseGivenBack } from '../src/postgres/where-writes-are.js';
import type { Side } from '../src/side.js';
import type { Environment } from '../src/worker/connections.js';
import type { RunRef } from '../workflows/lib/run-ref.js';
import type { Work } from './context.js';
import { refuseReadsOnBlueOf } from './haproxy.js';

/**
 * What is looked at before anything is taken down, while blue still answers rightly: nobody reads there, and green has the writes.
 *
 * @param since the epoch in which green has got them
 */
export async function lookBefore(
  work: Work,
  green: Session,
  ref: RunRef,
  environment: Environment,
  since: number,
): Promise<void> {
  await refuseReadsOnBlueOf(ref, environment, green);
  await refuseIdleGreen(work, green, since);
}

/**
 * Without its fence a green that does not have the writes by its own row would take them all the same.
 *
 * @param since the epoch in which green has got them
 */
export async function refuseIdleGreen({ databases, run }: Work, green: Session, since: number): Promise<void> {
  const route = await readRoute(green, run.migration);
  if (route === undefined) return;
  refuseGivenBack(databases, { side: route.writesOn, epoch: route.epoch }, since);
  const lost = openingLost(databases, 'green', route, since);
  // Somebody has to open it: the run says so, and is resumed then.
  if (lost !== undefined) throw lost.asLastWord();
}

/** What a retirement that ends before it has taken anything down tells the run. */
export interface RetirementRefused {
  readonly untouched: true;
}

/** Written on a side before anything is taken from it. */
export function begunKey({ runId }: Run): ProgressKey {
  return { runId, step: 'retire', object: 'begun' };
}

/** A look that fails with something to be mended says whether the way back is there still: also one of an earlier attempt. */
export async function saidUntouched({ session, run }: Work, error: unknown): Promise<unknown> {
  if (!(error instanceof VerdigrisError) || error.retryable || error.type === 'WritesOnBlue') return error;
  const hasBegun = async (side: Side): Promise<boolean> => {
    const on = await session(side, 'retire', SHORT_STATEMENTS);
    if (!(await hasState(on))) return false;
    // A worker of an earlier version wrote down the end alone.
    return (await isOver(on)) || (await readProgress(on, begunKey(run))) !== undefined;
  };
  try {
    if ((await hasBegun('green')) || (await hasBegun('blue'))) return error;
  } catch {
    return error;
  }
  const details: RetirementRefused = { untouched: true };
  return error.withDetails({ ...(typeof error.details === 'object' ? error.details : {}), ...details });
}

/** Done by an earlier attempt. */
export async function isOver(session: Session): Promise<boolean> {
  const owner = await readOwner(session);
  return owner !== undefined && owner.outcome !== null;
}
