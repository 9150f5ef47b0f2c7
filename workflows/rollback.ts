import { ApplicationFailure, CancelledFailure, isCancellation, patched } from '@temporalio/workflow';
import { firstLine } from '../src/failure-text.js';
import { applicationFailure, failureMessage, oneLine, shownFailure } from './lib/failure.js';
import type { MigrationRun } from './lib/migration-run.js';
import type { OwedConfirmations } from './lib/owed-confirmations.js';
import type { OwedFlags } from './lib/owed-flags.js';
import type { Saga, SagaResult } from './lib/saga.js';
import { notConfirmed, type RollbackSummary } from './lib/status.js';
import { READS_BACK } from './shift-traffic.js';

/**
 * The way back from every phase: the compensations of the steps that have begun, in reverse order. Runs where nothing
 * can cancel it, after the running activity has really stopped.
 *
 * Returns when the rollback was asked for by message. Otherwise throws: the cancellation, or what forced the rollback.
 */
export async function rollBack(
  run: MigrationRun,
  saga: Saga,
  owed: { readonly flags: OwedFlags; readonly confirmations: OwedConfirmations },
  error: unknown,
  cancelled: boolean,
): Promise<void> {
  const asked = run.rollbackRequest;
  if (saga.isEmpty && asked === null && !cancelled) {
    // Nothing was begun: the first error is all there is to say.
    const why = failureMessage(error);
    run.end('failed', oneLine(why), shownFailure(why));
    throw applicationFailure(error) ?? ApplicationFailure.nonRetryable(failureMessage(error), 'UnexpectedError');
  }
  const reason =
    asked !== null ? `${asked.by}: ${asked.reason}` : cancelled ? 'the workflow was cancelled' : failureMessage(error);
  const started = Date.now();
  const begun: RollbackSummary = {
    reason,
    startedAt: new Date(started).toISOString(),
    finishedAt: null,
    trafficBackMs: null,
    undone: [],
    notUndone: [],
  };
  run.waitFor(null);
  run.rollingBack(begun);
  run.doing(`rolling back: ${firstLine(reason)}`);

  let trafficBackMs: number | null = null;
  const summary = (result: SagaResult): RollbackSummary => ({
    ...begun,
    trafficBackMs,
    undone: [...result.undone],
    notUndone: [...result.notUndone],
    ...(run.lost === null ? {} : { lost: run.lost }),
  });
  // Writes that move back take the reads along; whether its instances follow is asked by the next compensation.
  const isBack = ({ notUndone }: SagaResult): boolean =>
    !saga.has(READS_BACK) &&
    !notUndone.some((one) => one.startsWith(`${READS_BACK}: `)) &&
    run.status.writesOn === 'blue' &&
    notConfirmed(run.status) === null;
  const result = await saga.compensate(failureMessage, (soFar) => {
    // What an undoing had to wait for.
    run.progress([]);
    const areReadsBack = isBack(soFar) && run.status.greenReadPercent === 0;
    if (trafficBackMs === null && areReadsBack) trafficBackMs = Date.now() - started;
    run.rollingBack(summary(soFar));
  });
  await owed.confirmations.settled();
  trafficBackMs ??= isBack(result) ? Date.now() - started : null;
  const unwritten = await owed.flags.settled();
  if (unwritten !== null) result.notUndone.push(`flagd's file: ${unwritten}`);
  if (run.poolersLeft !== null) result.notUndone.push(`end the tries of the promotion: ${run.poolersLeft}`);
  if (run.finishOwed !== null) result.notUndone.push(`what follows the move of the writes: ${run.finishOwed}`);
  const isGivenUp = run.gaveWayBackUp;
  const done = {
    ...summary(result),
    finishedAt: new Date(Date.now()).toISOString(),
    ...(isGivenUp && patched('a rollback that was given up is no rollback') ? { givenUp: true as const } : {}),
  };
  run.rollingBack(done);

  const clean = result.notUndone.length === 0;
  const kept = run.lost === null ? '' : ` but ${run.lost}, which green keeps, fenced`;
  const not = notConfirmed(run.status);
  const again = run.hasAgain === null ? '' : `, also ${run.hasAgain}`;
  const blueServes = `blue serves everything${kept}${again}${not === null ? '' : `; ${not}`}`;
  if (clean && asked !== null) return run.end('rolledBack', `rolled back: ${blueServes}`);
  if (clean && cancelled) {
    run.end('cancelled', `cancelled: rolled back, ${blueServes}`);
    // Whatever a cancelled activity has met on its way out: the run closes as cancelled.
    throw isCancellation(error) ? error : new CancelledFailure('the workflow was cancelled');
  }
  if (clean) {
    run.end('failed', `rolled back: ${firstLine(reason)}`);
    throw rolledBack(`rolled back: ${reason}`, done);
  }
  // Nobody watches what is left.
  if (isGivenUp) run.saw({ rollback: { safe: false, why: 'the run is over: nothing of it moves writes any more' } });
  const { now, next } = isGivenUp ? givenUp(run) : HALF_DONE;
  const message = `${isGivenUp ? `${now}; it was begun` : 'rolled back'} because of: ${reason}\nNot undone: ${result.notUndone.join('; ')}\nNext step: ${next}: ${run.doctor('--clean')}`;
  run.end('failed', now, shownFailure(message));
  throw rolledBack(message, done);
}

function rolledBack(message: string, done: RollbackSummary): ApplicationFailure {
  return ApplicationFailure.create({ type: 'MigrationRolledBack', nonRetryable: true, message, details: [done] });
}

const HALF_DONE = {
  now: 'rolled back, but not everything could be undone',
  next: 'mend what these say, then let this remove what is left',
};

/** Writes were not moved, and nothing that the serving side needs was taken down. */
function givenUp(run: MigrationRun): typeof HALF_DONE {
  if (!run.wasPromoted) {
    const next = `see where writes are (${run.doctor('--who-is-primary')}), then let this remove what is left`;
    return { now: 'the rollback was given up: writes are where they were', next };
  }
  const now = `the rollback was given up: writes are on ${run.status.writesOn}, blue is fenced`;
  return {
    now,
    next: 'nothing watches the feed to blue any more, nor the WAL that green keeps for it: remove what is left',
  };
}
