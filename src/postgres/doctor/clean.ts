import { VerdigrisError } from '../../errors.js';
import type { Side } from '../../side.js';
import { briefLock } from '../brief-lock.js';
import { dropFence } from '../fence.js';
import { ident, qualified } from '../identifier.js';
import { dropIndex } from '../migrate/index-build.js';
import { dropTriggers } from '../migrate/revert.js';
import type { StepContext } from '../migrate/step-context.js';
import { forgetRun } from '../other-migrations.js';
import { openActorSession } from '../ownership.js';
import { dropPublication } from '../publication.js';
import { dropSlot } from '../replication-slot.js';
import { dropCopiedSchema } from '../schema-copy/drop-copied-schema.js';
import { closeSession, inTransaction, openSession, type Databases, type Session } from '../session.js';
import { hasState, readOwner, recordEvent } from '../state.js';
import { dropSubscription } from '../subscription.js';
import { DOCTOR, type Found } from './inventory.js';
import { migrationOf, type CleanAction } from './plan-cleaning.js';

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
 */
export async function clean(
  databases: Databases,
  found: Found,
  actions: readonly CleanAction[],
): Promise<CleanResult[]> {
  const sessions = new Map<Side, Session>();
  const failedSides = new Set<Side>();
  const results: CleanResult[] = [];
  try {
    for (const action of actions) {
      const failed = await attempt(async () => {
        if (LAST.has(action.kind) && failedSides.has(action.side))
          throw new Error('something before it failed on this side');
        const session = sessions.get(action.side) ?? (await actor(databases, action.side));
        sessions.set(action.side, session);
        await refuseOtherRun(session, found, action.side);
        await perform(session, databases, found, action);
      });
      if (failed !== null) failedSides.add(action.side);
      results.push({ action, failed });
      // Whoever reads on green would read what never changes again.
      if (failed !== null && action.kind === 'takeReadsBack') break;
    }
  } finally {
    await Promise.all([...sessions.values()].map(closeSession));
  }
  return results;
}

const LAST: ReadonlySet<CleanAction['kind']> = new Set(['dropSchema', 'endOwnership', 'forgetRun']);

/** Whoever acts on a database holds the actor's lock: a worker that was frozen in the middle of something loses it. */
function actor(databases: Databases, side: Side): Promise<Session> {
  return openActorSession(databases[side], `${DOCTOR} clean`);
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
