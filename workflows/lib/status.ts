import { firstLine } from '../../src/failure-text.js';
import type { Progress } from '../../src/postgres/migrate/step-context.js';
import type { Side } from '../../src/side.js';
import type { GivenApproval } from './approval-question.js';

/** The phases of a run, in their order. */
export const PHASES = [
  'preflight',
  'replicate',
  'migrate',
  'verify',
  'traffic',
  'promote',
  'standby',
  'retire',
] as const;

export type Phase = (typeof PHASES)[number];

/** How a run ended, or `running`. */
export type Outcome = 'running' | 'completed' | 'rolledBack' | 'cancelled' | 'failed';

/** What the run waits for. `answer` is the exact command that answers it, where a person can. */
export interface Waiting {
  readonly for:
    'approval' | 'stage' | 'gate' | 'resume' | 'standby' | 'lag' | 'retry' | 'confirmation' | 'window' | 'load';
  /** One line for people: `approval before promote`, `stage 10 % until 14:05 UTC`. */
  readonly why: string;
  /** With an approval: the name that `approve` takes, such as `promote`, `retire`, `traffic` or `stage-10`. */
  readonly gate?: string;
  /** With an approval: the id of this very question, `promote-2` for the second time. */
  readonly request?: string;
  /** With an approval: how many different people must approve. */
  readonly quorum?: number;
  /** With an approval: who has approved, as far as it still counts. */
  readonly approvals?: readonly GivenApproval[];
  /** With an approval: who may; absent when anybody may. */
  readonly mayApprove?: readonly string[];
  /** With an approval: what is known about what is approved, line by line. */
  readonly evidence?: readonly string[];
  /** With an approval: how often people were told again that nobody has answered. */
  readonly reminders?: number;
  /** With a window: ISO 8601, when it opens. */
  readonly until?: string;
  readonly since: string;
  readonly answer?: string;
}

/** Why the run goes no further than what it does now, until somebody resumes it or rolls it back. */
export interface Held {
  readonly why: string;
  readonly since: string;
  readonly answer: string;
}

/** Something that a person should look at now. */
export interface Alarm {
  readonly about:
    | 'gates'
    | 'WAL'
    | 'finish'
    | 'feed'
    | 'rows'
    | 'schema'
    | 'blueSchema'
    | 'contents'
    | 'history'
    | 'clients'
    | 'retirement';
  /** The state that it is in: a new one is told again, other words for the same one are not. */
  readonly state: string;
  readonly why: string;
  /** What to do about it. */
  readonly next: string;
  readonly since: string;
}

export interface PhaseTimes {
  readonly phase: Phase;
  /** ISO 8601. */
  readonly startedAt: string;
  readonly finishedAt: string | null;
}

/** What can be sent to a run. */
export type MessageName = 'approve' | 'pause' | 'resume' | 'rollback' | 'retire';

/** Somebody's message to the run, or one that was ignored and why. */
export interface Decision {
  /** A MessageName; of one that was ignored, whatever name it had. */
  readonly message: string;
  readonly by: string;
  readonly reason: string;
  readonly at: string;
  readonly gate?: string;
  /** With an approval: the question that it answers. */
  readonly request?: string;
  /** With a rollback: that a loss was accepted. */
  readonly acceptLoss?: true;
  /** The loss that was accepted, as it was named then. */
  readonly accepted?: string;
  /** Set when the message could not be followed. */
  readonly ignored?: string;
}

export interface VerificationSummary {
  readonly tables: number;
  /** Rows that the last comparison of everything has compared. */
  readonly rowsVerified: number;
  /** Rows that differed in the last comparison. */
  readonly differingRows: number;
  readonly at: string;
  /** What has been compared again since: the rows that were written in between. */
  readonly again?: { readonly rowsVerified: number; readonly at: string };
}

export interface PromotionSummary {
  readonly from: Side;
  readonly to: Side;
  /** From asking for the lock to the new side being open, of the try that succeeded; null when its worker died in it. */
  readonly holdMs: number | null;
  /** Tries made, the last one included. */
  readonly attempts: number;
  readonly epoch: number;
  readonly at: string;
}

/** How long writes were held, in words. A hold whose worker died was longer than any that was measured. */
export function heldFor({ holdMs }: PromotionSummary): string {
  return holdMs === null
    ? 'held for a time that was not measured: its worker died'
    : `held for ${holdMs.toFixed(1)} ms`;
}

export interface RollbackSafety {
  readonly safe: boolean;
  readonly why: string;
  /** What a rollback now would lose, as far as the databases can say; it then needs `acceptLoss`. */
  readonly loses?: string;
}

export interface RollbackSummary {
  readonly reason: string;
  readonly startedAt: string;
  readonly finishedAt: string | null;
  /** From the request to all reads and writes being back on blue, as every live instance has confirmed; null until then. */
  readonly trafficBackMs: number | null;
  /** Compensations done, in the order in which they ran. */
  readonly undone: readonly string[];
  /** What could not be undone, with the error. */
  readonly notUndone: readonly string[];
  /** What was written on green and is not on blue: only after a rollback whose loss was accepted. */
  readonly lost?: string;
  /** Set when somebody has given it up, by `retire`: writes have stayed where they were. */
  readonly givenUp?: true;
}

/** The answer of the query `status`. */
export interface MigrationStatus {
  readonly name: string;
  readonly workflowId: string;
  readonly runId: string;
  /** Temporal's namespace in which the run is. */
  readonly namespace?: string;
  readonly outcome: Outcome;
  /** The phase that runs; during a rollback the phase in which it was asked for. */
  readonly phase: Phase;
  readonly phases: readonly PhaseTimes[];
  /** One line: what happens now. */
  readonly now: string;
  /**
   * Of a run that has failed before it had begun anything: every finding, and the next step; of a rollback that was given
   * up, or could not undo everything: what is left, and the next step. Lines of text, at most some 4,000 characters. What has
   * forced a rollback is in `rollingBack`.
   */
  readonly failure?: string;
  /** How far the current work is, table by table; a few seconds to minutes old. Heartbeats have it fresher. */
  readonly progress: readonly Progress[];
  readonly waiting: Waiting | null;
  readonly paused: boolean;
  /** Set while the run is held by something that it has noticed beside its work, such as DDL on blue. */
  readonly held?: Held | null;
  readonly writesOn: Side;
  readonly greenReadPercent: number;
  /** Live instances of the application, and HAProxies, that have not confirmed that reads are back on blue; absent when all had at once. */
  readonly unconfirmed?: readonly string[];
  readonly lagSeconds: number | null;
  /** ISO 8601, when the lag was measured. A number that nobody looks after gets old. */
  readonly lagAt?: string | null;
  /** Whether a rollback now would lose nothing, and why. */
  readonly rollback: RollbackSafety;
  /** ISO 8601, when that was found. */
  readonly rollbackAt?: string;
  readonly rollingBack: RollbackSummary | null;
  readonly verification: VerificationSummary | null;
  readonly promotion: PromotionSummary | null;
  readonly decisions: readonly Decision[];
  /** What a person should look at now; what is over is not in it any more. */
  readonly alarms?: readonly Alarm[];
  /** Warnings that a person should see, such as those of the preflight, and every alarm that there was. */
  readonly warnings: readonly string[];
}

/** What the run does in one line, for a heading: what it waits for, where it goes no further. The step before is over then. */
export function doesNow({ now, waiting, held, paused, rollingBack }: MigrationStatus): string {
  if (rollingBack !== null) return now;
  if (waiting?.for === 'approval') return paused ? 'paused, and waiting for approval' : 'waiting for approval';
  if (waiting?.for === 'window' || waiting?.for === 'load') return inShort(waiting.why);
  if (paused) return waiting?.for === 'resume' ? 'paused' : `pausing: ${now}`;
  const why = waiting?.for === 'resume' ? waiting.why : held?.why;
  return why === undefined ? now : `held: ${inShort(why)}`;
}

/** Characters of a heading: what is longer is told in full below it. */
const HEADING = 160;

function inShort(text: string): string {
  const line = firstLine(text);
  return line.length <= HEADING ? line : `${line.slice(0, HEADING)} ...`;
}

/** The lag as it is known; null where none was measured since writes moved: what was before is of the other direction. */
export function lagNow({ lagSeconds, lagAt = null, promotion }: MigrationStatus): number | null {
  return promotion !== null && lagAt !== null && lagAt < promotion.at ? null : lagSeconds;
}

/** The instances that may still read on green although reads are back on blue, for people; null when there are none. */
export function notConfirmed({ unconfirmed = [] }: MigrationStatus): string | null {
  if (unconfirmed.length === 0) return null;
  const more = unconfirmed.length - 10;
  return `not confirmed by ${unconfirmed.slice(0, 10).join(', ')}${more > 0 ? ` and ${more} more` : ''}`;
}
