import { createHash } from 'node:crypto';
import { ApplicationFailure, CancelledFailure, Context } from '@temporalio/activity';
import { ApplicationFailureCategory } from '@temporalio/common';
import { VerdigrisError } from '../src/errors.js';
import { formatDuration } from '../src/plan/duration.js';
import { GOOD_NEWS_EVERY_MS } from '../src/plan/standby-news.js';
import { clockOfActivity } from './temporal-clock.js';
import type { VerificationResult } from './verify.js';

/*
 * The comparisons of a standby window. Each is an attempt of one activity: one that finds nothing new ends with a failure
 * that has the next attempt come when the next comparison is due. Temporal waits in between, which takes no event of the
 * history, no heartbeat and no place in a worker, and a cancel ends the wait at once.
 */

/** What an activity that compares regularly is asked for. Plain data. */
export interface Round {
  /** Begins the names of its comparisons. */
  readonly pass: string;
  /** How long until the first comparison, ms. */
  readonly firstInMs: number;
  /** The comparison that an earlier round has broken off: this one goes on with it at once. Default: none */
  readonly resumes?: string;
  /** The `mark` of what people know. Default: nothing is, so the first comparison is told */
  readonly known?: string;
}

/** What a comparison has found. Plain data. */
export interface ComparisonNews extends VerificationResult {
  /** Another one where something else is found. */
  readonly mark: string;
}

/** The last word of a round that was cancelled in the middle of a comparison. Plain data. */
export type ComparisonBrokenOff = Required<Pick<Round, 'resumes'>>;

/** What an attempt knows of those before it, from their heartbeats; people see it in the pending activity. Plain data. */
interface Turn {
  /** The attempt that has said it. */
  readonly attempt: number;
  /** When the next comparison is due, ms since the activity was asked for. */
  readonly dueMs: number;
  /** The comparison that goes on. */
  readonly comparing?: string;
  readonly last?: Pick<VerificationResult, 'at' | 'rowsVerified' | 'differingRows'>;
}

/** An attempt that comes so much before its time has come in time, ms: Temporal counts in whole ones. */
const IN_TIME_MS = 1_000;

export interface Turns {
  readonly everyMs: number;
  readonly signal: AbortSignal;
  /** For the heartbeats: the workflow is told nothing of comparisons that go well. */
  readonly report: (facts: object) => void;
  readonly compare: (pass: string, report: (progress: object) => void) => Promise<VerificationResult>;
}

/**
 * One attempt: the comparison that is due, if one is.
 *
 * @returns what it has found, where that is news, nothing was told for long, or it took more than one attempt: the workflow
 * may have been told why, and that is over then
 * @throws ApplicationFailure NothingNew, to be tried again when the next comparison is due
 * @throws CancelledFailure with a ComparisonBrokenOff
 */
export async function compareInTurn(round: Round, turns: Turns): Promise<ComparisonNews> {
  const { attempt, heartbeatDetails } = Context.current().info;
  const clock = clockOfActivity();
  const before = turnOf(heartbeatDetails);
  const { dueMs = round.firstInMs, last } = before ?? {};
  const resumes = attempt === 1 ? round.resumes : before?.comparing;
  const waitsMs = resumes === undefined ? dueMs - clock() : 0;
  if (waitsMs > IN_TIME_MS) throw later(waitsMs, { attempt, dueMs, ...(last === undefined ? {} : { last }) }, turns);

  // Nobody else has this name: a comparison that is over finds what it has found without reading a row.
  const comparing = resumes ?? `${round.pass}, ${attempt}`;
  const turn: Turn = { attempt, dueMs, comparing, ...(last === undefined ? {} : { last }) };
  tell(turn, turns);
  const found = await turns
    .compare(comparing, (progress) => turns.report({ ...turn, progress }))
    .catch((error: unknown) => {
      throw turns.signal.aborted ? brokenOff(error, { resumes: comparing }) : error;
    });

  const mark = markOf(found);
  const wentWell = attempt === 1 || (before?.attempt === attempt - 1 && before.comparing === undefined);
  if (mark !== round.known || !wentWell || clock() >= GOOD_NEWS_EVERY_MS) return { ...found, mark };
  const { at, rowsVerified, differingRows } = found;
  const next = { attempt, dueMs: clock() + turns.everyMs, last: { at, rowsVerified, differingRows } };
  throw later(turns.everyMs, next, turns);
}

/** Said at once, and not with the next heartbeat: whoever goes on must know it. */
function tell(turn: Turn, { report }: Turns): void {
  report(turn);
  Context.current().heartbeat(turn);
}

/** What an attempt before has said; an earlier version, or nobody, has said nothing of it. */
function turnOf(details: unknown): Turn | undefined {
  const { attempt, dueMs } = (details ?? {}) as Partial<Turn>;
  return typeof attempt === 'number' && typeof dueMs === 'number' ? (details as Turn) : undefined;
}

/** Shown with the pending activity as its last failure, so it says that there is none. */
function later(ms: number, turn: Turn, turns: Turns): ApplicationFailure {
  tell(turn, turns);
  const { last } = turn;
  const before =
    last === undefined
      ? 'no failure: '
      : `no failure: green and blue were compared at ${last.at}, and nothing is new (${last.differingRows} rows differ); `;
  return ApplicationFailure.create({
    type: 'NothingNew',
    message: `${before}the next comparison comes in ${formatDuration(Math.ceil(ms / 1_000) * 1_000)}`,
    nonRetryable: false,
    nextRetryDelay: Math.ceil(ms),
    category: ApplicationFailureCategory.BENIGN,
  });
}

/** What it has found that nobody can try again is news all the same. */
function brokenOff(error: unknown, told: ComparisonBrokenOff): unknown {
  if (error instanceof VerdigrisError && !error.retryable) return error;
  return new CancelledFailure('the comparison was broken off', [told]);
}

function markOf({ differingRows, examples, notCompared = [] }: VerificationResult): string {
  return createHash('sha256')
    .update(JSON.stringify([differingRows, examples, notCompared]))
    .digest('hex')
    .slice(0, 16);
}
