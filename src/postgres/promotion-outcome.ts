import { setTimeout as sleep } from 'node:timers/promises';
import { VerdigrisError } from '../errors.js';
import { promotionBlocked } from './hold.js';
import { whoHoldsAdvisoryLock } from './locks.js';
import type { Promotion } from './promotion.js';
import { askDecision, readDecision, readDecisionAsActor, type Decision } from './promotion-decision.js';
import { SHORT_STATEMENTS, withSession, type Session } from './session.js';
import { LOCK_NOT_AVAILABLE, sqlState } from './sqlstate.js';
import { FENCE_LOCK } from './state.js';

/* What has been decided: before a try, by another worker beside it, and after a COMMIT whose answer was lost. */

/** Each makes writers wait for 40 ms at most; a try is over after these, and writers go on for longer before the next. */
const LOOKS_AT_DECISION = 5;

/**
 * Whether it has been decided. Where a crash has left the fence closed, a writer that does not end keeps that from being
 * read, too: it stands in the way as it would in the hold.
 */
export async function decisionSoFar(main: Session, { migration, from }: Promotion): Promise<Decision> {
  try {
    return await readDecisionAsActor(main, migration, from, LOOKS_AT_DECISION);
  } catch (error) {
    if (sqlState(error) !== LOCK_NOT_AVAILABLE) throw error;
    throw promotionBlocked(`writers did not end. ${await whoHoldsAdvisoryLock(main, FENCE_LOCK)}`, error);
  }
}

/** Whether another worker has decided what this one could not: a writer who keeps its lock from us has met no closed fence. */
export async function isDecidedByAnother({ databases, migration, from, signal }: Promotion): Promise<boolean> {
  try {
    return (await askDecision(databases[from], migration, { signal, tries: LOOKS_AT_DECISION })).decided;
  } catch (error) {
    if (sqlState(error) !== LOCK_NOT_AVAILABLE) throw error;
    return false;
  }
}

/** A server that has crashed is mostly back by then; after it the activity ends, and its next attempt asks. */
const ASKED_FOR_MS = 60_000;

/** The COMMIT's answer was lost: the database is asked, with a session of its own. */
export async function decisionAfterLostAnswer(promotion: Promotion, lost: unknown): Promise<number> {
  const deadline = performance.now() + ASKED_FOR_MS;
  for (;;) {
    try {
      const decision = await askForOutcome(promotion);
      if (decision.decided) return decision.epoch;
      await promotion.pools?.release();
      throw promotionBlocked('the COMMIT did not go through', lost);
    } catch (error) {
      if (error instanceof VerdigrisError && error.type === 'PromotionBlocked') throw error;
      if (performance.now() > deadline) throw error;
      await sleep(200);
    }
  }
}

/**
 * By the fence's lock, which is free at once as a rule. A COMMIT that waits for a synchronous standby keeps it, and all writers
 * with it: then the actor's lock is asked for, whose holder has some 15 s before it is ended.
 */
async function askForOutcome({ databases, from, migration }: Promotion): Promise<Decision> {
  const ask = (session: Session): Promise<Decision> => readDecision(session, migration, from, LOOKS_AT_DECISION);
  try {
    return await withSession(databases[from], { purpose: 'promotion outcome', ...SHORT_STATEMENTS }, ask);
  } catch (error) {
    if (sqlState(error) !== LOCK_NOT_AVAILABLE) throw error;
    return askDecision(databases[from], migration);
  }
}
