import { ApplicationFailure, condition } from '@temporalio/workflow';
import { act, actFast, actFastWithin } from './lib/activities.js';
import { beside } from './lib/beside.js';
import { failureMessage, failureType } from './lib/failure.js';
import type { MigrationRun } from './lib/migration-run.js';
import type { RunRef } from './lib/run-ref.js';
import { answerWith } from './lib/story.js';
import type { Message } from './messages.js';
import { finishMove } from './finish-move.js';
import { moveWrites } from './move-writes.js';
import { watchFeed } from './standby.js';

/**
 * The compensation of the promotion: the same promotion with the sides exchanged. It is tried until it goes through.
 * Where blue does not have everything that green has, it waits, with green serving, until somebody accepts the loss.
 */
export async function writesBackToBlue(run: MigrationRun, ref: RunRef): Promise<void> {
  if (!run.promotionStarted) return;
  const heard = { confirmations: run.confirmations, retireRequest: run.retireRequest };
  try {
    const { writesOn, epoch } = await untilDone(run, ref, heard, 'asking the databases where writes are', () =>
      actFastWithin('compensate: where are writes?', '1 minute').whereWritesAre(ref, run.epoch),
    );
    run.writesOn(writesOn);
    run.epoch = epoch;
    if (writesOn === 'blue') {
      await act('compensate: end the tries of the promotion').withdrawPromotion(ref);
      return;
    }
    run.wasPromoted = true;
    // What was decided is finished first: green may not be open yet, and without the reverse feed there is no way back.
    await untilDone(run, ref, heard, 'finishing what was decided: green must be open, and blue must follow it', () =>
      actFast('compensate: finish what was decided').promote(ref, 'blue', epoch),
    );
    // Where that can't be had, the way back says what it loses.
    await finishMove(run, ref, 'blue', 'compensate: the feed to blue');
    run.waitFor(null);
    await untilMoved(run, ref, heard);
  } finally {
    run.wayBackBlocked = false;
    run.waitFor(null);
  }
}

/** The answers that have been followed. */
interface Heard {
  confirmations: number;
  readonly retireRequest: Message | null;
}

/**
 * Does it again until it is done. What it fails by, somebody can mend (a login that is refused now, a server that is
 * away), and ending here would leave writes where they are for good: so it waits, says why, and hears `retire`.
 */
async function untilDone<T>(
  run: MigrationRun,
  ref: RunRef,
  heard: Heard,
  what: string,
  work: () => Promise<T>,
): Promise<T> {
  run.waitFor({ for: 'retry', why: what });
  for (let attempt = 0; ; attempt++) {
    try {
      return await work();
    } catch (error) {
      blockedBy(run, `${what}: ${failureMessage(error)}`, 'retry', answerWith(run, 'retire'));
      if ((await answerBeforeNextTry(run, ref, heard, attempt, 'retry')) === 'stays on green') throw givenUp(run);
    }
  }
}

async function untilMoved(run: MigrationRun, ref: RunRef, heard: Heard): Promise<void> {
  let withLoss = false;
  for (let attempt = 0; ; attempt++) {
    // What blue does not have is lost in any case; the feed brings the rest.
    const strands = run.lossAccepted ? null : run.wouldStrand;
    try {
      if (strands !== null) throw ApplicationFailure.nonRetryable(`a rollback would lose ${strands}`, 'RollbackUnsafe');
      return await moveWrites(run, ref, 'green', { acceptLoss: withLoss });
    } catch (error) {
      const waits = failureType(error) === 'RollbackUnsafe' ? 'confirmation' : 'retry';
      if (waits === 'confirmation' && run.lossAccepted && !withLoss) {
        withLoss = true;
        continue;
      }
      blockedBy(run, failureMessage(error), waits, answerWith(run, 'rollback', { acceptLoss: true }));
      const answer = await answerBeforeNextTry(run, ref, heard, attempt, waits);
      if (answer === 'accepted' && strands === null) withLoss = true;
      if (answer === 'stays on green') throw givenUp(run);
    }
  }
}

/** Says why the way back waits; `since` stays while the reason does. */
function blockedBy(run: MigrationRun, why: string, waits: 'confirmation' | 'retry', answer: string): void {
  // From now on answers are heard, also in the middle of a try: one may take minutes.
  run.wayBackBlocked = true;
  const { waiting } = run.status;
  if (waiting?.for === waits && waiting.why === why) return;
  run.waitFor({ for: waits, why, answer });
  if (waits === 'confirmation') run.warn([why]);
}

/** From a wait of so long on green's WAL is guarded meanwhile: a blue that is away would fill the disk of what serves. */
const GUARDED_FROM_S = 40;

/** So often it is tried every five minutes at least; then once an hour, so that months fit into the history. */
const OFTEN = 50;

/**
 * Waits before the next try: ever longer, since a blocker that stays for hours must not fill the history. A feed that is
 * mended is found by the next try.
 */
async function answerBeforeNextTry(
  run: MigrationRun,
  ref: RunRef,
  heard: Heard,
  attempt: number,
  waits: 'confirmation' | 'retry',
): Promise<'accepted' | 'stays on green' | null> {
  const longest = waits === 'confirmation' || attempt >= OFTEN ? 3_600 : 300;
  const seconds = Math.min(longest, 5 * 2 ** Math.min(attempt, 10));
  const answered = (): boolean => run.confirmations > heard.confirmations || run.retireRequest !== heard.retireRequest;
  const summary =
    waits === 'confirmation' ? 'accept the loss, or stay on green; else look again' : 'writes back to blue: try again';
  const wait = async (): Promise<void> => {
    await condition(answered, seconds * 1_000, { summary });
  };
  await (run.wasPromoted && seconds >= GUARDED_FROM_S ? beside(() => watchFeed(run, ref), wait) : wait());
  if (run.retireRequest !== heard.retireRequest) return 'stays on green';
  if (run.confirmations === heard.confirmations) return null;
  heard.confirmations = run.confirmations;
  return 'accepted';
}

function givenUp(run: MigrationRun): ApplicationFailure {
  return ApplicationFailure.nonRetryable(
    `writes stay ${run.wasPromoted ? 'on green' : 'where they are'}, as ${run.retireRequest?.by ?? '?'} has said: ${run.retireRequest?.reason ?? ''}`,
    'RollbackUnsafe',
  );
}
