import { setTimeout as sleep } from 'node:timers/promises';
import { VerdigrisError } from '../errors.js';
import type { Side } from '../side.js';
import { isFenceOpen, TAKE_FENCE_LOCK } from './fence.js';
import { isHeldAlone } from './locks.js';
import { asActor } from './ownership.js';
import { BEGIN, type Database, type Session } from './session.js';
import { FENCE_LOCK, FENCE_OPEN, readRoute } from './state.js';

export interface Decision {
  /** Whether writes have been given away by `from`. */
  readonly decided: boolean;
  readonly epoch: number;
}

/**
 * Whether the decision has been made. While a try is recorded as running (or the flag is set and the route does not say
 * so), the lock and the row are taken first and read then: a plain read can still say the old side while a COMMIT is on
 * its way. A flag that is set without a decision is set back here, and nowhere else.
 *
 * @param tries how often to ask for the lock; each one makes writers wait for 40 ms at most.
 */
export async function readDecision(session: Session, migration: string, from: Side, tries = TRIES): Promise<Decision> {
  const plain = await readRoute(session, migration);
  if (plain === undefined) throw staleEpoch(migration, from);
  if (plain.writesOn !== from) return { decided: true, epoch: plain.epoch };
  if (plain.opening === null && (await isFenceOpen(session))) return { decided: false, epoch: plain.epoch };

  for (let attempt = 1; ; attempt++) {
    try {
      await session.query(
        `${BEGIN}; SET LOCAL lock_timeout = '40ms'; SET LOCAL statement_timeout = '2s'; ${TAKE_FENCE_LOCK}`,
      );
      const route = await readRoute(session, migration, true);
      if (route === undefined) throw staleEpoch(migration, from);
      if (route.writesOn === from && !(await isFenceOpen(session))) {
        await session.query(`SELECT setval('verdigris.fence', ${FENCE_OPEN})`);
      }
      await session.query('COMMIT');
      return { decided: route.writesOn !== from, epoch: route.epoch };
    } catch (error) {
      await session.query('ROLLBACK').catch(() => undefined);
      if (attempt >= tries || error instanceof VerdigrisError) throw error;
      await sleep(50 + Math.random() * 100);
    }
  }
}

/**
 * The same for the session that holds the actor's lock of `from`. Only such a session ever decides, and the lock is let
 * go after its COMMIT is visible or undone: no COMMIT can be on its way, so a plain read is certain, and writers need not
 * wait for one. A flag that is set without a decision is set back as above.
 */
export async function readDecisionAsActor(
  actor: Session,
  migration: string,
  from: Side,
  tries?: number,
): Promise<Decision> {
  const route = await readRoute(actor, migration);
  if (route === undefined) throw staleEpoch(migration, from);
  const isDecided = route.writesOn !== from;
  if (isDecided || (await isFenceOpen(actor))) return { decided: isDecided, epoch: route.epoch };
  return readDecision(actor, migration, from, tries);
}

/** The same by a session of its own: whoever holds the actor's lock is waited for, and ended then (asActor()). */
export async function askDecision(
  database: Database,
  migration: string,
  { signal, tries }: { readonly signal?: AbortSignal | undefined; readonly tries?: number } = {},
): Promise<Decision> {
  const ask = (actor: Session): Promise<Decision> => readDecisionAsActor(actor, migration, database.side, tries);
  return asActor(database, 'promotion outcome', ask, { signal });
}

/** After about 15 s the caller gets 55P03: not known. Whoever holds the actor's lock never waits here for a COMMIT. */
const TRIES = 100;

/**
 * Whether somebody has the fence's lock alone: writers share it, and have met no closed fence while they do. Whoever has it
 * alone may be about to decide.
 */
export async function isFenceHeldAlone(session: Session): Promise<boolean> {
  const { rowCount } = await session.query(`SELECT FROM pg_locks l WHERE ${isHeldAlone(FENCE_LOCK)}`);
  return rowCount !== 0;
}

function staleEpoch(migration: string, side: Side): VerdigrisError {
  return new VerdigrisError({
    type: 'StaleEpoch',
    message: `${side} knows no route of migration "${migration}"`,
    nextStep: 'see whether the run was ended by hand; nothing is changed without that row',
  });
}
