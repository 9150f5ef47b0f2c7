import { VerdigrisError } from '../../../errors.js';
import type { TableName } from '../../../plan/table-name.js';
import { readProgress, writeProgress, type ProgressKey } from '../../migrate/progress-row.js';
import type { Progress } from '../../migrate/step-context.js';
import type { Run } from '../../ownership.js';
import type { Session } from '../../session.js';

/** How the sessions of the bootstrap say what they are for: by that a rollback finds those of a worker that is frozen. */
export const STANDBY_BOOTSTRAP = 'standby bootstrap';

/** What every step of the bootstrap `standby` works with. */
export interface StandbyRun {
  readonly run: Run;
  readonly blue: Session;
  readonly green: Session;
  /** The tables that are moved. */
  readonly tables: readonly TableName[];
  /** Names of the streams: each one's publication, slot and subscription. */
  readonly streams: readonly string[];
  /** Retained WAL on blue above which it is given up, bytes. */
  readonly maxRetainedWal: number;
  readonly signal: AbortSignal;
  readonly report: (progress: Progress) => void;
}

/** What blue knows of the promotion: written before green is promoted, so it is there whatever dies after that. */
export interface PromotionIntent {
  /** Green must have replayed up to here: behind the start of every slot. */
  readonly target: string;
  /** Timeline of blue: the one that green leaves. */
  readonly timeline: number;
  /** Whether green's default is made read-only for the time until it is fenced. */
  readonly closed: boolean;
  /** Set right before the promotion is asked for. */
  readonly asked: boolean;
}

export function readIntent(blue: Session, run: Run): Promise<PromotionIntent | undefined> {
  return readProgress<PromotionIntent>(blue, intentKey(run)).then((row) => row?.state);
}

/**
 * What a green that is no standby any more must have behind it.
 *
 * @throws VerdigrisError ReplicationBroken when it was promoted by somebody else.
 */
export async function requireAsked(blue: Session, run: Run): Promise<PromotionIntent> {
  const intent = await readIntent(blue, run);
  if (intent?.asked === true) return intent;
  throw new VerdigrisError({
    type: 'ReplicationBroken',
    message: 'green is no standby any more, and this run has not promoted it: rows may have been written there',
    nextStep: 'roll back, make green a standby of blue again (pg_basebackup, or pg_rewind), and start again',
  });
}

export function writeIntent(blue: Session, run: Run, intent: PromotionIntent): Promise<void> {
  return writeProgress(blue, intentKey(run), intent, intent.asked);
}

function intentKey(run: Run): ProgressKey {
  return { runId: run.runId, step: 'standby', object: 'promotion' };
}

/** What green knows of its promotion. */
export interface PromotedStandby {
  /** Where green left blue's WAL, and follows it from. */
  readonly position: string;
  /** Whether its default has been made read-only. */
  readonly closed: boolean;
}

export function promotedKey(run: Run): ProgressKey {
  return { runId: run.runId, step: 'standby', object: 'promoted' };
}

export function readPromoted(green: Session, run: Run): Promise<PromotedStandby | undefined> {
  return readProgress<PromotedStandby>(green, promotedKey(run)).then((row) => row?.state);
}
