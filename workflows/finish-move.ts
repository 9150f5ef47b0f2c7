import type { Duration } from '@temporalio/common';
import { CancellationScope, condition, patched, sleep } from '@temporalio/workflow';
import type { FlagsOwed } from '../activities/flags.js';
import { firstLine } from '../src/failure-text.js';
import { otherSide, type Side } from '../src/side.js';
import { act, actFastWithin } from './lib/activities.js';
import { applicationFailure, failureMessage, failureType, isCancelled } from './lib/failure.js';
import type { MigrationRun } from './lib/migration-run.js';
import type { RunRef } from './lib/run-ref.js';
import type { Story } from './lib/story.js';

/** How long it is tried: after the first time people are told, after the second one the run goes on without it. */
const TRIES: readonly Duration[] = ['1 minute', '4 minutes'];

/** The longest wait before it is tried again when it was refused, ms. */
const LONGEST_PAUSE_MS = 3_600_000;

export interface FinishOptions {
  /** Whether it need not be waited for any more. */
  readonly isOver?: () => boolean;
  /** How long each try may take. Default: TRIES */
  readonly tries?: readonly Duration[];
  /** Writes are about to leave the new side again: its fence is kept. Default: false */
  readonly goesBack?: boolean;
}

/**
 * What follows the decision: the old feed off, then the one back on; poolers and flags follow. A server or a pooler that
 * is lost must not keep the run here: it goes on, with `finishOwed` saying why.
 *
 * @returns whether it is finished
 */
export async function finishMove(
  run: MigrationRun,
  ref: RunRef,
  from: Side,
  summary: string,
  { isOver = () => false, tries = TRIES, goesBack = false }: FinishOptions = {},
): Promise<boolean> {
  for (const within of tries) {
    try {
      const finish = (): Promise<FlagsOwed | null> =>
        actFastWithin(summary, within).finishPromotion(ref, from, goesBack);
      run.onFlagsOwed(ref, await until(isOver, finish));
      finished(run);
      return true;
    } catch (error) {
      if (isOver()) {
        run.finishOwed = 'it was not waited for';
        return false;
      }
      if (isCancelled(error)) throw error;
      owed(run, from, error);
      if (applicationFailure(error)?.nonRetryable === true || failureType(error) === 'NotOpened') return false;
    }
  }
  return false;
}

/** In the standby window: tries on until it is finished, so that blue follows green as soon as that can be. */
export async function finishLater({ run }: Story, ref: RunRef): Promise<void> {
  for (let pauseMs = 60_000; ; pauseMs = Math.min(pauseMs * 2, LONGEST_PAUSE_MS)) {
    try {
      run.onFlagsOwed(ref, await act('what is still owed after the promotion').finishPromotion(ref, 'blue'));
      return finished(run);
    } catch (error) {
      if (isCancelled(error)) throw error;
      owed(run, 'blue', error);
      await sleep(pauseMs, { summary: 'finish the promotion: try again' });
    }
  }
}

/**
 * At the end of a rollback: the other compensations have done most of what may have been in its way. Before both databases
 * are released, since poolers are led by the route.
 */
export async function finishWayBack(run: MigrationRun, ref: RunRef): Promise<void> {
  if (run.finishOwed === null || run.status.writesOn !== 'blue') return;
  if (!patched('what is owed after the way back is tried once more')) return;
  const summary = 'compensate: what is still owed after the way back';
  await finishMove(run, ref, 'green', summary, { tries: ['1 minute'] });
}

function finished(run: MigrationRun): void {
  // What it has waited for.
  run.progress([]);
  run.finishOwed = null;
  run.allClear('finish');
}

function owed(run: MigrationRun, from: Side, error: unknown): void {
  const to = otherSide(from);
  const reason = firstLine(failureMessage(error));
  run.progress([]);
  run.finishOwed = reason;
  if (failureType(error) === 'NotOpened') {
    if (to === 'green') run.wayBack.sawFeed({ safe: false, why: reason });
    run.alarm('finish', 'notOpened', reason, opensIt(run));
    return;
  }
  const why = `writes are on ${to}, but the end of the feed to ${to}${to === 'green' ? ' and the begin of the one to blue' : ''} is still owed: ${reason}`;
  if (to === 'green') run.wayBack.sawFeed({ safe: false, why });
  const next = 'bring back what it names: it is tried again';
  run.alarm('finish', to, why, to === 'green' ? `${next}; \`retire\` stays on green without a way back` : next);
}

/** What somebody can do about a side that was replaced by one which lacks its opening. */
export function opensIt(run: MigrationRun): string {
  return `compare its rows with those of the other side where that can be waited for; this opens it as it is, and the run goes on: ${run.doctor('--open --yes')}`;
}

/** Does the work; cancels it, and waits until it has stopped, when it is over. */
async function until<T>(isOver: () => boolean, work: () => Promise<T>): Promise<T> {
  const scope = new CancellationScope();
  let hasEnded = false;
  const end = (): void => {
    hasEnded = true;
  };
  const working = scope.run(work);
  working.then(end, end);
  await condition(() => hasEnded || isOver());
  if (!hasEnded) scope.cancel();
  return working;
}
