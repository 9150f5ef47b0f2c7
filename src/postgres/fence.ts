import { formatTableName, type TableName } from '../plan/table-name.js';
import { VerdigrisError } from '../errors.js';
import { briefLocks, type BriefLock } from './brief-lock.js';
import { withoutEventTriggers } from './event-triggers.js';
import { ident, literal, qualified } from './identifier.js';
import { isLockNotHad } from './lock-watch.js';
import { whoBlocks } from './locks.js';
import { messageOf } from './migrate/step-failed.js';
import type { LockRetryOptions } from './retry.js';
import { inTransaction, type Session } from './session.js';
import type { Side } from '../side.js';
import { isConnectionLost } from './sqlstate.js';
import { FENCE_LOCK, FENCE_OPEN, hasState, ROUTE_IS_STILL } from './state.js';

/*
 * The fence: two statement triggers on every ordinary and partitioned table, at every level. The function behind them
 * (see state.ts) takes FENCE_LOCK in shared mode and reads the flag; closed means SQLSTATE 25006.
 *
 * Why no LOCK TABLE: transactions that write several tables hold one while they wait for another, so locking all
 * tables deadlocks with them again and again. The advisory lock stops a transaction at its *first* write only.
 *
 * Both are ENABLE ALWAYS, so that a session that sets session_replication_role = replica is stopped, too. The apply
 * worker fires no statement trigger for row changes. An applied TRUNCATE does fire it: the function knows an apply
 * worker by pg_stat_subscription and lets it through.
 */
export const FENCE_TRIGGER = '_verdigris_fence';
export const TRUNCATE_TRIGGER = '_verdigris_fence_truncate';

/** How long the fence of one table may make its writers wait, in one try. */
const TRY_MS = 100;

/** The table's lock keeps its writers waiting: a worker that freezes while it holds it is ended by the server. */
const SHORT_TRANSACTION = `SET LOCAL idle_in_transaction_session_timeout = '1s'`;

/** How long to go on trying for one table before people are told who is in the way. */
const ARM_FOR_MS = 15_000;

/**
 * Arms tables one by one, each in a transaction of its own. CREATE TRIGGER waits for the running writers of its table,
 * so when this returns, every open transaction that has written has passed the fence and holds its lock.
 *
 * @throws VerdigrisError PromotionBlocked, naming who holds the lock, when a table can't be armed within `forMs`.
 */
export async function armFence(
  session: Session,
  tables: readonly TableName[],
  options: { readonly signal?: AbortSignal; readonly forMs?: number; readonly guard?: RouteGuard } = {},
): Promise<void> {
  const { signal, forMs = ARM_FOR_MS, guard } = options;
  await eachTable(session, tables, signal, async (table, briefLock) => {
    const state = await fenceState(session, table);
    if (state === 'armed') return;
    try {
      const statements = state === 'absent' ? armTable(table) : rearmTable(table);
      await briefLock(...changed(session, table, guard, statements), { forMs, signal });
    } catch (error) {
      const isOther = error instanceof VerdigrisError && error.type !== 'LockNotHad';
      if (signal?.aborted === true || isOther || isConnectionLost(error)) throw error;
      throw await notArmed(session, table, error);
    }
  });
  await rememberArmed(session, tables);
}

/** One table after the other, on a session that is made ready for short locks once. */
async function eachTable<Table extends TableName>(
  session: Session,
  tables: readonly Table[],
  signal: AbortSignal | undefined,
  work: (table: Table, briefLock: BriefLock) => Promise<void>,
): Promise<void> {
  if (tables.length === 0) return;
  await briefLocks(
    session,
    async (briefLock) => {
      for (const table of tables) {
        signal?.throwIfAborted();
        await work(table, briefLock);
      }
    },
    // A longer one keeps no writer waiting: see haveAutovacuumYield().
    { tryMs: TRY_MS, longestMs: Infinity },
  );
}

/** What briefLock() does to change a table's fence: what it is, for people, and a transaction. */
function changed(
  session: Session,
  table: TableName,
  guard: RouteGuard | undefined,
  statements: string,
): [string, (tryMs: number) => Promise<void>] {
  const change = (tryMs: number): Promise<void> =>
    inTransaction(session, async () => {
      await session.query(SHORT_TRANSACTION);
      if (tryMs > TRY_MS) await session.query(haveAutovacuumYield(table));
      await refuseOtherRoute(session, guard);
      await session.query(statements);
    });
  return [`the fence of ${formatTableName(table)}`, change];
}

/** A table that is dropped and made anew has no trigger: what was armed says that it should have one. */
async function rememberArmed(session: Session, tables: readonly TableName[]): Promise<void> {
  await session.query(
    `INSERT INTO verdigris.progress (run_id, step, object, state, done)
     SELECT run_id, '${ARMED_STEP}', side, $1, true FROM verdigris.owner
         ON CONFLICT (run_id, step, object) DO UPDATE SET state = excluded.state, updated_at = clock_timestamp()`,
    [JSON.stringify(tables)],
  );
}

const ARMED_STEP = 'fence armed';

/** The tables that were armed last by the run that owns the database, and are there. */
export async function readArmedBefore(session: Session): Promise<TableName[]> {
  if (!(await hasState(session))) return [];
  const { rows } = await session.query<{ state: readonly TableName[] }>(
    `SELECT p.state FROM verdigris.progress p JOIN verdigris.owner o USING (run_id) WHERE p.step = '${ARMED_STEP}'`,
  );
  const names = (rows[0]?.state ?? []).map((table) => ({ ...table, text: qualified(table) }));
  const { rows: there } = await session.query<{ name: string }>(
    'SELECT name FROM unnest($1::text[]) AS t (name) WHERE to_regclass(name) IS NOT NULL',
    [names.map(({ text }) => text)],
  );
  const known = new Set(there.map(({ name }) => name));
  return names.filter(({ text }) => known.has(text)).map(({ schema, name }) => ({ schema, name }));
}

async function notArmed(session: Session, table: TableName, error: unknown): Promise<VerdigrisError> {
  const what = `the fence can't be put on ${formatTableName(table)}`;
  const locked = error instanceof VerdigrisError;
  return new VerdigrisError({
    type: 'PromotionBlocked',
    message: locked
      ? `${what}: its lock is not to be had. ${await whoBlocks(session, table)}`
      : `${what}: ${messageOf(error)}`,
    nextStep: locked
      ? 'end that session or wait for it, then resume or approve again'
      : 'mend what the server says, such as an event trigger that refuses it, then resume or approve again',
    cause: error,
  });
}

/**
 * What must still be so while a table's fence is changed: a worker that was frozen and wakes up late finds another epoch
 * and changes nothing.
 */
export interface RouteGuard {
  readonly migration: string;
  readonly epoch: number;
  readonly writesOn: Side;
}

async function refuseOtherRoute(session: Session, guard: RouteGuard | undefined): Promise<void> {
  if (guard === undefined) return;
  const { rowCount } = await session.query(ROUTE_IS_STILL, [guard.migration, guard.writesOn, guard.epoch]);
  if (rowCount === 1) return;
  throw new VerdigrisError({
    type: 'StaleEpoch',
    message: `the route has moved on from epoch ${guard.epoch} with writes on ${guard.writesOn}: the fence is left as it is`,
    nextStep: 'nothing: whoever moved the route goes on',
  });
}

/** The statements that arm one table whose fence is missing or not ours. */
export function armTable(table: TableName): string {
  const t = qualified(table);
  return `
    DROP TRIGGER IF EXISTS ${ident(FENCE_TRIGGER)} ON ${t};
    DROP TRIGGER IF EXISTS ${ident(TRUNCATE_TRIGGER)} ON ${t};
    CREATE TRIGGER ${ident(FENCE_TRIGGER)} BEFORE INSERT OR UPDATE OR DELETE ON ${t}
      FOR EACH STATEMENT EXECUTE FUNCTION verdigris.fence_check();
    ALTER TABLE ONLY ${t} ENABLE ALWAYS TRIGGER ${ident(FENCE_TRIGGER)};
    CREATE TRIGGER ${ident(TRUNCATE_TRIGGER)} BEFORE TRUNCATE ON ${t}
      FOR EACH STATEMENT EXECUTE FUNCTION verdigris.fence_check();
    ALTER TABLE ONLY ${t} ENABLE ALWAYS TRIGGER ${ident(TRUNCATE_TRIGGER)};`;
}

/** The same for a table whose fence was switched off: a lock that readers don't mind, unlike that of DROP TRIGGER. */
export function rearmTable(table: TableName): string {
  const t = qualified(table);
  return `
    ALTER TABLE ONLY ${t} ENABLE ALWAYS TRIGGER ${ident(FENCE_TRIGGER)};
    ALTER TABLE ONLY ${t} ENABLE ALWAYS TRIGGER ${ident(TRUNCATE_TRIGGER)};`;
}

/** Waits for an autovacuum as another one would: writers don't queue behind that. While it is held, none begins. */
function haveAutovacuumYield(table: TableName): string {
  return `LOCK TABLE ONLY ${qualified(table)} IN SHARE UPDATE EXCLUSIVE MODE; SET LOCAL lock_timeout = ${TRY_MS}`;
}

type FenceState = 'armed' | 'disabled' | 'absent';

async function fenceState(session: Session, table: TableName): Promise<FenceState> {
  const { rows } = await session.query<{ triggers: number; enabled: number }>(
    `SELECT count(*)::int AS triggers,
            count(*) FILTER (WHERE tgenabled = 'A')::int AS enabled
       FROM pg_trigger
      WHERE tgrelid = to_regclass($1) AND tgname IN ('${FENCE_TRIGGER}', '${TRUNCATE_TRIGGER}')
        AND tgfoid = to_regprocedure('verdigris.fence_check()')`,
    [qualified(table)],
  );
  if (rows[0]?.triggers !== 2) return 'absent';
  return rows[0].enabled === 2 ? 'armed' : 'disabled';
}

/** Of the given tables, those whose fence is not in force (dropped, disabled, or never armed). */
export function unarmedTablesSql(tables: readonly TableName[]): string {
  return `
    SELECT name FROM unnest(ARRAY[${tables.map((table) => literal(qualified(table))).join(', ')}]::text[]) AS t (name)
     WHERE coalesce(to_regclass(name)::oid, 0) NOT IN (
             SELECT tgrelid FROM pg_trigger WHERE tgname = '${FENCE_TRIGGER}' AND tgenabled = 'A'
             INTERSECT
             SELECT tgrelid FROM pg_trigger WHERE tgname = '${TRUNCATE_TRIGGER}' AND tgenabled = 'A')`;
}

/**
 * Switches the fence's triggers off, so that writes no longer pay for them. DISABLE takes a lock that readers don't
 * mind; DROP, which stops them too, is left to the end of the run. A table whose lock is not to be had stays as it is: that
 * costs its writers something and does no harm.
 *
 * @param patience how long to go on trying for all of them together
 * @returns which tables are still armed, and who is in the way; null when none is
 */
export async function disarmFence(
  session: Session,
  guard: RouteGuard,
  { forMs = DISARM_FOR_MS, signal }: LockRetryOptions = {},
): Promise<string | null> {
  const deadline = performance.now() + forMs;
  const notHad: string[] = [];
  await eachTable(session, await readTriggers(session, 'enabled'), signal, async (table, briefLock) => {
    const statements = table.triggers.map(
      (name) => `ALTER TABLE ONLY ${qualified(table)} DISABLE TRIGGER ${ident(name)}`,
    );
    const left = Math.max(0, deadline - performance.now());
    try {
      await briefLock(...changed(session, table, guard, statements.join(';')), { forMs: left, signal });
    } catch (error) {
      if (!isLockNotHad(error)) throw error;
      notHad.push(error.what);
    }
  });
  const [first, ...others] = notHad;
  if (first === undefined) return null;
  return others.length === 0 ? first : `${first}; and ${others.length} more tables`;
}

/** How long to go on trying to disarm, ms. */
const DISARM_FOR_MS = 60_000;

/** Removes the fence's triggers. The lock stops readers as well, so each try is short. */
export async function dropFence(session: Session, signal?: AbortSignal): Promise<void> {
  await eachTable(session, await readTriggers(session, 'any'), signal, async (table, briefLock) => {
    const statements = table.triggers.map((name) => `DROP TRIGGER IF EXISTS ${ident(name)} ON ${qualified(table)}`);
    await briefLock(...changed(session, table, undefined, statements.join(';')), { signal });
  });
}

/**
 * Does what a closed fence would refuse, in the transaction that is open on the session: the fence's function is another one
 * in it until the work is done. Nobody else sees that: for all others the fence is in force, and no table is locked. When
 * the work throws, the transaction must be rolled back.
 */
export async function pastTheFence(session: Session, work: () => Promise<void>): Promise<void> {
  if (await isFenceOpen(session)) return work();
  const { rows } = await session.query<{ definition: string }>(
    `SELECT pg_get_functiondef('verdigris.fence_check()'::regprocedure) AS definition`,
  );
  const [{ definition } = { definition: '' }] = rows;
  await withoutEventTriggers(session, () => session.query(LET_THROUGH));
  await work();
  await withoutEventTriggers(session, () => session.query(definition));
}

const LET_THROUGH = `
  CREATE OR REPLACE FUNCTION verdigris.fence_check() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'`;

interface FencedTable extends TableName {
  /** Names of its triggers of the fence. */
  readonly triggers: readonly string[];
}

async function readTriggers(session: Session, which: 'enabled' | 'any'): Promise<FencedTable[]> {
  const { rows } = await session.query<FencedTable>(
    `SELECT n.nspname AS schema, c.relname AS name, array_agg(t.tgname::text ORDER BY t.tgname) AS triggers
       FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE t.tgname IN ('${FENCE_TRIGGER}', '${TRUNCATE_TRIGGER}') AND NOT t.tgisinternal
        AND ($1 OR t.tgenabled <> 'D')
      GROUP BY 1, 2 ORDER BY 1, 2`,
    [which === 'any'],
  );
  return rows;
}

/** Whether writes are let through: the flag alone, whatever the triggers. */
export async function isFenceOpen(session: Session): Promise<boolean> {
  const { rows } = await session.query<{ last_value: string }>('SELECT last_value FROM verdigris.fence');
  return Number(rows[0]?.last_value) === FENCE_OPEN;
}

/** Closes a side that takes no application writes: green before the promotion. Refused for an epoch that is over. */
export async function closeFence(session: Session, migration: string, epoch: number): Promise<void> {
  await session.query('SELECT verdigris.close_fence($1, $2)', [migration, epoch]);
}

/** The SQL that takes the fence's lock alone: returns when every transaction that has written has ended. */
export const TAKE_FENCE_LOCK = `SELECT pg_advisory_xact_lock(${FENCE_LOCK})`;
