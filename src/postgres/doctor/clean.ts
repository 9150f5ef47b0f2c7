import { VerdigrisError } from '../../errors.js';
import { otherSide, type Side } from '../../side.js';
import { briefLock } from '../brief-lock.js';
import { dropFence } from '../fence.js';
import { ident, qualified } from '../identifier.js';
import { dropIndex } from '../migrate/index-build.js';
import { findIndex } from '../migrate/index-definition.js';
import { isLockNotHad } from '../lock-watch.js';
import { dropTriggers } from '../migrate/revert.js';
import type { StepContext } from '../migrate/step-context.js';
import { forgetRun } from '../other-migrations.js';
import { openActorSession } from '../ownership.js';
import { keptSessions, type Keep } from '../promotion-sessions.js';
import { dropPublication } from '../publication.js';
import { dropSlot } from '../replication-slot.js';
import { dropCopiedSchema } from '../schema-copy/drop-copied-schema.js';
import { inTransaction, openSession, type Databases, type Session } from '../session.js';
import { hasState, readOwner, recordEvent } from '../state.js';
import { dropSubscription } from '../subscription.js';
import { DOCTOR, routeInForce, type Found, type Inventory } from './inventory.js';
import { migrationOf, type CleanAction } from './plan-cleaning.js';
import { readStateObjects, RELEASED } from './read-state.js';

/** How an action went. */
export interface CleanResult {
  readonly action: CleanAction;
  /** Null when it was done; else why not. */
  readonly failed: string | null;
}

/** The outcome that is written down for a run that was cleaned up. */
export const CLEANED = 'cleaned';

/**
 * Does what planCleaning() has planned, each side even if the other one fails. Every action looks before it acts, so it
 * can be run again. Schema verdigris, which says whose the rest is, goes only when everything else on its side is gone.
 *
 * The plan is as old as the look that it was made by, and a worker that Temporal takes for dead may have moved the writes
 * since. So whoever acts for the run is waited for, or ended, and only then it is seen whether the plan still holds.
 * Every action is done by the session that holds its side's lock: whoever ends that session ends the cleaning of its side.
 *
 * @throws VerdigrisError, and nothing has been done: StaleEpoch when writes or reads have moved since the look;
 * DatabaseOwned when another run has begun since; LockNotHad within 15 s; ConnectionFailed
 */
export async function clean(
  databases: Databases,
  found: Found,
  actions: readonly CleanAction[],
): Promise<CleanResult[]> {
  if (actions.length === 0) return [];
  const { keep, closeAll } = keptSessions();
  const failedSides = new Set<Side>();
  const results: CleanResult[] = [];
  try {
    const actors = await holdActors(databases, found, keep);
    for (const [side, actor] of actors) {
      await refuseOtherRun(actor, found, side);
      await refuseMoved(actor, found, side);
    }
    for (const action of actions) {
      const failed = await attempt(async () => {
        if (LAST.has(action.kind) && failedSides.has(action.side))
          throw new Error('something before it failed on this side');
        const session = actors.get(action.side);
        if (session === undefined) throw new Error('it was not reached');
        await refuseOtherRun(session, found, action.side);
        await perform(session, databases, found, action);
      });
      if (failed !== null) failedSides.add(action.side);
      results.push({ action, failed });
      // Whoever reads on green would read what never changes again.
      if (failed !== null && action.kind === 'takeReadsBack') break;
    }
  } finally {
    await closeAll();
  }
  return results;
}

const LAST: ReadonlySet<CleanAction['kind']> = new Set(['dropSchema', 'endOwnership', 'forgetRun']);

/**
 * Whoever moves writes holds the actors' locks of both sides, so nobody does once these are held. In the promotion's order:
 * the side that has the writes first.
 */
async function holdActors(databases: Databases, found: Found, keep: Keep): Promise<Map<Side, Session>> {
  const first = routeInForce(found)?.writesOn ?? 'blue';
  const actors = new Map<Side, Session>();
  for (const side of [first, otherSide(first)]) {
    if (found[side].reached) actors.set(side, await keep(openActor(databases, side)));
  }
  return actors;
}

async function openActor(databases: Databases, side: Side): Promise<Session> {
  try {
    return await openActorSession(databases[side], `${DOCTOR} clean`);
  } catch (error) {
    if (!isLockNotHad(error)) throw error;
    throw new VerdigrisError({
      type: 'LockNotHad',
      message: error.what,
      nextStep:
        'nothing has been removed; see pg_locks (locktype advisory) for its pid, end it there, and run this again',
      cause: error,
    });
  }
}

async function attempt(work: () => Promise<void>): Promise<string | null> {
  try {
    await work();
    return null;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

/** A run that has begun since the look owns the objects now: they have the same names. */
async function refuseOtherRun(session: Session, found: Found, side: Side): Promise<void> {
  const seen = found[side];
  const before = seen.reached ? (seen.inventory.owner?.runId ?? null) : null;
  const now = (await readOwner(session))?.runId ?? null;
  // Our own last step has removed the owner, or it was never there.
  if (now === null || now === before) return;
  throw new VerdigrisError({
    type: 'DatabaseOwned',
    message: `${side} belongs to run ${now} now, which has begun meanwhile`,
    nextStep: 'nothing: its objects are in use',
  });
}

/** What was planned by a look at a route is right for that route only: another one's fence may keep applications out. */
async function refuseMoved(actor: Session, found: Found, side: Side): Promise<void> {
  const one = found[side];
  if (!one.reached) return;
  const now = await readStateObjects(actor);
  const [before, after] = [standing(one.inventory), standing(now)];
  if (now.settled && before === after) return;
  throw new VerdigrisError({
    type: 'StaleEpoch',
    message: `${side} is not any more as it was looked at: it had ${before}, it has ${after}. Nothing has been removed`,
    nextStep: 'a worker was at work meanwhile: stop it, then run this again, which goes by what is there then',
  });
}

function standing({ route, fenceOpen, settled }: Pick<Inventory, 'route' | 'fenceOpen' | 'settled'>): string {
  if (!settled) return 'a promotion in its last step';
  const flag = fenceOpen === null ? 'no flag' : fenceOpen ? 'an open flag' : 'a closed flag';
  if (route === null) return `no route and ${flag}`;
  return `writes on ${route.writesOn}, epoch ${route.epoch}, ${route.greenReadPercent} % of the reads on green, and ${flag}`;
}

async function perform(session: Session, databases: Databases, found: Found, action: CleanAction): Promise<void> {
  switch (action.kind) {
    case 'endSession':
      // Only a session that still says it is ours: process numbers are used again.
      await session.query(
        `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND application_name = $2`,
        [action.pid, `verdigris ${action.purpose}`],
      );
      return;
    case 'takeReadsBack':
      await session.query('SELECT verdigris.set_green_read_percent($1, $2, 0)', [migrationOf(found), action.epoch]);
      return;
    case 'dropSubscription':
      return dropSubscription(session, action.name);
    case 'dropSlot':
      return dropSlot(session, action.name);
    case 'dropPublication':
      await briefLock(session, `DROP PUBLICATION ${action.name}`, () => dropPublication(session, action.name));
      return;
    case 'dropIndex':
      // Its build may have come to its end since the look.
      if ((await findIndex(session, action.schema, action.name))?.valid === true) return;
      await dropIndex(stepContext(session, databases, found, action.side), session, action.schema, action.name);
      return;
    case 'dropProof': {
      const table = qualified({ schema: action.schema, name: action.table });
      await briefLock(session, `constraint ${action.name} of ${table}`, () =>
        session.query(`ALTER TABLE ${table} DROP CONSTRAINT IF EXISTS ${ident(action.name)}`),
      );
      return;
    }
    case 'dropEventTrigger':
      await briefLock(session, `DROP EVENT TRIGGER ${action.name}`, () =>
        session.query(`DROP EVENT TRIGGER IF EXISTS ${ident(action.name)}`),
      );
      return;
    case 'dropUpDown':
      await dropTriggers(stepContext(session, databases, found, action.side));
      return;
    case 'dropFence':
      if (action.released) await noteRelease(session, runIdOf(found, action.side));
      return dropFence(session);
    case 'dropCopy': {
      const stays = await dropCopiedSchema(stepContext(session, databases, found, action.side));
      if (stays.length > 0) throw new Error(`these are not empty and stay: ${stays.join(', ')}`);
      return;
    }
    case 'endOwnership':
      return endOwnership(session, runIdOf(found, action.side));
    case 'forgetRun': {
      const run = { runId: runIdOf(found, action.side), migration: migrationOf(found) ?? '' };
      return forgetRun(session, run, { keepRoute: false });
    }
    case 'dropSchema':
      await briefLock(session, 'DROP SCHEMA verdigris', () => session.query('DROP SCHEMA IF EXISTS verdigris CASCADE'));
      return;
  }
}

/** Half of the fence may be gone when this dies: whoever is told to go on with it must find that it was begun by name. */
async function noteRelease(session: Session, runId: string): Promise<void> {
  if (!(await hasState(session))) return;
  await inTransaction(session, async () => {
    const { rowCount } = await session.query(
      `UPDATE verdigris.owner SET outcome = $2, ended_at = coalesce(ended_at, clock_timestamp())
        WHERE run_id = $1 AND outcome IS DISTINCT FROM $2`,
      [runId, RELEASED],
    );
    if (rowCount === 1) await recordEvent(session, runId, `ended: ${RELEASED}`);
  });
}

async function endOwnership(session: Session, runId: string): Promise<void> {
  if (!(await hasState(session))) return;
  await inTransaction(session, async () => {
    const { rowCount } = await session.query(
      'UPDATE verdigris.owner SET outcome = $2, ended_at = clock_timestamp() WHERE run_id = $1 AND outcome IS NULL',
      [runId, CLEANED],
    );
    if (rowCount === 1) await recordEvent(session, runId, `ended: ${CLEANED}`);
  });
}

function runIdOf(found: Found, side: Side): string {
  const one = found[side];
  return one.reached ? (one.inventory.owner?.runId ?? '') : '';
}

function stepContext(session: Session, databases: Databases, found: Found, side: Side): StepContext {
  return {
    runId: runIdOf(found, side),
    session,
    connect: (purpose) => openSession(databases[side], { purpose: `${DOCTOR} ${purpose}` }),
    signal: new AbortController().signal,
    onProgress: () => undefined,
  };
}
