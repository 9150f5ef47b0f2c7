import { openSession, type Session } from '../src/postgres/session.js';
import type { StepContext } from '../src/postgres/migrate/step-context.js';
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
