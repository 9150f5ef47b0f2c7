import type { Duplex } from 'node:stream';
import pg from 'pg';
import type { Side } from '../side.js';
import { VerdigrisError } from '../errors.js';
import {
  CANNOT_CONNECT_NOW,
  isConnectionLost,
  isOutOfRoom,
  isRefusedInRecovery,
  NO_RIGHT,
  READ_ONLY,
  sqlState,
  TOO_MANY_CONNECTIONS,
  UNKNOWN_DATABASE,
} from './sqlstate.js';
import { literal } from './identifier.js';
import { lastRow, refuseSharedConnection } from './shared-connection.js';
import { isInRecovery, TakesNoWrites } from './in-recovery.js';
import { knownSettings } from './known-settings.js';
import { INVALID_AUTHORIZATION, INVALID_PASSWORD, isRefusedLogin } from '../refused-login.js';
import { answerWithin, together } from '../timing.js';
import { tlsFault } from './tls-fault.js';

/** One of the two databases, as the worker reaches it. */
export interface Database {
  readonly side: Side;
  /** The plan's name of the connection: all that logs and errors may show. */
  readonly connection: string;
  /** As it is now: what a secret store has mounted since may be another password. */
  readonly config: pg.ClientConfig;
  /** libpq connection string by which the *other* server reaches this one. Holds the password: never log it. */
  readonly peerConninfo: string;
  /** Names of parameters of the connection's URI that the worker makes nothing of. */
  readonly ignoredParameters?: readonly string[];
}

/** How long a server may take to let a session in, ms. */
const CONNECT_WITHIN_MS = 10_000;

/** Both databases of a migration. */
export type Databases = Readonly<Record<Side, Database>>;

/** A connection of ours: pg.Client, closed by the caller. */
export type Session = pg.Client;

export interface SessionOptions {
  /** Shown in pg_stat_activity after `verdigris `, so that people see whose session it is. */
  readonly purpose: string;
  /** How long one of our statements may wait for a lock. Default 2 s: we are the victim, never the application. */
  readonly lockTimeoutMs?: number;
  /** Default 0: no limit. */
  readonly statementTimeoutMs?: number;
  /** The socket to use where the connection has no TLS. Default: one of pg's. */
  readonly socket?: () => Duplex;
  /**
   * How long the answer to a statement may take; then the connection is cut. A server that is frozen, or behind a network
   * that swallows packets, never answers. Only for short statements. Default: no limit.
   */
  readonly answerWithinMs?: number;
  /** Cuts the connection when it is aborted, whatever is waited for: only for what may break off anywhere. */
  readonly cutOn?: AbortSignal;
  /** How much later than that, ms: for statements that are told to end. Default: at once. */
  readonly cutAfterMs?: number;
}

/** For sessions of statements that are short, or wait for no longer than a lock: it is far more than any of them takes. */
export const SHORT_STATEMENTS = { answerWithinMs: 30_000 } as const;

/**
 * Opens a session with the settings that every session of ours has: commits are durable whatever the database's
 * default is, waits for locks are bounded, text forms and the reading of strings are fixed, names are resolved in pg_catalog only; they may write
 * where the default is read-only (a green that is kept from other writers); and they are READ COMMITTED. What is read
 * after a wait for a lock must be what is there then: at a higher level it would be what was there before the wait.
 *
 * @throws VerdigrisError ConnectionFailed, which names the connection, never its address or password.
 */
export async function openSession(database: Database, options: SessionOptions): Promise<Session> {
  const { cutOn, cutAfterMs = 0 } = options;
  cutOn?.throwIfAborted();
  const { config } = database;
  const client = new pg.Client({
    ...config,
    application_name: `verdigris ${options.purpose}`,
    connectionTimeoutMillis: config.connectionTimeoutMillis ?? CONNECT_WITHIN_MS,
    keepAlive: true,
    keepAliveInitialDelayMillis: 5_000,
    ...(options.socket === undefined || config.ssl ? {} : { stream: options.socket }),
  });
  // A lost connection is reported by the query that uses it; without a listener it would end the process.
  client.on('error', () => undefined);
  if (options.answerWithinMs !== undefined) cutWhenSilent(client, database.side, options.answerWithinMs);
  if (cutOn !== undefined) cutWhenAborted(client, cutOn, cutAfterMs);
  try {
    await unlessAborted(client.connect(), cutOn);
    const { pid, inRecovery } = await answerWithin(CONNECT_WITHIN_MS, setUp(client, database, options), () =>
      noAnswer(database.side, CONNECT_WITHIN_MS),
    );
    openedWith.set(client, { database, answerWithinMs: options.answerWithinMs, pid });
    // A primary that becomes a standby ends its sessions.
    if (inRecovery) tellRecovery(client, database);
    return client;
  } catch (error) {
    const closed = client.end().catch(() => undefined);
    cutOn?.throwIfAborted();
    await closed;
    throw error instanceof VerdigrisError ? error : connectionFailed(database, error);
  }
}

interface OpenedWith {
  readonly database: Database;
  readonly answerWithinMs: number | undefined;
  /** The server's process. */
  readonly pid: number;
}

const openedWith = new WeakMap<Session, OpenedWith>();

interface Backend {
  /** The server's process. */
  readonly pid: number;
  readonly inRecovery: boolean;
}

/**
 * Makes the session's settings, in one message. Where it is not at the server itself they are not made before it is known
 * that the connection is this session's alone: the next client of a pool would have them, such as our search_path.
 *
 * @throws VerdigrisError ConnectionFailed when clients share the connection.
 */
async function setUp(client: pg.Client, database: Database, options: SessionOptions): Promise<Backend> {
  const direct = await lastRow<Backend>(client, sessionSettings(options, toldProcess(client)));
  if (direct !== undefined) return direct;
  await refuseSharedConnection(client, database);
  const pooled = await lastRow<Backend>(client, sessionSettings(options, undefined));
  if (pooled === undefined) throw new Error('the settings of a session were not made');
  return pooled;
}

/** The process that the server has named at the login: a pooler names one that the server does not know. */
function toldProcess(client: pg.Client): number | undefined {
  return 'processID' in client && typeof client.processID === 'number' ? client.processID : undefined;
}

/** The server's process of a session, by which others cancel its statements and see whom it waits for. */
export function serverProcess(session: Session): number {
  return openedWith.get(session)?.pid ?? toldProcess(session) ?? 0;
}

/** Whether a session goes through something that speaks PostgreSQL's protocol itself, such as PgBouncer. */
export function isThroughPooler(session: Session): boolean {
  const told = toldProcess(session);
  return told !== undefined && told !== serverProcess(session);
}

/** Has each statement wait for its answer for so long at most. node-postgres' own limit leaves the connection as it is. */
function cutWhenSilent(client: pg.Client, side: Side, ms: number): void {
  const ask = client.query.bind(client) as (...statement: readonly unknown[]) => unknown;
  const query = (...statement: readonly unknown[]): unknown => {
    const answer = ask(...statement);
    if (!(answer instanceof Promise)) return answer;
    return answerWithin(ms, answer as Promise<unknown>, () => {
      client.end().catch(() => undefined);
      return noAnswer(side, ms);
    });
  };
  Object.assign(client, { query });
}

/** Has each statement that a server in recovery refuses fail with TakesNoWrites. */
function tellRecovery(client: pg.Client, database: Database): void {
  const ask = client.query.bind(client) as (...statement: readonly unknown[]) => unknown;
  const query = (...statement: readonly unknown[]): unknown => {
    const answer = ask(...statement);
    if (!(answer instanceof Promise)) return answer;
    return answer.catch((error: unknown) => {
      throw isRefusedInRecovery(error) ? noPrimary(database, error) : error;
    });
  };
  Object.assign(client, { query });
}

/** What a side is told by that is found to be in recovery, before it refuses anything. */
export function takesNoWrites(session: Session): TakesNoWrites {
  return noPrimary(howOpened(session).database);
}

/** @param error what the server has said to a statement. Default: nothing yet */
function noPrimary({ side, connection }: Database, error?: unknown): TakesNoWrites {
  return new TakesNoWrites(side, variableOf(connection), sqlState(error) ?? READ_ONLY, error);
}

function cutWhenAborted(client: pg.Client, signal: AbortSignal, afterMs: number): void {
  const cut = (): void => {
    // With a statement under way it does not wait for the server's goodbye.
    if (afterMs === 0) client.end().catch(() => undefined);
    else setTimeout(() => void client.end().catch(() => undefined), afterMs).unref();
  };
  signal.addEventListener('abort', cut, { once: true });
  client.on('end', () => signal.removeEventListener('abort', cut));
}

/** The promise's value, unless the signal is aborted before. */
async function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return promise;
  let onAbort = (): void => undefined;
  const aborted = new Promise<never>((_, reject) => {
    onAbort = () => reject(new Error('aborted'));
    signal.addEventListener('abort', onAbort, { once: true });
  });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}

/** A connection on which nothing comes back counts as lost. */
function noAnswer(side: Side, ms: number): Error {
  return Object.assign(new Error(`${side} did not answer within ${ms / 1_000} s: is it frozen, or the network cut?`), {
    code: 'ETIMEDOUT',
  });
}

/** Opens another session to the database of one that openSession() has opened, such as to see what that one waits for. */
export async function openBeside(session: Session, options: SessionOptions): Promise<Session> {
  const { database, answerWithinMs } = howOpened(session);
  return openSession(database, { ...(answerWithinMs === undefined ? {} : { answerWithinMs }), ...options });
}

function howOpened(session: Session): OpenedWith {
  const opened = openedWith.get(session);
  if (opened === undefined) throw new Error('this session was opened elsewhere');
  return opened;
}

/**
 * Opens a connection that speaks the replication protocol, for one database, to make slots. It takes plain statements too,
 * but no bound values, and finds names in pg_catalog only. Nothing that the server or the role has set may end it while it
 * waits or is idle.
 *
 * @throws VerdigrisError ConnectionFailed, also where the server is in recovery
 */
export async function openReplicationSession(database: Database, purpose: string): Promise<Session> {
  const { config } = database;
  const client = new pg.Client({
    ...config,
    application_name: `verdigris ${purpose}`,
    connectionTimeoutMillis: config.connectionTimeoutMillis ?? CONNECT_WITHIN_MS,
    keepAlive: true,
    keepAliveInitialDelayMillis: 5_000,
    ...{ replication: 'database' },
  });
  client.on('error', () => undefined);
  try {
    await client.connect();
    // One statement: before 15 a message of this protocol may have no more.
    await client.query(`${NO_TIMEOUTS} UNION ALL SELECT pg_catalog.set_config('search_path', 'pg_catalog', false)`);
    if (await isInRecovery(client)) throw noPrimary(database);
    return client;
  } catch (error) {
    await client.end().catch(() => undefined);
    if (error instanceof VerdigrisError) throw error;
    throw sqlState(error) === NO_RIGHT ? notForReplication(database, error) : connectionFailed(database, error);
  }
}

/** Switches off every timeout that this version of the server knows. */
export const NO_TIMEOUTS = `
  SELECT pg_catalog.set_config(name, '0', false) FROM ${knownSettings([
    ...['statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', 'idle_session_timeout'],
    ...['transaction_timeout', 'wal_sender_timeout'],
  ])}`;

/**
 * One message. Its own level comes first: by a default that is SERIALIZABLE, a standby would refuse the SELECT, and one
 * that is DEFERRABLE, too, would have it wait. And its own search_path: by one that the database has, a function or an
 * operator of anybody could be taken for that of pg_catalog.
 *
 * @param pid sets nothing in any other process of the server. Default: in whichever it is
 */
function sessionSettings({ lockTimeoutMs = 2_000, statementTimeoutMs = 0 }: SessionOptions, pid?: number): string {
  return `
  SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
  SET LOCAL search_path = pg_catalog;
  SELECT pg_catalog.pg_backend_pid() AS pid, pg_catalog.pg_is_in_recovery() AS "inRecovery",
         set_config('synchronous_commit',
                    CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' WHEN 'local' THEN 'on'
                         ELSE current_setting('synchronous_commit') END, false),
         set_config('lock_timeout', '${lockTimeoutMs}', false),
         set_config('statement_timeout', '${statementTimeoutMs}', false),
         set_config('idle_in_transaction_session_timeout', '0', false),
         set_config('default_transaction_read_only', 'off', false),
         set_config('default_transaction_isolation', 'read committed', false),
         set_config('default_transaction_deferrable', 'off', false),
         set_config('search_path', 'pg_catalog', false),
         set_config('DateStyle', 'ISO, YMD', false),
         set_config('IntervalStyle', 'postgres', false),
         set_config('TimeZone', 'UTC', false),
         set_config('bytea_output', 'hex', false),
         set_config('extra_float_digits', '1', false),
         set_config('client_min_messages', 'warning', false),
         set_config('row_security', 'off', false),
         set_config('standard_conforming_strings', 'on', false),
         -- Since 14 and 17: a server of any version must get as far as to tell which one it is.
         (SELECT count(set_config(name, '0', false)) FROM ${knownSettings(['idle_session_timeout', 'transaction_timeout'])})
   WHERE ${pid === undefined ? 'true' : `pg_catalog.pg_backend_pid() = ${pid}`}`;
}

/**
 * Gives a session of ours, on which nothing is open and nothing was set since, another purpose and its limits: to open
 * another one takes ten times as long.
 *
 * @param options without a socket, which a session has from its beginning
 */
export async function useAgain(session: Session, options: Omit<SessionOptions, 'socket'>): Promise<Session> {
  const { purpose, lockTimeoutMs = 2_000, statementTimeoutMs = 0, answerWithinMs, cutOn, cutAfterMs = 0 } = options;
  cutOn?.throwIfAborted();
  const { database, pid } = howOpened(session);
  const set = session.query(
    `SELECT set_config('application_name', ${literal(`verdigris ${purpose}`)}, false),
            set_config('lock_timeout', '${lockTimeoutMs}', false), set_config('statement_timeout', '${statementTimeoutMs}', false)`,
  );
  const answer = answerWithin(CONNECT_WITHIN_MS, set, () => noAnswer(database.side, CONNECT_WITHIN_MS));
  await unlessAborted(answer, cutOn);
  cutOn?.throwIfAborted();
  openedWith.set(session, { database, answerWithinMs, pid });
  if (answerWithinMs !== undefined) cutWhenSilent(session, database.side, answerWithinMs);
  if (cutOn !== undefined) cutWhenAborted(session, cutOn, cutAfterMs);
  return session;
}

/** Runs `work` with a session of its own and closes it whatever happens. */
export async function withSession<T>(
  database: Database,
  options: SessionOptions,
  work: (session: Session) => Promise<T>,
): Promise<T> {
  const session = await openSession(database, options);
  try {
    return await work(session);
  } finally {
    await closeSession(session);
  }
}

/** The same with one on each side, opened and closed at once. */
export async function withSessions<T>(
  databases: Databases,
  options: SessionOptions,
  work: (sessions: Readonly<Record<Side, Session>>) => Promise<T>,
): Promise<T> {
  const opening = [openSession(databases.blue, options), openSession(databases.green, options)] as const;
  try {
    const [blue, green] = await together(...opening);
    return await work({ blue, green });
  } finally {
    await Promise.all(opening.map((session) => session.then(closeSession, () => undefined)));
  }
}

/** Closes a session and never throws: a session that is already gone is closed. */
export async function closeSession(session: Session): Promise<void> {
  await Promise.race([
    session.end().catch(() => undefined),
    // A server that is frozen or cut off never answers the goodbye.
    new Promise((resolve) => setTimeout(resolve, 2_000).unref()),
  ]);
}

/** At the level that our waits for locks rely on, whatever the session's default has become. */
export const BEGIN_READ_COMMITTED = 'BEGIN ISOLATION LEVEL READ COMMITTED';

/**
 * Begins a transaction of several messages: a worker that freezes between two of them is ended by the server, and its locks
 * are in nobody's way any more when another worker does the same (a heartbeat is missed after 3 s at the earliest).
 */
export const BEGIN = `${BEGIN_READ_COMMITTED}; SET LOCAL idle_in_transaction_session_timeout = '3s'`;

/** Runs `work` in a transaction: COMMIT when it returns, ROLLBACK when it throws. */
export async function inTransaction<T>(session: Session, work: () => Promise<T>): Promise<T> {
  await session.query(BEGIN);
  try {
    const result = await work();
    await session.query('COMMIT');
    return result;
  } catch (error) {
    await session.query('ROLLBACK').catch(() => undefined);
    throw error;
  }
}

/**
 * A login of the worker that a server refuses. It waits for whoever mends it: a password that has been changed may be on the
 * worker's machine a little later.
 */
export class RefusedLogin extends VerdigrisError {}

function connectionFailed(database: Database, error: unknown): VerdigrisError {
  const state = sqlState(error);
  const known = mayLackTls(database, error) ? MAY_LACK_TLS : CONNECT_REASONS[state ?? ''];
  const reason = tlsFault(error) ?? known ?? wordsOf(error);
  const Failed = isRefusedLogin(state) ? RefusedLogin : VerdigrisError;
  return new Failed({
    type: 'ConnectionFailed',
    message: `${database.side}: the connection "${database.connection}" can't be opened: ${reason}${state === undefined ? '' : ` (${state})`}`,
    nextStep: nextStepFor(database, error),
    retryable: mayBeOpenedLater(error),
    cause: error,
  });
}

/** The preflight asks for the attribute; it may have been taken away since. */
function notForReplication(database: Database, cause: unknown): VerdigrisError {
  const { side, connection } = database;
  return new VerdigrisError({
    type: 'ConnectionFailed',
    message: `${side}: the connection "${connection}" can't be opened for replication: its user may not (42501)`,
    nextStep: `ALTER ROLE ... REPLICATION for that user on ${side} (on Amazon RDS: GRANT rds_replication)`,
    cause,
  });
}

/** As node-postgres says it, in words of the protocol. */
function lacksPassword(error: unknown): boolean {
  return error instanceof Error && /^SASL: .*client password must be a (non-empty )?string/.test(error.message);
}

/** What a server that wants TLS says as well. Without sslmode psql tries it, and node-postgres does not. */
function mayLackTls({ config }: Database, error: unknown): boolean {
  const isSocket = config.host?.startsWith('/') === true;
  return sqlState(error) === INVALID_AUTHORIZATION && !config.ssl && !isSocket;
}

const MAY_LACK_TLS =
  'the server does not let this user in (pg_hba.conf, NOLOGIN); this connection has no TLS, and the server may want it';

function nextStepFor(database: Database, error: unknown): string {
  const { side, connection } = database;
  const variable = variableOf(connection);
  if (isOutOfRoom(error)) return `give ${side} room for it (preflight check "connections")`;
  if (mayLackTls(database, error))
    return `where the server wants TLS, write ?sslmode=verify-full&sslrootcert=<file of its authority> into ${variable} where the worker runs, and restart it (docs/connections.md); else see that the server accepts it`;
  if (lacksPassword(error))
    return `write user and password into ${variable} where the worker runs, and restart it: postgres://user:password@host:port/database; a service file is not read`;
  if (sqlState(error) === 'ENOTFOUND')
    return `check the host in ${variable} where the worker runs; special characters in user and password are percent-encoded (@ is %40, / is %2F), else a part of them is taken for the host`;
  if (tlsFault(error) === undefined) return `check ${variable} where the worker runs, and that the server accepts it`;
  return `mend the certificate of ${side}, or the host, sslmode and sslrootcert of ${variable} where the worker runs, and restart it; if they are to stay so for the other server, write them into ${variable}_PEER`;
}

/**
 * A server that is down, cut off or full comes back; a login that it refuses may be mended. What is no answer of the server
 * (it has no SQLSTATE) says nothing against the connection, save a login that can't even be tried, such as without a
 * password. A certificate that is wrong may be mended.
 */
function mayBeOpenedLater(error: unknown): boolean {
  if (!(error instanceof pg.DatabaseError)) return !(error instanceof Error && error.message.startsWith('SASL'));
  if (isConnectionLost(error) || isOutOfRoom(error) || isRefusedLogin(error.code)) return true;
  return error.code?.startsWith('57') === true;
}

/** What has a code is told by it alone: the words of the system and of the server have addresses and names in them. */
function wordsOf(error: unknown): string {
  if (sqlState(error) !== undefined) return 'it was refused or lost';
  if (lacksPassword(error)) return 'the server asks for a password, and there is none';
  return error instanceof Error ? error.message : String(error);
}

const CONNECT_REASONS: Readonly<Record<string, string>> = {
  [INVALID_PASSWORD]: 'the password or the user is wrong',
  [INVALID_AUTHORIZATION]: 'the server does not let this user in (pg_hba.conf, NOLOGIN)',
  [UNKNOWN_DATABASE]: 'there is no such database',
  ECONNREFUSED: 'nothing listens at that address',
  ENOTFOUND: 'the host name is not known',
  ETIMEDOUT: 'no answer',
  [TOO_MANY_CONNECTIONS]:
    "all connections are taken: the server's max_connections, or the limit of this user or database",
  EAI_AGAIN: 'the name service does not answer',
  EHOSTUNREACH: 'no way leads to the host',
  ENETUNREACH: 'no way leads to its network',
  ECONNRESET: 'the connection was cut',
  EPIPE: 'the connection was cut',
  [CANNOT_CONNECT_NOW]: 'the server starts, stops or recovers',
};

function variableOf(connection: string): string {
  return `VERDIGRIS_CONNECTION_${connectionVariable(connection)}`;
}

/** `orders_blue` -> `ORDERS_BLUE`, as it stands in the name of the environment variable. */
export function connectionVariable(name: string): string {
  return name.toUpperCase().replaceAll(/[^A-Z0-9]/g, '_');
}
