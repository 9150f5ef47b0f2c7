import { Socket } from 'node:net';
import pg from 'pg';
import { VerdigrisError } from '../errors.js';
import { ident } from '../postgres/identifier.js';
import { connectionVariable } from '../postgres/session.js';
import { isConnectionLost, sqlState } from '../postgres/sqlstate.js';
import { tlsFault } from '../postgres/tls-fault.js';
import type { PgBouncer } from './pgbouncer.js';
import { answerWithin } from '../timing.js';

/** A row of SHOW DATABASES. */
export interface ShownDatabase {
  readonly name: string;
  readonly host: string | null;
  readonly port: number;
  readonly database: string;
  /** As whom all its clients come; null: each as itself. */
  readonly forcedUser: string | null;
  readonly paused: boolean;
  /** Server connections of each of its pools, by its own setting or the general one. */
  readonly poolSize: number;
  /** So many more of each pool while clients wait for long. */
  readonly reservePool: number;
  /** Server connections of all its pools together; 0: no limit. */
  readonly maxConnections: number;
}

/** A row of SHOW POOLS. */
export interface ShownPool {
  readonly database: string;
  readonly user: string;
  readonly clientsWaiting: number;
  /** Server connections that a client can have. */
  readonly servers: number;
  /** Server connections that are logging in. */
  readonly serversInLogin: number;
}

/** How the connections of some entries are pooled. */
export interface PoolModes {
  readonly modes: readonly string[];
  /** Users whose own pools, which nobody uses now, are of sessions. */
  readonly sessionsOf: readonly string[];
}

/** What SHOW CLIENTS says of a client that does not replicate. */
const NO_REPLICATION: readonly string[] = ['', 'none'];

/** No answer of the console takes longer, but PAUSE's. */
const ANSWER_MS = 5_000;
const CONNECT_MS = 3_000;

/** The session has ended: the PgBouncer has, or the link to it. A new one may be had of one that was restarted. */
export class ConsoleLost extends VerdigrisError {}

/** It has refused a command, and the session goes on. */
export class ConsoleRefused extends VerdigrisError {}

/** A session with the admin console of one PgBouncer: simple commands, no SQL, no bound values. */
export class Console {
  /** The command before: one at a time. */
  #before: Promise<unknown> = Promise.resolve();

  private constructor(
    private readonly pooler: PgBouncer,
    private readonly client: pg.Client,
    private readonly socket: Socket,
  ) {}

  /**
   * @param options.migration whose worker it is, for others to see (withSessions). Default: only looks
   * @throws VerdigrisError ConnectionFailed; `retryable` when nothing is wrong with the user or the password.
   */
  static async open(pooler: PgBouncer, { migration }: { readonly migration?: string } = {}): Promise<Console> {
    const socket = new Socket();
    const client = new pg.Client({
      ...pooler.config,
      database: 'pgbouncer',
      application_name: applicationOf(migration),
      connectionTimeoutMillis: CONNECT_MS,
      keepAlive: true,
      stream: () => socket,
    });
    client.on('error', () => undefined);
    try {
      await client.connect();
      return new Console(pooler, client, socket);
    } catch (error) {
      socket.destroy();
      throw consoleFailed(pooler, error);
    }
  }

  async databases(): Promise<ShownDatabase[]> {
    const rows = await this.#show('DATABASES');
    return rows.map((row) => ({
      name: text(row['name']),
      host: row['host'] === null ? null : text(row['host']),
      port: Number(row['port']),
      database: text(row['database']),
      forcedUser: text(row['force_user']) || null,
      paused: Number(row['paused']) === 1,
      poolSize: Number(row['pool_size']),
      // By another name in later versions.
      reservePool: Number(row['reserve_pool'] ?? row['reserve_pool_size'] ?? 0),
      maxConnections: Number(row['max_connections'] ?? 0),
    }));
  }

  async pools(): Promise<ShownPool[]> {
    const rows = await this.#show('POOLS');
    return rows.map((row) => ({
      database: text(row['database']),
      user: text(row['user']),
      clientsWaiting: Number(row['cl_waiting']),
      servers: Number(row['sv_active']) + Number(row['sv_idle']) + Number(row['sv_used']) + Number(row['sv_tested']),
      serversInLogin: Number(row['sv_login']),
    }));
  }

  /** Who has come by which entry and is there now. */
  async clients(): Promise<{ readonly database: string; readonly user: string }[]> {
    const rows = await this.#show('CLIENTS');
    return rows.map((row) => ({ database: text(row['database']), user: text(row['user']) }));
  }

  /** Those of these migrations that have a session with the console: a worker of theirs is at it. */
  async withSessions(migrations: readonly string[]): Promise<string[]> {
    const rows = await this.#show('CLIENTS');
    const names = rows.map((row) => text(row['application_name']));
    return migrations.filter((migration) => {
      const name = applicationOf(migration);
      // With application_name_add_host there is an address behind it.
      return names.some((one) => one === name || one.startsWith(`${name} - `));
    });
  }

  /** Names of the users of its auth_file; later versions also have those that were looked up. */
  async users(): Promise<string[]> {
    return (await this.#show('USERS')).map((row) => text(row['name']));
  }

  /**
   * How connections of these entries are pooled: as the pools that somebody uses say, else their entry, else the general
   * setting. A pool stays when the last one has gone, and nobody has to be waited for then.
   */
  async poolModes(databases: readonly string[], general: string): Promise<PoolModes> {
    const [pools, entries] = [await this.#show('POOLS'), await this.#show('DATABASES')];
    const modes = databases.flatMap((name) => {
      const used = pools.filter((row) => text(row['database']) === name && isUsed(row));
      if (used.length > 0) return used.map((row) => text(row['pool_mode']));
      const own = entries.find((row) => text(row['name']) === name)?.['pool_mode'];
      return [own === null || own === undefined ? general : text(own)];
    });
    const unused = pools.filter((row) => databases.includes(text(row['database'])) && !isUsed(row));
    const ofSessions = unused.filter((row) => text(row['pool_mode']) === 'session');
    return { modes, sessionsOf: [...new Set(ofSessions.map((row) => text(row['user'])))] };
  }

  /**
   * Clients of these entries that replicate, in words: each keeps its server connection until it goes, whatever the pool's
   * mode. None before 1.23.
   */
  async replicating(databases: readonly string[]): Promise<string[]> {
    const rows = await this.#show('CLIENTS');
    return rows
      .filter((row) => databases.includes(text(row['database'])) && !NO_REPLICATION.includes(text(row['replication'])))
      .map((row) => {
        const known = [text(row['application_name']), text(row['addr'])].filter((part) => part !== '');
        return [`user "${text(row['user'])}"`, `${text(row['replication'])} replication`, ...known].join(', ');
      });
  }

  /** Process ids, on the database server, of the connections that clients hold now. */
  async busyBackends(databases: readonly string[]): Promise<number[]> {
    const rows = await this.#show('SERVERS');
    return rows
      .filter((row) => databases.includes(text(row['database'])) && text(row['state']).startsWith('active'))
      .map((row) => Number(row['remote_pid']))
      .filter((pid) => pid > 0);
  }

  /**
   * Whether all of it is paused or suspended, by a command without a name: no entry shows that. Looks only.
   *
   * @returns undefined where that is not to be seen
   */
  async isPausedAsAWhole(): Promise<boolean | undefined> {
    try {
      const state = new Map((await this.#show('STATE')).map((row) => [text(row['key']), text(row['value'])]));
      return state.get('active') === 'no';
    } catch (error) {
      if (error instanceof ConsoleRefused) return this.#refusesEveryPause();
      throw error;
    }
  }

  /**
   * Before 1.19 there is no SHOW STATE: the console itself can't be paused, and why it refuses that tells the same. In small
   * letters: no PAUSE of a move.
   */
  async #refusesEveryPause(): Promise<boolean | undefined> {
    try {
      await this.#command(`pause ${ident('pgbouncer')}`);
      return undefined;
    } catch (error) {
      if (!(error instanceof ConsoleRefused)) throw error;
      if (/already suspended\/paused/.test(error.message)) return true;
      return /cannot pause admin db/.test(error.message) ? false : undefined;
    }
  }

  /** Every setting, by its name. */
  async settings(): Promise<ReadonlyMap<string, string>> {
    return new Map((await this.#show('CONFIG')).map((row) => [text(row['key']), text(row['value'])]));
  }

  /** `1.18.0`; undefined where it can't be read. */
  async version(): Promise<string | undefined> {
    const [row] = await this.#show('VERSION');
    return /[0-9]+\.[0-9]+(\.[0-9]+)?/.exec(text(row?.['version']))?.[0];
  }

  /** Reads the configuration again. Before 1.25 it does not say whether that worked: look at what it shows then. */
  async reload(): Promise<void> {
    await this.#command('RELOAD');
  }

  /** Changes a setting until the next RELOAD. */
  async set(name: string, value: string): Promise<void> {
    await this.#command(`SET ${name} = '${value.replaceAll("'", "''")}'`);
  }

  /** Answers when no server connection of the entry is left, which may be never: the caller has the deadline. */
  async pause(database: string): Promise<void> {
    await this.#sent(`PAUSE ${ident(database)}`);
  }

  async resume(database: string): Promise<void> {
    try {
      await this.#command(`RESUME ${ident(database)}`);
    } catch (error) {
      // Somebody else was quicker.
      if (!(error instanceof ConsoleRefused && /is not paused/.test(error.message))) throw error;
    }
  }

  /** Ends it at once, even while it waits for an answer that never comes. */
  close(): void {
    this.client.end().catch(() => undefined);
    this.socket.destroy();
  }

  async #show(what: string): Promise<Record<string, unknown>[]> {
    return (await this.#command(`SHOW ${what}`)).rows;
  }

  #command(command: string): Promise<pg.QueryResult<Record<string, unknown>>> {
    const answer = this.#before.then(() => this.#ask(command));
    this.#before = answer.catch(() => undefined);
    return answer;
  }

  async #ask(command: string): Promise<pg.QueryResult<Record<string, unknown>>> {
    return answerWithin(ANSWER_MS, this.#sent(command), () => {
      this.socket.destroy();
      return new Error(`the console did not answer ${command.split(' ')[0] ?? ''} within ${ANSWER_MS} ms`);
    });
  }

  async #sent(command: string): Promise<pg.QueryResult<Record<string, unknown>>> {
    try {
      return await this.client.query<Record<string, unknown>>(command);
    } catch (error) {
      if (isRefusal(error)) throw consoleRefused(this.pooler, command, error);
      throw isConnectionLost(error) ? consoleLost(this.pooler, error) : error;
    }
  }
}

function applicationOf(migration: string | undefined): string {
  return migration === undefined ? 'verdigris pools' : `verdigris pools ${migration}`;
}

/** Whether nothing listens there: the process has ended, and reads its files again when it starts. */
export function isNotRunning(error: unknown): boolean {
  if (!(error instanceof VerdigrisError) || error.type !== 'ConnectionFailed') return false;
  const state = sqlState(error.cause);
  return state === 'ECONNREFUSED' || state === 'ENOENT';
}

function consoleFailed(pooler: PgBouncer, error: unknown): VerdigrisError {
  const state = sqlState(error);
  // The message of a socket's error holds the address.
  const words = error instanceof Error && !/^E[A-Z]+$/.test(state ?? '') ? error.message : 'no connection';
  const why = tlsFault(error) ?? words;
  return new VerdigrisError({
    type: 'ConnectionFailed',
    message: `the admin console of PgBouncer "${pooler.connection}" can't be opened: ${why}${state === undefined ? '' : ` (${state})`}`,
    nextStep: `see that it runs, that VERDIGRIS_CONNECTION_${connectionVariable(pooler.connection)} is right where the worker runs, and that its user is one of admin_users`,
    retryable: state === undefined || !state.startsWith('28'),
    cause: error,
  });
}

function consoleLost({ connection }: PgBouncer, cause: unknown): ConsoleLost {
  return new ConsoleLost({
    type: 'ConnectionFailed',
    message: `the session with the admin console of PgBouncer "${connection}" has ended`,
    nextStep: 'see that it runs, and that the worker reaches it',
    retryable: true,
    cause,
  });
}

/** The console refuses with the SQLSTATE of a session that is lost (08P01): only its severity tells one from the other. */
function isRefusal(error: unknown): error is pg.DatabaseError {
  return error instanceof pg.DatabaseError && error.severity === 'ERROR';
}

function consoleRefused({ connection }: PgBouncer, command: string, cause: pg.DatabaseError): ConsoleRefused {
  return new ConsoleRefused({
    type: 'ConnectionFailed',
    message: `PgBouncer "${connection}" refuses ${command.split(' ')[0] ?? ''}: ${cause.message}`,
    nextStep: 'see its log, and that the user of the connection is one of admin_users (stats_users is not enough)',
    cause,
  });
}

/** Whether a row of SHOW POOLS has clients, or a server connection that one holds. */
function isUsed(row: Record<string, unknown>): boolean {
  return ['cl_active', 'cl_waiting', 'sv_active'].some((column) => Number(row[column]) > 0);
}

function text(value: unknown): string {
  return typeof value === 'string' || typeof value === 'number' ? String(value) : '';
}
