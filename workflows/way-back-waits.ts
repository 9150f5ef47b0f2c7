import { ApplicationFailure, condition, patched, sleep } from '@temporalio/workflow';
import { firstLine } from '../src/failure-text.js';
import type { WritesOfGreen } from '../src/postgres/writes-of-green.js';
import { actFastUpTo, actFastWithin } from './lib/activities.js';
import { beside } from './lib/beside.js';
import { failureMessage } from './lib/failure.js';
import { outageTries } from './lib/history-room.js';
import type { Loss } from './lib/loss.js';
import type { MigrationRun } from './lib/migration-run.js';
import type { RunRef } from './lib/run-ref.js';
import { answerWith } from './lib/story.js';
import { whyWayBackWaits } from './lib/way-back-text.js';
import type { Message } from './messages.js';
import { opensIt } from './finish-move.js';
import { NEXT_ROUND_MS, notYetOpen } from './move-writes.js';
import { openedUnheard } from './opened-unheard.js';
import { feedAlarm, sawMissed, watchFeed } from './standby.js';
import type { StrandsAnew } from './strands-anew.js';

/* What the way back waits for, what people are told of it, and which of their answers end it. */

/** The answers that have been followed. */
export interface Heard {
  confirmations: number;
  retireRequest: Message | null;
}

/**
 * Does it again until it is done. What it fails by, somebody can mend (a login that is refused now, a server that is
 * away), and ending here would leave writes where they are for good: so it waits, says why, and hears `retire`.
 */
export async function untilDone<T>(
  run: MigrationRun,
  ref: RunRef,
  heard: Heard,
  what: string,
  work: () => Promise<T>,
  onFailure: () => void = () => undefined,
): Promise<T> {
  run.waitFor({ for: 'retry', why: what });
  for (let attempt = 0; ; attempt++) {
    try {
      return await work();
    } catch (error) {
      onFailure();
      const blocked = { waits: 'retry', answer: answerWith(run, 'retire'), loss: {} } as const;
      blockedBy(run, whyItWaits(run, `${what}: ${failureMessage(error)}`), blocked);
      if ((await answerBeforeNextTry(run, ref, heard, attempt, 'retry')) === 'stays on green') {
        await giveUp(run, ref, heard);
      }
    }
  }
}

export function whyItWaits(run: MigrationRun, message: string, more = ''): string {
  return whyWayBackWaits(message, more, whereTheyStay(run));
}

/** A green that does not answer keeps a try from being made again for no longer than this. */
export const GREEN_ANSWERS_WITHIN = '20 seconds';

/** Nobody takes writes: the only way is to open blue, and the status says so. */
export function openIsOwed(run: MigrationRun, reason: string, byHand = false): void {
  run.wayBackDecided = true;
  const taken = `green has given the writes to blue, and nobody takes them: ${firstLine(reason)}`;
  const state = byHand ? taken : run.onlyForward();
  run.saw({ writesOn: 'blue', rollback: { safe: false, why: state } });
  const answer = run.doctor('--open --yes');
  blockedBy(run, `${state}. ${byHand ? opensIt(run) : reason}`, { waits: 'retry', answer, loss: {} });
}

interface Blocked {
  readonly waits: 'confirmation' | 'retry';
  /** The command that ends it. */
  readonly answer: string;
  /** What that would accept. */
  readonly loss: Loss;
}

/** Says why the way back waits; `since` stays while the reason does. */
export function blockedBy(run: MigrationRun, why: string, { waits, answer, loss }: Blocked): void {
  // From now on answers are heard, also in the middle of a try: one may take minutes.
  run.wayBackBlocked = true;
  run.asksToLose(loss);
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
 * mended is found by the next try, rows that were mended by the comparison that goes on meanwhile.
 */
export async function answerBeforeNextTry(
  run: MigrationRun,
  ref: RunRef,
  heard: Heard,
  attempt: number,
  waits: 'confirmation' | 'retry',
  anew?: StrandsAnew,
): Promise<'accepted' | 'stays on green' | null> {
  const longest = waits === 'confirmation' || attempt >= OFTEN ? 3_600 : 300;
  const seconds = run.wayBackDecided ? NEXT_ROUND_MS / 1_000 : Math.min(longest, 5 * 2 ** Math.min(attempt, 10));
  const answered = (): boolean => run.confirmations > heard.confirmations || run.retireRequest !== heard.retireRequest;
  const summary =
    waits === 'confirmation' ? 'accept the loss, or stay on green; else look again' : 'writes back to blue: try again';
  const compares = anew?.goesOn === true;
  const isOver = (): boolean => answered() || (compares && !anew.isOpen);
  const wait = async (): Promise<void> => {
    await condition(isOver, seconds * 1_000, { summary });
  };
  // A green that is closed fills no disk.
  const isServing = run.wasPromoted && !run.wayBackDecided && !takesThemAlready(run);
  const isGuarded = isServing && seconds >= GUARDED_FROM_S;
  const watch = (): Promise<never> => watchFeed(run, ref, feedAlarm(run), (missed) => sawMissed(run, missed));
  const guarded = isGuarded ? () => beside(watch, wait) : wait;
  await (compares ? beside(() => anew.compareOn(), guarded) : guarded());
  if (run.retireRequest !== heard.retireRequest) return 'stays on green';
  if (run.confirmations === heard.confirmations) return null;
  heard.confirmations = run.confirmations;
  return 'accepted';
}

/**
 * Ends the way back, as somebody has asked by `retire`, once green has said that it has the writes. Returns where it has
 * not: both sides are closed then, and what opens one of them goes on.
 */
export async function giveUp(run: MigrationRun, ref: RunRef, heard: Heard): Promise<void> {
  // Where green never had them, or blue is known to take them, nothing of the way back has been tried.
  if (!run.wasPromoted || takesThemAlready(run)) throw givenUp(run);
  if (!patched('green is asked before a way back is given up')) throw givenUp(run);
  const writes = run.wayBackDecided ? 'gave them away' : await writesOfGreen(run, ref);
  if (writes === 'has them') throw givenUp(run);
  heard.retireRequest = run.retireRequest;
  run.warn([`\`retire\` was not followed: ${whyNotGivenUp(run, writes)}`]);
  if (writes === 'gave them away') openIsOwed(run, '`retire` was not followed');
}

function whyNotGivenUp(run: MigrationRun, writes: Exclude<WritesOfGreen | 'blue has them', 'has them'>): string {
  if (writes === 'blue has them') return 'green has given the writes back, and blue takes them';
  return writes === 'not opened' ? notYetOpen(run) : run.onlyForward();
}

/** For as long as it takes: nobody but a blue that has got them knows, and a run that has ended opens nothing. */
async function writesOfGreen(run: MigrationRun, ref: RunRef): Promise<WritesOfGreen | 'blue has them'> {
  const ask = 'compensate: does green have the writes?';
  for (let attempt = 0; ; attempt++) {
    try {
      // What can pass by itself is told after the first time.
      const asked = attempt === 0 ? actFastWithin(ask, GREEN_ANSWERS_WITHIN) : actFastUpTo(ask, outageTries());
      return await asked.writesOfGreen(ref, run.epoch);
    } catch (error) {
      if ((await openedUnheard(run, ref)) !== undefined) return 'blue has them';
      const why = `\`retire\` waits until green says whether it has the writes: ended without that, the run may leave both sides closed. ${failureMessage(error)}`;
      run.waitFor({ for: 'retry', why, answer: run.doctor('--who-is-primary') });
      if (attempt > 0) await sleep(`${Math.min(300, 5 * 2 ** attempt)} s`, { summary: 'ask green again' });
    }
  }
}

/** Whether blue has had the writes again before this way back: only the tries of a promotion are to be ended then. */
function takesThemAlready(run: MigrationRun): boolean {
  return run.status.writesOn === 'blue' && !run.wayBackDecided;
}

function whereTheyStay(run: MigrationRun): string {
  return run.wasPromoted && !takesThemAlready(run) ? 'on green' : 'where they are';
}

function givenUp(run: MigrationRun): ApplicationFailure {
  run.gaveWayBackUp = true;
  return ApplicationFailure.nonRetryable(
    `writes stay ${whereTheyStay(run)}, as ${run.retireRequest?.by ?? '?'} has said: ${run.retireRequest?.reason ?? ''}`,
    'RollbackUnsafe',
  );
}
