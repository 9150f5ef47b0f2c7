import { setTimeout as sleep } from 'node:timers/promises';
import { VerdigrisError } from '../errors.js';
import { briefLock } from './brief-lock.js';
import type { Side } from '../side.js';
import { together } from '../timing.js';
import {
  closeSession,
  inTransaction,
  openSession,
  SHORT_STATEMENTS,
  withSession,
  withSessions,
  type Database,
  type Databases,
  type Session,
  type SessionOptions,
} from './session.js';
import { readForeignParts, refuseForeignState } from './foreign-state.js';
import { findGivenAway } from './given-away.js';
import { endHolders, notLetGo, REFUSED_PAUSE_MS } from './lock-holders.js';
import { forgetRun, isNameTaken, readOtherMigrations } from './other-migrations.js';
import { describeOtherOwner, readClaimedDatabase } from './other-owner.js';
import {
  ACTOR_LOCK,
  FENCE_OPEN,
  hasState,
  installState,
  readOwner,
  recordEvent,
  ROUTE_CHANNEL,
  type Owner,
  type Refusal,
} from './state.js';

/** A run of a migration, as the databases know it. */
export interface Run {
  /** Unique for each run of the workflow. */
  readonly runId: string;
  /** The plan's name. */
  readonly migration: string;
}

/** What a claim sets for the whole run. */
export interface ClaimOptions {
  /** Over how many streams the tables are spread in each direction. Default: 1 */
  readonly streams?: number;
  /** The SQLSTATE of a write that meets the fence; undefined in plans of earlier versions. Default: 25006 */
  readonly refuseWith?: Refusal | undefined;
}

/**
 * Makes this run the owner of both databases: the second lock against two migrations at once, after the workflow id.
 * A database that another living run owns is refused, and so is a blue that has given its writes away; one whose run has
 * ended is taken over as it is: nothing here opens a fence. Whoever still acts for that one is ended first: see whileOwned().
 *
 * @returns the epoch that the run begins with, the same on both sides.
 * @throws VerdigrisError DatabaseOwned, BlueGivenAway, NameTaken, StateNotOurs
 */
export async function claimDatabases(
  databases: Databases,
  run: Run,
  flag: string,
  { streams = 1, refuseWith }: ClaimOptions = {},
): Promise<number> {
  return withSessions(databases, { purpose: 'claim' }, async ({ blue, green }) => {
    await refuseForeignState(blue, 'blue');
    await refuseForeignState(green, 'green');
    await refuseOtherOwner(blue, 'blue', run);
    await refuseGivenAway(blue, run);
    await refuseOtherOwner(green, 'green', run);
    await refuseTakenName(blue, 'blue', run);
    await refuseTakenName(green, 'green', run);
    await takeActorLock(blue, 'blue');
    await takeActorLock(green, 'green');
    await together(installState(blue, 'blue', { refuseWith }), installState(green, 'green', { refuseWith }));
    const epoch = (await ownEpoch(blue, run)) ?? (await nextEpoch(blue, green));
    const begin = { epoch, flag, streams };
    await claim(blue, 'blue', run, begin);
    await claim(green, 'green', run, begin);
    return epoch;
  });
}

/**
 * The same for the bootstrap `standby`: green is read-only still and gets blue's rows of schema verdigris together with
 * all others, so only blue is claimed. Green is taken over when it has been promoted.
 */
export async function claimBlue(
  databases: Databases,
  run: Run,
  flag: string,
  { streams = 1, refuseWith }: ClaimOptions = {},
): Promise<number> {
  return withSession(databases.blue, { purpose: 'claim' }, async (blue) => {
    await refuseForeignState(blue, 'blue');
    await refuseOtherOwner(blue, 'blue', run);
    await refuseGivenAway(blue, run);
    await refuseTakenName(blue, 'blue', run);
    await takeActorLock(blue, 'blue');
    await installState(blue, 'blue', { refuseWith });
    const epoch = (await ownEpoch(blue, run)) ?? (await nextEpoch(blue));
    await claim(blue, 'blue', run, { epoch, flag, streams });
    return epoch;
  });
}

/**
 * Asked before anything is changed, and again behind the lock of the owner's row, in the transaction that takes the
 * database over. Not asked of a database that this run has already: its own promotion may have given the writes away.
 */
async function refuseGivenAway(session: Session, run: Run): Promise<void> {
  if (!(await hasState(session))) return;
  const { rows } = await session.query<{ run_id: string }>('SELECT run_id FROM verdigris.owner FOR UPDATE');
  if (rows[0]?.run_id === run.runId) return;
  const given = await findGivenAway(session);
  if (given === undefined) return;
  throw new VerdigrisError({
    type: 'BlueGivenAway',
    message: `this database can't be blue: ${given.why}`,
    nextStep: given.nextStep,
  });
}

async function refuseTakenName(session: Session, side: Side, run: Run): Promise<void> {
  if (!(await isNameTaken(session, run.migration, run.runId))) return;
  throw new VerdigrisError({ type: 'NameTaken', ...nameTaken(side, run.migration) });
}

/** Why a name can't be used again, and what to do. */
export function nameTaken(side: Side, migration: string): { readonly message: string; readonly nextStep: string } {
  return {
    message: `${side} knows a migration "${migration}" that has moved the writes to its green: routers of that one would take this run's route for theirs`,
    nextStep: 'give the plan another name, and the routers of the applications with it',
  };
}

async function refuseOtherOwner(session: Session, side: Side, run: Run): Promise<void> {
  const owner = await readOwner(session);
  if (owner === undefined || owner.runId === run.runId || owner.outcome !== null) return;
  const told = await describeOtherOwner(session, side, owner, 'verdigris doctor plan.json --clean');
  throw new VerdigrisError({ type: 'DatabaseOwned', ...told });
}

async function ownEpoch(session: Session, run: Run): Promise<number | undefined> {
  const { rows } = await session.query<{ epoch: number }>(
    `SELECT r.epoch::float8 AS epoch FROM verdigris.route r JOIN verdigris.owner o USING (migration)
      WHERE o.run_id = $1 AND o.migration = $2`,
    [run.runId, run.migration],
  );
  return rows[0]?.epoch;
}

/**
 * An epoch above every earlier one. Routers and PgBouncer's file never go back to a lower epoch, and a rollback removes the
 * rows that remember them, so epochs start from the clock in seconds: blue's alone, which is the same server in a later run of
 * the name. One of green that was ahead would be missing when it has been put right, or in another green.
 */
async function nextEpoch(blue: Session, green?: Session): Promise<number> {
  const { rows } = await blue.query<{ epoch: number }>(
    'SELECT floor(extract(epoch FROM clock_timestamp()))::float8 AS epoch',
  );
  return Math.max(
    rows[0]?.epoch ?? 1,
    1 + (await highestEpoch(blue)),
    green === undefined ? 0 : 1 + (await highestEpoch(green)),
  );
}

/** Of any migration that the database knows; 0 where it knows none. */
async function highestEpoch(session: Session): Promise<number> {
  const { rows } = await session.query<{ epoch: number }>(
    'SELECT coalesce(max(epoch), 0)::float8 AS epoch FROM verdigris.route',
  );
  return rows[0]?.epoch ?? 0;
}

/** What a run begins with, the same on both sides. */
interface Beginning {
  readonly epoch: number;
  readonly flag: string;
  readonly streams: number;
}

async function claim(session: Session, side: Side, run: Run, { epoch, flag, streams }: Beginning): Promise<void> {
  await inTransaction(session, async () => {
    if (side === 'blue') await refuseGivenAway(session, run);
    const { rowCount } = await session.query(
      `INSERT INTO verdigris.owner AS o (run_id, migration, side, streams) VALUES ($1, $2, $3, $4)
       ON CONFLICT (singleton) DO UPDATE
          SET run_id = excluded.run_id, migration = excluded.migration, side = excluded.side, streams = excluded.streams,
              claimed_at = clock_timestamp(), ended_at = NULL, outcome = NULL
        WHERE o.outcome IS NOT NULL`,
      [run.runId, run.migration, side, streams],
    );
    if (rowCount === 0) return refuseOtherOwner(session, side, run);
    await session.query('TRUNCATE verdigris.marker_to_green, verdigris.marker_to_blue, verdigris.router');
    await session.query('DELETE FROM verdigris.progress WHERE run_id <> $1', [run.runId]);
    await session.query(
      `INSERT INTO verdigris.route (migration, epoch, flag) VALUES ($1, $2, $3)
       ON CONFLICT (migration) DO UPDATE
          SET epoch = excluded.epoch, generation = 1, writes_on = 'blue', green_read_percent = 0,
              flag = excluded.flag, opening = NULL, updated_at = clock_timestamp()`,
      [run.migration, epoch, flag],
    );
    // The flag stays as it is: blue's is open, or it was refused; a green that is closed is opened by its promotion.
    await session.query(`SELECT pg_notify('${ROUTE_CHANNEL}', '')`);
    await recordEvent(session, run.runId, `claimed ${side}`, { epoch, ...(await readClaimedDatabase(session)) });
  });
}

/** Writes down how the run ended, which lets another run take the database over. */
export async function releaseDatabase(session: Session, run: Run, outcome: string): Promise<void> {
  if ((await readOwner(session))?.runId !== run.runId) return;
  await session.query(
    'UPDATE verdigris.owner SET outcome = $2, ended_at = clock_timestamp() WHERE run_id = $1 AND outcome IS NULL',
    [run.runId, outcome],
  );
  await recordEvent(session, run.runId, `ended: ${outcome}`);
}

/**
 * Removes schema verdigris, if this run owns it, or it was installed and never claimed: the last thing of a rollback. It stays, without anything of this run but
 * its end, where routers of another migration read from it.
 *
 * @param keepRoute whether routers may still have to hear where this run has left the writes: then the schema stays, too.
 */
export async function dropState(session: Session, run: Run, { keepRoute = false } = {}): Promise<void> {
  const owner = await readOwner(session);
  if (owner === undefined ? !(await isUnclaimed(session)) : owner.runId !== run.runId) return;
  if (keepRoute || (await readOtherMigrations(session, run.migration)).length > 0) {
    return forgetRun(session, run, { keepRoute });
  }
  await briefLock(session, 'DROP SCHEMA verdigris', () => session.query('DROP SCHEMA IF EXISTS verdigris CASCADE'));
}

/** Installed by a claim that went no further: it says nothing of any run, and keeps nobody from writing. */
async function isUnclaimed(session: Session): Promise<boolean> {
  if (!(await hasState(session)) || (await readForeignParts(session)).length > 0) return false;
  const { rowCount } = await session.query(
    `SELECT FROM verdigris.fence
      WHERE last_value = ${FENCE_OPEN}
        AND NOT EXISTS (SELECT FROM verdigris.owner) AND NOT EXISTS (SELECT FROM verdigris.route)
        AND NOT EXISTS (SELECT FROM verdigris.event WHERE what LIKE 'claimed%')
        AND NOT EXISTS (SELECT FROM pg_trigger WHERE tgfoid = to_regprocedure('verdigris.fence_check()'))`,
  );
  return rowCount === 1;
}

/**
 * Acts on a database for a run, while it is that run's or nobody's. The next run's objects have the same names, and a worker
 * that was frozen may wake up when that one has begun. So it acts by a session that holds the actor's lock, and looks
 * whose the database is behind it: whoever claims the database takes that lock first, and ends the session by that. It
 * looks before it ends whoever holds the lock, too: that may be the run whose database it is.
 *
 * @param limits default: none
 * @returns undefined when the database is another run's: nothing is done then
 * @throws VerdigrisError LockNotHad (retryable) when nobody lets go of the lock; the signal's reason when it is aborted.
 */
export async function whileOwned<T>(
  database: Database,
  run: Run,
  purpose: string,
  act: (session: Session) => Promise<T>,
  { signal, limits }: { readonly signal?: AbortSignal; readonly limits?: SessionLimits } = {},
): Promise<T | undefined> {
  return withSession(database, { purpose, ...limits }, async (session) => {
    const otherOwner = async (): Promise<Owner | undefined> => {
      const owner = await readOwner(session);
      return owner?.runId === run.runId ? undefined : owner;
    };
    // Once that one has ended, a claim of our own may hold the lock. What is being dropped can't be read.
    const isAnothers = (): Promise<boolean> =>
      otherOwner().then(
        (other) => other?.outcome === null,
        () => false,
      );
    const isHad = await takeActorLock(session, database.side, { signal, unless: isAnothers });
    return isHad && (await otherOwner()) === undefined ? act(session) : undefined;
  });
}

type SessionLimits = Omit<SessionOptions, 'purpose'>;

/** Does the work in a session that holds the actor's lock. Errors and defaults as of openActorSession(). */
export async function asActor<T>(
  database: Database,
  purpose: string,
  work: (actor: Session) => Promise<T>,
  { signal, limits }: { readonly signal?: AbortSignal | undefined; readonly limits?: SessionLimits } = {},
): Promise<T> {
  const actor = await openActorSession(database, purpose, signal, limits);
  try {
    return await work(actor);
  } finally {
    await closeSession(actor);
  }
}

/**
 * Opens a session that holds the actor's lock of a database: only one worker acts on it at a time.
 *
 * @throws VerdigrisError LockNotHad (retryable) when nobody lets go of it; the signal's reason when it is aborted.
 */
export async function openActorSession(
  database: Database,
  purpose: string,
  signal?: AbortSignal,
  limits: SessionLimits = SHORT_STATEMENTS,
): Promise<Session> {
  const session = await openSession(database, { purpose, ...limits });
  try {
    await takeActorLock(session, database.side, { signal });
    return session;
  } catch (error) {
    await closeSession(session);
    throw error;
  }
}

interface ActorLockOptions {
  readonly signal?: AbortSignal | undefined;
  /** Asked while another session holds the lock: that one is left alone when it is so. Default: never */
  readonly unless?: () => Promise<boolean>;
}

/**
 * Has a session hold the actor's lock of its database. A worker that is frozen still holds it; Temporal has given the task
 * to us, so its session is ended, and the epoch keeps what it may still do from mattering.
 *
 * @returns whether it has the lock; false only by `unless`
 */
async function takeActorLock(
  session: Session,
  side: Side,
  { signal, unless }: ActorLockOptions = {},
): Promise<boolean> {
  const started = performance.now();
  for (;;) {
    const { rows } = await session.query<{ held: boolean }>(`SELECT pg_try_advisory_lock(${ACTOR_LOCK}) AS held`);
    if (rows[0]?.held === true) return true;
    signal?.throwIfAborted();
    if ((await unless?.()) === true) return false;
    const waited = performance.now() - started;
    if (waited > ACTOR_LOCK_WITHIN_MS) {
      throw await notLetGo(session, `${side}: the lock of whoever acts for the run`, IS_ACTOR_LOCK);
    }
    const { refused } =
      waited > HOLDER_ENDED_AFTER_MS
        ? await endHolders(session, waited > REPLICA_ANSWERS_WITHIN_MS ? IS_ACTOR_LOCK : HOLDER_IN_SIGHT)
        : { refused: false };
    await sleep(refused ? REFUSED_PAUSE_MS : 100);
  }
}

const HOLDER_ENDED_AFTER_MS = 2_000;
const REPLICA_ANSWERS_WITHIN_MS = 15_000;

/** Far more than a session that was ended needs to be gone. */
const ACTOR_LOCK_WITHIN_MS = 20_000;

/** The actor's lock of this database among pg_locks `l`, held by somebody. */
const IS_ACTOR_LOCK = `l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted
              AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
              AND l.classid::bigint = (${ACTOR_LOCK} >> 32) & 4294967295 AND l.objid::bigint = ${ACTOR_LOCK} & 4294967295`;

/**
 * The same, held by a session that may be ended at once. Not one whose COMMIT waits for a synchronous replica: ended, it would
 * have decided on this server alone, and a replica that takes over from it would not know.
 */
const HOLDER_IN_SIGHT = `${IS_ACTOR_LOCK} AND a.wait_event IS DISTINCT FROM 'SyncRep'`;

/** A condition for statements of other sessions to the same database: true while `actor` holds the actor's lock. */
export async function holdsActorLock(actor: Session): Promise<string> {
  const { rows } = await actor.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
  return `EXISTS (SELECT FROM pg_locks l WHERE ${IS_ACTOR_LOCK} AND l.pid = ${rows[0]?.pid ?? 0})`;
}
