import { formatTableName, type TableName } from '../plan/table-name.js';
import { VerdigrisError } from '../errors.js';
import { briefLocks, type BriefLock } from './brief-lock.js';
import { withoutEventTriggers } from './event-triggers.js';
import { ident, literal, qualified } from './identifier.js';
import { isLockNotHad } from './lock-watch.js';
import { whoBlocks } from './locks.js';
import { messageOf } from './migrate/step-failed.js';
import type { LockRetryOptions } from './retry.js';
import { BEGIN_READ_COMMITTED, type Session } from './session.js';
import type { Side } from '../side.js';
import { isConnectionLost, sqlState, STALE_EPOCH } from './sqlstate.js';
import { FENCE_LOCK, FENCE_OPEN, hasState } from './state.js';

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
/** For whoever meets them in `\d+`. */
const COMMENT = 'Verdigris: refuses writes on the side that does not have them, while a migration lasts';

/** How long the fence of one table may make its writers wait, in one try. */
const TRY_MS = 100;

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
  options: ArmingOptions = {},
): Promise<void> {
  const { signal, forMs = ARM_FOR_MS, guard, onArmed } = options;
  const states = await readFenceStates(session, tables);
  let armed = tables.filter((table) => states.get(table) === 'armed').length;
  const open = tables.filter((table) => states.get(table) !== 'armed');
  await eachTable(session, open, signal, async (table, briefLock) => {
    try {
      const state = states.get(table);
      const statements = state === 'absent' ? armTable(table) : rearmTable(table);
      await briefLock(...changed(session, table, guard, statements), { forMs, signal });
    } catch (error) {
      const isOther = error instanceof VerdigrisError && error.type !== 'LockNotHad';
      if (signal?.aborted === true || isOther || isConnectionLost(error)) throw error;
      throw await notArmed(session, table, error);
    }
    armed += 1;
    onArmed?.(armed, tables.length);
  });
  await rememberArmed(session, tables);
}

interface ArmingOptions {
  readonly signal?: AbortSignal | undefined;
  /** How long to go on trying for one table, ms. Default: ARM_FOR_MS. */
  readonly forMs?: number;
  readonly guard?: RouteGuard;
  /** Told how many of them are armed, after each one that was not. */
  readonly onArmed?: ((armed: number, of: number) => void) | undefined;
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

/**
 * What briefLock() does to change a table's fence: what it is, for people, and a transaction. It is one message: thousands of
 * tables may be far away, and no writer waits for a worker that freezes with the table's lock.
 */
function changed(
  session: Session,
  table: TableName,
  guard: RouteGuard | undefined,
  statements: string,
): [string, (tryMs: number) => Promise<void>] {
  const change = async (tryMs: number): Promise<void> => {
    const transaction = [
      BEGIN_READ_COMMITTED,
      ...(tryMs > TRY_MS ? [haveAutovacuumYield(table)] : []),
      ...(guard === undefined ? [] : [refuseOtherRoute(guard)]),
      statements,
      'COMMIT',
    ];
    try {
      await session.query(transaction.join('; '));
    } catch (error) {
      await session.query('ROLLBACK').catch(() => undefined);
      throw guard !== undefined && sqlState(error) === STALE_EPOCH ? routeHasMoved(guard, error) : error;
    }
  };
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

/** Until the transaction ends the route stays as it is. As in ROUTE_IS_STILL, where it raises nothing. */
function refuseOtherRoute({ migration, epoch, writesOn }: RouteGuard): string {
  return `
    DO $do$ BEGIN
      PERFORM FROM verdigris.route
        WHERE migration = ${literal(migration)} AND writes_on = ${literal(writesOn)} AND epoch = ${epoch} FOR SHARE;
      IF NOT FOUND THEN
        RAISE EXCEPTION 'verdigris: the route has moved on from epoch ${epoch}' USING ERRCODE = '${STALE_EPOCH}';
      END IF;
    END $do$`;
}

function routeHasMoved({ epoch, writesOn }: RouteGuard, cause: unknown): VerdigrisError {
  return new VerdigrisError({
    type: 'StaleEpoch',
    message: `the route has moved on from epoch ${epoch} with writes on ${writesOn}: the fence is left as it is`,
    nextStep: 'nothing: whoever moved the route goes on',
    cause,
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
    ALTER TABLE ONLY ${t} ENABLE ALWAYS TRIGGER ${ident(TRUNCATE_TRIGGER)};
    COMMENT ON TRIGGER ${ident(FENCE_TRIGGER)} ON ${t} IS '${COMMENT}';
    COMMENT ON TRIGGER ${ident(TRUNCATE_TRIGGER)} ON ${t} IS '${COMMENT}';`;
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

async function readFenceStates(
  session: Session,
  tables: readonly TableName[],
): Promise<ReadonlyMap<TableName, FenceState>> {
  const { rows } = await session.query<{ i: number; triggers: number; enabled: number }>(
    `SELECT i::int - 1 AS i, count(*)::int AS triggers, count(*) FILTER (WHERE tgenabled = 'A')::int AS enabled
       FROM unnest($1::text[]) WITH ORDINALITY AS t (name, i) JOIN pg_trigger ON tgrelid = to_regclass(name)
      WHERE tgname IN ('${FENCE_TRIGGER}', '${TRUNCATE_TRIGGER}')
        AND tgfoid = to_regprocedure('verdigris.fence_check()')
      GROUP BY 1`,
    [tables.map(qualified)],
  );
  const found = new Map(rows.map((row) => [row.i, row]));
  return new Map(tables.map((table, i) => [table, fenceState(found.get(i))]));
}

function fenceState(found: { readonly triggers: number; readonly enabled: number } | undefined): FenceState {
  if (found?.triggers !== 2) return 'absent';
  return found.enabled === 2 ? 'armed' : 'disabled';
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
 * @param patience how long to go on trying for all of them together; `restAfterMs`: when those that are left are left to
 * another time, since thousands of tables of a server that is far away take minutes. Default: never
 * @returns which tables are still armed, and who is in the way; null when none is
 */
export async function disarmFence(
  session: Session,
  guard: RouteGuard,
  { forMs = DISARM_FOR_MS, restAfterMs = Infinity, signal }: LockRetryOptions & { readonly restAfterMs?: number } = {},
): Promise<string | null> {
  const began = performance.now();
  const deadline = began + forMs;
  const notHad: string[] = [];
  let left = 0;
  await eachTable(session, await readTriggers(session, 'enabled'), signal, async (table, briefLock) => {
    if (performance.now() - began > restAfterMs) {
      left++;
      return;
    }
    const statements = table.triggers.map(
      (name) => `ALTER TABLE ONLY ${qualified(table)} DISABLE TRIGGER ${ident(name)}`,
    );
    const forThisMs = Math.max(0, deadline - performance.now());
    try {
      await briefLock(...changed(session, table, guard, statements.join(';')), { forMs: forThisMs, signal });
    } catch (error) {
      if (!isLockNotHad(error)) throw error;
      notHad.push(error.what);
    }
  });
  const [first, ...others] = notHad;
  const late = left === 0 ? [] : [`${left} tables have not had their turn`];
  if (first === undefined) return late[0] ?? null;
  return [others.length === 0 ? first : `${first}; and ${others.length} more tables`, ...late].join('; ');
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
