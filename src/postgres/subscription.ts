import { setTimeout as sleep } from 'node:timers/promises';
import { VerdigrisError } from '../errors.js';
import type { TableName } from '../plan/table-name.js';
import { briefLock } from './brief-lock.js';
import { ident, literal } from './identifier.js';
import { partitionTree } from './partition-tree.js';
import { peerFailed } from './peer-failed.js';
import { lookUpTables } from './publication.js';
import { majorVersion, type LockRetryOptions } from './retry.js';
import { runSecretStatement } from './secret-statement.js';
import { inTransaction, type Database, type Session } from './session.js';
import { DUPLICATE_OBJECT, sqlState, UNIQUE_VIOLATION } from './sqlstate.js';
import { noteSubscribers } from './sync-slots.js';

export interface SubscriptionOptions {
  readonly name: string;
  /** How the subscriber's server reaches the publisher: holds the password, so it is kept out of the server's log. */
  readonly conninfo: string;
  /** Whether PostgreSQL copies the rows that are there (tablesync). */
  readonly copyData: boolean;
  readonly enabled: boolean;
  readonly publisherVersion: number;
  /**
   * A session on the publisher: its tables are looked up first, and it hears of the subscription, whose synchronization will
   * make slots there. Default: neither
   */
  readonly publisher?: Session;
  /** The publisher's database: a login that fails is told with the name of its connection, and without its address. */
  readonly peer?: Database;
  /** Tables that the publication has, or is to have later, beside those that `publisher` shows. Default: none */
  readonly tables?: readonly TableName[];
  /** Whether values come in binary form: only where every column has the same type on both sides (binary-feed.ts). */
  readonly binary?: boolean;
}

/**
 * Makes a subscription on a slot and a publication of its own name, unless it is there. The slot is made apart: were it
 * made here, a crash between the two servers would leave one that nobody knows of. So a try that is cancelled leaves
 * nothing on either server.
 *
 * @throws VerdigrisError LockNotHad (retryable), such as for one of the tables that it fills; ConnectionFailed (retryable)
 * when the subscriber's server can't reach the publisher
 */
export async function ensureSubscription(
  session: Session,
  options: SubscriptionOptions,
  patience?: LockRetryOptions,
): Promise<void> {
  const { name } = options;
  if (await isThere(session, name)) return;
  const shown = options.publisher === undefined ? [] : await lookUpTables(options.publisher, name, patience);
  const statement = await createSubscription(session, options, [...(options.tables ?? []), ...shown]);
  await briefLock(
    session,
    `CREATE SUBSCRIPTION ${name}`,
    async () => {
      // Between two tries another worker may have made it.
      if (await isThere(session, name)) return;
      await inTransaction(session, async () => {
        await runSecretStatement(session, statement);
        if (shown.length > 0) await refuseOtherPublisher(session, name);
        // Its workers begin with the COMMIT.
        if (options.publisher !== undefined) await noteSubscribers(options.publisher, session, [name]);
        await session.query(`COMMENT ON SUBSCRIPTION ${ident(name)} IS 'Verdigris'`);
      });
    },
    patience,
  ).catch(async (error: unknown) => {
    // Another worker has made it between the look and the statement.
    if (DUPLICATE.has(sqlState(error) ?? '') && (await isThere(session, name))) return;
    throw options.peer === undefined ? error : peerFailed(error, options.peer);
  });
}

/**
 * A publication that is not there is a warning to PostgreSQL: the subscription is made all the same, with no table. So it is
 * where an address leads to another server than the publisher, such as `localhost`.
 *
 * @param name of a subscription that has been made to a publication with tables
 * @throws VerdigrisError ConnectionFailed (retryable)
 */
export async function refuseOtherPublisher(session: Session, name: string): Promise<void> {
  if ((await readSubscription(session, name))?.tables !== 0) return;
  throw new VerdigrisError({
    type: 'ConnectionFailed',
    message:
      "what is published has no table where the subscriber's server looks for it: the address by which that server reaches the other one leads to another server, or to another database",
    nextStep:
      'set the VERDIGRIS_CONNECTION_..._PEER of the database that is published from (docs/connections.md) where the worker runs, and restart the worker',
    retryable: true,
  });
}

/** The second where the other one was still to commit. */
const DUPLICATE: ReadonlySet<string> = new Set([DUPLICATE_OBJECT, UNIQUE_VIOLATION]);

/** The statement. It holds a password. */
async function createSubscription(
  session: Session,
  options: SubscriptionOptions,
  tables: readonly TableName[],
): Promise<string> {
  const version = await majorVersion(session);
  const settings = [
    'create_slot = false',
    `slot_name = ${literal(options.name)}`,
    `copy_data = ${String(options.copyData)}`,
    `enabled = ${String(options.enabled)}`,
    // Large transactions are sent while they run; in parallel where both sides can.
    `streaming = ${version >= 16 && options.publisherVersion >= 16 ? 'parallel' : 'on'}`,
    ...(options.binary === true ? ['binary = true'] : []),
    // A second belt against loops; the first is that the two directions are never both on.
    ...(version >= 16 && options.publisherVersion >= 16 ? ['origin = none'] : []),
    ...(version >= 16 && (await mustRunAsOwner(session, options.publisher, tables)) ? ['run_as_owner = true'] : []),
  ];
  return `CREATE SUBSCRIPTION ${ident(options.name)} CONNECTION ${literal(options.conninfo)}
    PUBLICATION ${ident(options.name)} WITH (${settings.join(', ')})`;
}

/**
 * Whether rows are to be applied as the owner of the subscription. PostgreSQL applies them as the owner of each table, so
 * that what belongs to it (CHECKs, domains, triggers) gets no rights of ours; but there are tables to which their owner can
 * apply nothing. Green gets blue's policies when it follows already: so both sides are asked.
 */
async function mustRunAsOwner(
  session: Session,
  publisher: Session | undefined,
  tables: readonly TableName[],
): Promise<boolean> {
  if (!(await bypassesRowSecurity(session))) return false;
  if (await shutOutOwners(session, tables)) return true;
  return publisher !== undefined && (await shutOutOwners(publisher, tables));
}

/** Whether no policy holds for the session's role, which will own the subscription. */
async function bypassesRowSecurity(session: Session): Promise<boolean> {
  const { rows } = await session.query<{ bypasses: boolean }>(
    'SELECT rolsuper OR rolbypassrls AS bypasses FROM pg_roles WHERE rolname = current_user',
  );
  return rows[0]?.bypasses === true;
}

/** Whether one of these tables is such that its owner can't apply rows to it here. */
async function shutOutOwners(session: Session, tables: readonly TableName[]): Promise<boolean> {
  const { rows } = await session.query<{ shut: boolean }>(
    `SELECT EXISTS (
       SELECT FROM jsonb_to_recordset($1::jsonb) AS t (schema text, name text)
         JOIN pg_namespace n ON n.nspname = t.schema
         JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.name AND c.relkind IN ('r', 'p')
        WHERE ${shutsOutItsOwner('c.oid')}) AS shut`,
    [JSON.stringify(tables)],
  );
  return rows[0]?.shut === true;
}

/**
 * A condition: to this table, or to a partition of it, the table's owner can't apply rows. It is under policies that hold for
 * that one (FORCE ROW LEVEL SECURITY, or a partition of somebody else), or that one may not write it: a partition that another
 * role has made, or a right that was taken from the owner.
 *
 * Source: TargetPrivilegesCheck() in PostgreSQL's worker.c asks for the partition, as the owner of the topmost parent.
 */
function shutsOutItsOwner(oid: string): string {
  const mayNot = ['INSERT', 'UPDATE', 'DELETE'].map(
    (right) => `NOT has_table_privilege(owned.relowner, part.oid, '${right}')`,
  );
  return `EXISTS (SELECT FROM pg_class owned CROSS JOIN LATERAL ${partitionTree('owned.oid')} tree JOIN pg_class part ON part.oid = tree.relid
                   WHERE owned.oid = ${oid}
                     AND (part.relrowsecurity AND (part.relforcerowsecurity OR NOT pg_has_role(owned.relowner, part.relowner, 'USAGE'))
                          OR ${mayNot.join(' OR ')}))`;
}

/**
 * Has the subscriptions of ours with a table to which its owner can't apply rows since, as by raw SQL of the plan, apply rows
 * as their owner, where that one bypasses policies. Nothing on 15, which knows no other way.
 *
 * @throws VerdigrisError LockNotHad (retryable)
 */
export async function runAsOwnerWhereNeeded(session: Session, patience?: LockRetryOptions): Promise<void> {
  if ((await majorVersion(session)) < 16 || !(await bypassesRowSecurity(session))) return;
  const { rows } = await session.query<{ name: string }>(
    `SELECT s.subname AS name FROM pg_subscription s
      WHERE s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND obj_description(s.oid, 'pg_subscription') = 'Verdigris' AND NOT s.subrunasowner
        AND EXISTS (SELECT FROM pg_subscription_rel r WHERE r.srsubid = s.oid AND ${shutsOutItsOwner('r.srrelid')})`,
  );
  for (const { name } of rows) await alter(session, name, 'SET (run_as_owner = true)', patience);
}

async function isThere(session: Session, name: string): Promise<boolean> {
  const { rowCount } = await session.query(
    `SELECT FROM pg_subscription
      WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND subname = $1`,
    [name],
  );
  return rowCount === 1;
}

export interface SubscriptionState {
  readonly enabled: boolean;
  /** Process of the leader apply worker; null while none runs. */
  readonly applyPid: number | null;
  /** Processes of any kind that work for it. */
  readonly workers: number;
  /** Tables whose first synchronization has not ended. */
  readonly tablesNotReady: number;
  readonly tables: number;
  /** Errors of apply and of first synchronization since the statistics began. */
  readonly errors: number;
}

/** The state of a subscription; undefined when there is none of that name in this database. */
export async function readSubscription(session: Session, name: string): Promise<SubscriptionState | undefined> {
  const { rows } = await session.query<{
    enabled: boolean;
    apply_pid: number | null;
    workers: number;
    not_ready: number;
    tables: number;
    errors: string;
  }>(
    `SELECT s.subenabled AS enabled,
            (SELECT min(w.pid) FROM pg_stat_subscription w WHERE w.subid = s.oid AND w.relid IS NULL) AS apply_pid,
            (SELECT count(w.pid)::int FROM pg_stat_subscription w WHERE w.subid = s.oid) AS workers,
            (SELECT count(*)::int FROM pg_subscription_rel r WHERE r.srsubid = s.oid AND r.srsubstate <> 'r') AS not_ready,
            (SELECT count(*)::int FROM pg_subscription_rel r WHERE r.srsubid = s.oid) AS tables,
            (SELECT coalesce(sum(e.apply_error_count + coalesce((to_jsonb(e) ->> 'sync_error_count')::bigint,
                                                                (to_jsonb(e) ->> 'sync_table_error_count')::bigint, 0)), 0)::text
               FROM pg_stat_subscription_stats e WHERE e.subid = s.oid) AS errors
       FROM pg_subscription s
      WHERE s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND s.subname = $1`,
    [name],
  );
  const row = rows[0];
  if (row === undefined) return undefined;
  return {
    enabled: row.enabled,
    applyPid: row.apply_pid,
    workers: row.workers,
    tablesNotReady: row.not_ready,
    tables: row.tables,
    errors: Number(row.errors),
  };
}

/** What PostgreSQL 18 counts where a change met no row, and 19 where that row was deleted a moment before. */
const MISSED = ['confl_update_missing', 'confl_delete_missing', 'confl_update_deleted'];

/**
 * How many changes have met no row on the subscriber since its counters began: they were left out. Not counted before
 * PostgreSQL 18. Of other conflicts, some stop the feed, and some are none between sides that took writes one after the other.
 */
export async function countMissed(session: Session, names: readonly string[]): Promise<number> {
  const { rows } = await session.query<{ missed: number }>(
    `SELECT coalesce(sum(n.value::numeric), 0)::float8 AS missed
       FROM pg_stat_subscription_stats e
       JOIN pg_subscription s ON s.oid = e.subid AND s.subname = ANY ($1::text[])
        AND s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
      CROSS JOIN LATERAL jsonb_each_text(to_jsonb(e)) AS n (key, value)
      WHERE n.key = ANY ($2::text[])`,
    [names, MISSED],
  );
  return rows[0]?.missed ?? 0;
}

/**
 * Has a subscription that is not enabled reach the publisher by this address: it may have been made with an older one.
 *
 * @throws VerdigrisError LockNotHad (retryable)
 */
export async function redirectSubscription(
  session: Session,
  name: string,
  conninfo: string,
  patience?: LockRetryOptions,
): Promise<void> {
  if ((await readSubscription(session, name))?.enabled !== false) return;
  const redirect = (): Promise<void> =>
    inTransaction(session, () =>
      runSecretStatement(session, `ALTER SUBSCRIPTION ${ident(name)} CONNECTION ${literal(conninfo)}`),
    );
  await briefLock(session, `ALTER SUBSCRIPTION ${name} CONNECTION`, redirect, patience);
}

/** @throws VerdigrisError LockNotHad (retryable) */
export async function enableSubscription(session: Session, name: string, patience?: LockRetryOptions): Promise<void> {
  const state = await readSubscription(session, name);
  if (state?.enabled === false) await alter(session, name, 'ENABLE', patience);
}

/**
 * The same, if a statement finds its one row in the transaction that enables it: a row that it locks stays as it is until
 * then.
 *
 * @returns whether it has found it
 * @throws VerdigrisError LockNotHad (retryable)
 */
export async function enableSubscriptionWhere(
  session: Session,
  name: string,
  condition: { readonly text: string; readonly values: readonly unknown[] },
  patience?: LockRetryOptions,
): Promise<boolean> {
  return alterWhere(session, name, 'ENABLE', condition, patience);
}

/** Where a subscription is that already, it stays so. @returns whether the condition holds */
async function alterWhere(
  session: Session,
  name: string,
  what: 'ENABLE' | 'DISABLE',
  condition: { readonly text: string; readonly values: readonly unknown[] },
  patience?: LockRetryOptions,
): Promise<boolean> {
  const change = (): Promise<boolean> =>
    inTransaction(session, async () => {
      const { rowCount } = await session.query(condition.text, [...condition.values]);
      if (rowCount !== 1) return false;
      const state = await readSubscription(session, name);
      if (state?.enabled === (what === 'DISABLE')) await session.query(`ALTER SUBSCRIPTION ${ident(name)} ${what}`);
      return true;
    });
  return briefLock(session, `ALTER SUBSCRIPTION ${name} ${what}`, change, patience);
}

/** Has a subscription stop, whether or not it is enabled. Its workers may still run: see disableSubscription(). */
export async function switchOffSubscription(
  session: Session,
  name: string,
  patience?: LockRetryOptions,
): Promise<void> {
  await alter(session, name, 'DISABLE', patience);
}

/**
 * Has values of a subscription come as text, if they come in binary form: its worker begins anew with what has not been
 * applied.
 *
 * @throws VerdigrisError LockNotHad (retryable)
 */
export async function takeAsText(session: Session, name: string, patience?: LockRetryOptions): Promise<void> {
  const { rowCount } = await session.query(
    `SELECT FROM pg_subscription
      WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND subname = $1 AND subbinary`,
    [name],
  );
  if (rowCount === 1) await alter(session, name, 'SET (binary = false)', patience);
}

async function alter(
  session: Session,
  name: string,
  what: 'ENABLE' | 'DISABLE' | 'SET (binary = false)' | 'SET (run_as_owner = true)',
  patience?: LockRetryOptions,
): Promise<void> {
  await briefLock(
    session,
    `ALTER SUBSCRIPTION ${name} ${what}`,
    () => session.query(`ALTER SUBSCRIPTION ${ident(name)} ${what}`),
    patience,
  );
}

export interface DisableOptions extends LockRetryOptions {
  /** How long the workers get to stop, ms. Default 30 s. */
  readonly stopWithinMs?: number;
}

/**
 * Disables a subscription and waits until its workers have really stopped: from then on nothing of this feed arrives.
 *
 * @returns false when a worker still runs after `stopWithinMs`.
 * @throws VerdigrisError LockNotHad (retryable)
 */
export async function disableSubscription(
  session: Session,
  name: string,
  options: DisableOptions = {},
): Promise<boolean> {
  const switchOff = (): Promise<boolean> => switchOffSubscription(session, name, options).then(() => true);
  return (await untilStopped(session, name, switchOff, options)) === 'stopped';
}

/**
 * The same, if a statement finds its one row in the transaction that disables it: a row that it locks stays as it is until
 * then. Otherwise it is left as it is.
 *
 * @throws VerdigrisError LockNotHad (retryable)
 */
export async function disableSubscriptionWhere(
  session: Session,
  name: string,
  condition: { readonly text: string; readonly values: readonly unknown[] },
  options: DisableOptions = {},
): Promise<Stopped> {
  const switchOff = (): Promise<boolean> => alterWhere(session, name, 'DISABLE', condition, options);
  return untilStopped(session, name, switchOff, options);
}

type Stopped = 'stopped' | 'still runs' | 'not so';

/** Switches a subscription off for as long as it is enabled, until it has stopped. @param switchOff false: it is left on */
async function untilStopped(
  session: Session,
  name: string,
  switchOff: () => Promise<boolean>,
  { stopWithinMs = 30_000 }: DisableOptions,
): Promise<Stopped> {
  const started = performance.now();
  for (;;) {
    const state = await readSubscription(session, name);
    if (state === undefined || (!state.enabled && state.workers === 0)) return 'stopped';
    if (state.enabled && !(await switchOff())) return 'not so';
    if (performance.now() - started > stopWithinMs) return 'still runs';
    await sleep(5);
  }
}

/**
 * The same for several, which stop side by side: all are switched off before the first one is waited for. In turn, since
 * each has limits of its own for the session's locks.
 */
export async function disableSubscriptions(
  session: Session,
  names: readonly string[],
  { stopWithinMs = 30_000, ...patience }: DisableOptions = {},
): Promise<boolean> {
  for (const name of names) {
    if ((await readSubscription(session, name))?.enabled === true) await switchOffSubscription(session, name, patience);
  }
  const until = performance.now() + stopWithinMs;
  for (const name of names) {
    if (!(await disableSubscription(session, name, { ...patience, stopWithinMs: until - performance.now() })))
      return false;
  }
  return true;
}

/**
 * Drops a subscription without touching its slot on the other side, which may be out of reach: drop that one there.
 *
 * @throws VerdigrisError LockNotHad (retryable)
 */
export async function dropSubscription(session: Session, name: string, patience?: LockRetryOptions): Promise<void> {
  if ((await readSubscription(session, name)) === undefined) return;
  await disableSubscription(session, name, patience);
  const drop = async (): Promise<void> => {
    await session.query(`ALTER SUBSCRIPTION ${ident(name)} SET (slot_name = NONE)`);
    await session.query(`DROP SUBSCRIPTION IF EXISTS ${ident(name)}`);
  };
  await briefLock(session, `DROP SUBSCRIPTION ${name}`, drop, patience);
}
