import type { NoticeEvent } from '../../src/plan/notice-events.js';
import { hasFailed, type Evidence } from './evidence.js';
import { heldFor, notConfirmed, type Alarm, type MigrationStatus, type Waiting } from './status.js';

/** One thing that happened, as webhooks are told of it. */
export interface Notice {
  /** Counts up from 1 within a run: a receiver knows the order, and what it has had. */
  readonly sequence: number;
  readonly event: NoticeEvent;
  /** ISO 8601. */
  readonly at: string;
  /** One line for people; of a run that was refused every finding, and the next step. */
  readonly text: string;
  readonly phase: string;
  readonly writesOn: string;
  readonly greenReadPercent: number;
  readonly lagSeconds: number | null;
  /** ISO 8601, when the lag was measured. */
  readonly lagAt: string | null;
  readonly rollbackSafe: boolean;
  /** With `approval` and `held`: what is waited for, and the command that answers. */
  readonly waiting?: Waiting;
}

/** What is compared to know what has happened. */
export interface Seen {
  readonly status: MigrationStatus;
  readonly evidence: readonly Evidence[];
}

/** What has happened between two looks at a run, in the order in which it is told. */
export function happened(before: Seen | null, { status, evidence }: Seen): [NoticeEvent, string][] {
  const earlier = before?.status;
  const told: [NoticeEvent, string][] = [];
  const { waiting, promotion, rollingBack } = status;
  if (status.phases.length > (earlier?.phases.length ?? 0)) {
    // What code must do before the window ends is news to those who read nothing but webhooks.
    const until = status.phase === 'standby' && waiting?.for === 'standby' ? `: ${waiting.why}` : '';
    told.push(['phase', `phase ${status.phase} has begun${until}`]);
  }
  if (
    earlier !== undefined &&
    status.greenReadPercent !== earlier.greenReadPercent &&
    promotion === earlier.promotion
  ) {
    const not = notConfirmed(status);
    const back = not === null ? '' : `, ${not}`;
    told.push(['stage', `reads of ${status.greenReadPercent} % of the users are on green${back}`]);
  }
  for (const failed of newFailures(before?.evidence ?? [], evidence)) {
    told.push(['gateFailed', `gate ${failed.metric} failed (${failed.where}): ${failed.because}`]);
  }
  if (promotion !== null && promotion !== earlier?.promotion) {
    const { from, to } = promotion;
    told.push(['promoted', `writes have moved from ${from} to ${to}, ${heldFor(promotion)}`]);
  }
  if (waiting?.for === 'approval' && isNewQuestion(earlier?.waiting ?? null, waiting)) {
    const again = waiting.reminders === undefined ? '' : `nobody has answered since ${waiting.since}: `;
    told.push(['approval', `${again}${waiting.why} (question ${waiting.request ?? waiting.gate ?? ''})`]);
  }
  told.push(...newAlarms(earlier?.alarms ?? [], status));
  const held = holdOf(status);
  if (held !== null && held !== holdOf(earlier)) told.push(['held', `held: ${held}`]);
  if (rollingBack !== null && (earlier?.rollingBack ?? null) === null) {
    told.push(['rollingBack', `rolling back: ${rollingBack.reason}`]);
  }
  if (status.outcome !== 'running' && status.outcome !== earlier?.outcome) {
    // Whoever has only this to read is to know what to mend.
    const isRolledBack = rollingBack !== null && rollingBack.givenUp !== true;
    told.push([isRolledBack ? 'rolledBack' : 'finished', status.failure ?? status.now]);
  }
  return told;
}

/** What a webhook is sent of it. */
export function noticeOf(
  sequence: number,
  at: string,
  event: NoticeEvent,
  text: string,
  status: MigrationStatus,
): Notice {
  const { phase, writesOn, greenReadPercent, lagSeconds, lagAt = null, rollback, waiting } = status;
  const waits = waiting !== null && (event === 'approval' || event === 'held');
  return {
    ...{ sequence, event, at, text, phase, writesOn, greenReadPercent, lagSeconds, lagAt, rollbackSafe: rollback.safe },
    ...(waits ? { waiting } : {}),
  };
}

function isNewQuestion(before: Waiting | null, now: Waiting): boolean {
  return before?.request !== now.request || before?.since !== now.since || before?.reminders !== now.reminders;
}

function holdOf(status: MigrationStatus | undefined): string | null {
  if (status === undefined) return null;
  if (status.held !== undefined && status.held !== null) return status.held.why;
  const { waiting } = status;
  // A way back that is blocked waits for a person as a pause does.
  return waiting?.answer !== undefined && waiting.for !== 'approval' ? waiting.why : null;
}

/** Each state of an alarm is told once, and its end. */
function newAlarms(before: readonly Alarm[], { alarms = [], outcome }: MigrationStatus): [NoticeEvent, string][] {
  const raised = alarms.filter(({ about, state }) => !before.some((one) => one.about === about && one.state === state));
  // What a run that has ended watches no more is not over.
  const over = outcome === 'running' ? before.filter((one) => !alarms.some(({ about }) => about === one.about)) : [];
  return [
    ...raised.map(({ why, next }): [NoticeEvent, string] => ['alarm', `${why}. Next step: ${next}`]),
    ...over.map(({ why }): [NoticeEvent, string] => ['alarm', `over: ${why}`]),
  ];
}

/** The list of evidence is cut at its beginning, so what is new is found from its end. */
function newFailures(before: readonly Evidence[], now: readonly Evidence[]): Evidence[] {
  const last = before.at(-1);
  const from = last === undefined ? 0 : now.lastIndexOf(last) + 1;
  return now.slice(from).filter(hasFailed);
}
