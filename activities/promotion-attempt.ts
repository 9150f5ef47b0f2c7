import { parseDuration } from '../src/plan/duration.js';
import type { ClientPool } from '../src/pgbouncer/client-pools.js';
import type { Tries } from '../src/postgres/ended-tries.js';
import type { Pools } from '../src/postgres/pools.js';
import { promote as moveWrites } from '../src/postgres/promote.js';
import { notOpened } from '../src/postgres/promotion-opening.js';
import { askDecision, readDecision, type Decision } from '../src/postgres/promotion-decision.js';
import { SHORT_STATEMENTS, type Session } from '../src/postgres/session.js';
import { readRoute } from '../src/postgres/state.js';
import type { Side } from '../src/side.js';
import type { Environment } from '../src/worker/connections.js';
import type { Redact } from '../src/worker/redact.js';
import type { RunRef } from '../workflows/lib/run-ref.js';
import type { StagePatience, Work } from './context.js';
import { recordPromotion } from './promotion-finish.js';
import { decidedFor, prepareTries } from './promotion-prepare.js';
import { giveTriesUp, refuseOwnEnded } from './promotion-withdraw.js';
import { requestOfActivity } from './temporal-clock.js';

export interface PromotionResult {
  /** How long writes waited; null when that is not known: an earlier attempt had decided, and its worker died. */
  readonly holdMs: number | null;
  readonly attempts: number;
  readonly epoch: number;
  readonly at: string;
  /** What stayed behind on green, in words: only where a loss was accepted. */
  readonly lost: string | null;
  /** What green, which is closed now, holds that is not replicated to blue; undefined where that is not known, and to green. */
  readonly unmoved?: readonly string[];
  /** Clients of poolers that may be refused after the move: as seen before it, and of poolers that could not be told of it. */
  readonly mayBeRefused?: readonly string[];
  /** Clients of poolers that got no connection to the new side. */
  readonly unserved?: readonly string[];
  /** The same, to be looked at again. */
  readonly unservedPools?: readonly ClientPool[];
}

/** What is asked of the activity `promote`, and what it works with. */
export interface Asked {
  readonly work: Work;
  readonly ref: RunRef;
  readonly pools: Pools;
  readonly from: Side;
  readonly epoch: number;
  readonly acceptLoss: boolean;
  /** What of it was accepted, as a count in words. Default: it was not counted. */
  readonly accepted?: string | undefined;
  readonly notAfter: string | undefined;
  readonly environment: Environment;
  readonly redact: Redact;
  readonly patience: StagePatience;
}

/** An attempt with its session on the side that gives the writes away. */
export interface Attempt extends Asked {
  readonly session: Session;
}

/**
 * One attempt of the activity. What an earlier one has decided is gone on with; else it is prepared, and tried as often as
 * the plan says.
 */
export async function attemptPromotion(asked: Asked): Promise<PromotionResult> {
  const { work, ref, pools, from, epoch, acceptLoss } = asked;
  const { databases, run, signal } = work;
  const session = await work.session(from, 'promote', SHORT_STATEMENTS);
  const attempt: Attempt = { ...asked, session };
  const tries: Tries = { runId: run.runId, asked: requestOfActivity() };
  try {
    const earlier = await decidedByEarlierAttempt(work, session, from);
    // One with a loss is looked at anew, whatever has ended it.
    if (!earlier.decided && !acceptLoss) await refuseOwnEnded(session, tries);
    const prepared = earlier.decided ? NOT_TO_BE_TRIED : await prepareTries(attempt);
    const { attempts: of, maxHold, sequenceGap } = ref.plan.promote;
    const promoted = await moveWrites(
      {
        ...{ databases, migration: run.migration, from, epoch, tries, sequenceGap, acceptLoss, pools, signal },
        ...prepared,
        decidedFor: decidedFor(attempt),
        patterns: ref.plan.tables,
        maxHoldMs: parseDuration(maxHold),
        feedBack: from === 'blue',
      },
      { attempts: of, onBlocked: (number, blocked) => work.report({ attempt: number, of, blocked }) },
    ).catch((error: unknown) => {
      throw earlier.decided ? notOpened(earlier.epoch, error) : error;
    });
    return await recordPromotion(attempt, promoted);
  } catch (error) {
    throw await giveTriesUp(attempt, tries, error);
  }
}

/** What has been decided needs nothing but its opening. */
const NOT_TO_BE_TRIED = { fenced: [], knownTables: [] };

/**
 * What an earlier attempt has decided. Where its try is announced still, its worker may have been killed in it: then
 * whoever acts is ended, so that writers need not wait for the answer.
 */
async function decidedByEarlierAttempt(
  { databases, run, signal }: Work,
  session: Session,
  from: Side,
): Promise<Decision> {
  const route = await readRoute(session, run.migration);
  if (route === undefined || route.opening === null) return readDecision(session, run.migration, from);
  return askDecision(databases[from], run.migration, { signal });
}
