import { VerdigrisError } from '../src/errors.js';
import { openSession, type Session } from '../src/postgres/session.js';
import type { StepContext } from '../src/postgres/migrate/step-context.js';
import { joinStep, takeStepOver } from '../src/postgres/migrate/step-lock.js';
import type { Run } from '../src/postgres/ownership.js';
import { readOwner } from '../src/postgres/state.js';
import type { Side } from '../src/side.js';
import type { Work } from './context.js';

/** What a step in src/postgres works with: the activity's session, cancellation and heartbeat. */
export function stepContext(work: Work, session: Session, side: Side): StepContext {
  return {
    runId: work.run.runId,
    session,
    connect: (purpose) => openSession(work.databases[side], { purpose }),
    signal: work.signal,
    onProgress: work.report,
  };
}

/**
 * The same for whoever changes green's schema: on a session of its own, which no other attempt of such a step has survived.
 * What is read from then on is what those have done.
 *
 * @throws VerdigrisError DatabaseOwned when green is not this run's: nobody is ended then
 */
export async function schemaStep(work: Work, purpose: string): Promise<StepContext> {
  const session = await work.session('green', purpose);
  await refuseNotOwned(session, work.run);
  await takeStepOver(session, work.signal);
  await refuseNotOwned(session, work.run);
  return { ...stepContext(work, session, 'green'), join: (beside) => joinStep(beside, session) };
}

/** A worker that was frozen may wake up when the run is over, or when the next one of that name is at work. */
async function refuseNotOwned(green: Session, { runId }: Run): Promise<void> {
  const owner = await readOwner(green);
  if (owner?.runId === runId && owner.outcome === null) return;
  const whose = owner === undefined || owner.outcome !== null ? 'nobody' : `migration "${owner.migration}"`;
  throw new VerdigrisError({
    type: 'DatabaseOwned',
    message: `green belongs to ${whose} by now, so this run leaves its schema as it is`,
    nextStep: 'end the run; `verdigris doctor plan.json` shows what is left',
  });
}
