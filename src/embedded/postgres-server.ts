import { spawn, type ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { chmodSync, closeSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { EmbeddedError } from './embedded-error.js';
import { freePort } from './free-port.js';
import { guard, release } from './guardian.js';
import { initializeCluster, serverEnvironment } from './postgres-initdb.js';
import { installPostgres, type PostgresVersion } from './postgres-binaries.js';
import { processesOf } from './process-tree.js';
import { endProcess, hasEnded, waitForEnd } from './process-end.js';
import { lastLines } from './last-lines.js';
import { makeScratchFolder, removeScratchFolder } from './scratch-folder.js';
import { serverUser, type ServerUser } from './server-user.js';

export interface PostgresOptions {
  readonly version: PostgresVersion;
  /** Settings of postgresql.conf beside or instead of the defaults. */
  readonly settings?: Readonly<Record<string, string>>;
  /** Part of the folder's name, for people who look at /tmp. Default: `pg<version>`. */
  readonly name?: string;
  /** The folder in which its own is made, such as one on another disk. Default: the one for temporary files. */
  readonly under?: string | undefined;
  /** Another way to a data directory than initdb: a copy of a cluster, such as a standby. */
  readonly cluster?: {
    /** The password of its superuser `postgres`. */
    readonly password: string;
    /** Fills the data directory, which is not there yet. */
    readonly fill: (dataDirectory: string, user: ServerUser | undefined) => Promise<void>;
  };
}

/** A PostgreSQL server of our own: it listens on 127.0.0.1, its superuser is `postgres`, stop() leaves nothing behind. */
export interface EmbeddedPostgres {
  readonly version: PostgresVersion;
  readonly port: number;
  readonly password: string;
  readonly dataDirectory: string;
  /** The server's log: for error messages and tests. */
  readonly logFile: string;
  /** Connection URI of the superuser. Default database: `postgres`. */
  uri(database?: string): string;
  /** Fast shutdown (then a harder one), and removal of all files. Safe to call again. */
  stop(): Promise<void>;
  /** Sends a signal to the postmaster, or to all its processes: SIGSTOP to all is a frozen machine. */
  kill(signal: NodeJS.Signals, whom?: 'postmaster' | 'all'): void;
  /** Starts the server again, on the same port and data, after a kill or instead of the one that runs. */
  restart(): Promise<void>;
}

const DEFAULT_SETTINGS: Readonly<Record<string, string>> = {
  listen_addresses: '127.0.0.1',
  unix_socket_directories: '',
  wal_level: 'logical',
  max_connections: '300',
  max_wal_senders: '40',
  max_replication_slots: '40',
  max_logical_replication_workers: '20',
  max_sync_workers_per_subscription: '4',
  max_worker_processes: '40',
  max_prepared_transactions: '10',
  shared_buffers: '128MB',
  autovacuum: 'on',
  // A feed that lost its connection comes back at once: the default of 5 s is longer than a stage of the demo.
  wal_retrieve_retry_interval: '500ms',
  // The locale "C" of initdb and a fixed zone make every machine behave alike.
  timezone: 'UTC',
  log_timezone: 'UTC',
};

/** Makes a new database cluster in a folder of its own and starts it. */
export async function startPostgres(options: PostgresOptions): Promise<EmbeddedPostgres> {
  const folder = makeScratchFolder(options.name ?? `pg${options.version}`, options.under);
  const user = serverUser();
  const password = options.cluster?.password ?? randomBytes(18).toString('base64url');
  const dataDirectory = join(folder, 'data');
  const logFile = join(folder, 'server.log');
  let child: ChildProcess;
  let port: number;

  try {
    const native = installPostgres(options.version, folder);
    if (options.cluster === undefined) await initializeCluster(native, folder, dataDirectory, password, user);
    else await options.cluster.fill(dataDirectory, user);
    const settings = { ...DEFAULT_SETTINGS, ...options.settings };
    const launch = (onPort: number): Promise<ChildProcess | 'port taken'> =>
      launchServer({ native, folder, dataDirectory, logFile, port: onPort, password, settings, user });
    ({ child, port } = await launchOnFreePort(launch));

    const stop = async (): Promise<void> => {
      // SIGINT: fast, SIGQUIT: immediate. A frozen server must go on before it can hear them.
      if (!hasEnded(child)) signalAll(child, 'SIGCONT');
      await endServer(child);
      removeScratchFolder(folder);
      if (child.pid !== undefined) release(child.pid);
    };

    return {
      version: options.version,
      port,
      password,
      dataDirectory,
      logFile,
      uri: (database = 'postgres') =>
        `postgres://postgres:${password}@127.0.0.1:${port}/${encodeURIComponent(database)}`,
      stop,
      kill: (signal, whom = 'postmaster') => {
        if (whom === 'all') signalAll(child, signal);
        else child.kill(signal);
      },
      restart: async () => {
        await endServer(child);
        if (child.pid !== undefined) release(child.pid);
        child = await relaunch(() => launch(port));
      },
    };
  } catch (error) {
    removeScratchFolder(folder);
    throw error;
  }
}

interface Launch {
  readonly native: string;
  readonly folder: string;
  readonly dataDirectory: string;
  readonly logFile: string;
  readonly port: number;
  readonly password: string;
  readonly settings: Readonly<Record<string, string>>;
  readonly user: ServerUser | undefined;
}

/** Starts the server and waits until it answers; says so when another process has the port. */
async function launchServer(launch: Launch): Promise<ChildProcess | 'port taken'> {
  const output = openSync(launch.logFile, 'w', 0o644);
  chmodSync(launch.logFile, 0o644);
  const child = spawn(
    join(launch.native, 'bin', 'postgres'),
    [
      ...['-D', launch.dataDirectory, '-p', String(launch.port)],
      ...Object.entries(launch.settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]),
    ],
    { cwd: launch.folder, env: serverEnvironment(), stdio: ['ignore', output, output], detached: true, ...launch.user },
  );
  closeSync(output);
  child.on('error', () => undefined);
  if (child.pid !== undefined) guard({ pid: child.pid, signal: 'SIGINT', graceMs: 10_000 });

  const deadline = Date.now() + 30_000;
  while (Date.now() < deadline && child.pid !== undefined && !hasEnded(child)) {
    if (await answers(launch.port, launch.password)) return child;
    await sleep(50);
  }
  await endServer(child);
  if (child.pid !== undefined) release(child.pid);
  const log = lastLines(launch.logFile);
  if (/could not bind|Address already in use/i.test(log)) return 'port taken';
  throw new EmbeddedError(
    `PostgreSQL did not start within 30 s:\n${log}`,
    'see the lines above; free disk space and shared memory are the usual causes',
  );
}

async function launchOnFreePort(
  launch: (port: number) => Promise<ChildProcess | 'port taken'>,
): Promise<{ child: ChildProcess; port: number }> {
  for (let attempt = 1; attempt <= 5; attempt++) {
    const port = await freePort();
    const child = await launch(port);
    if (child !== 'port taken') return { child, port };
  }
  throw new EmbeddedError(
    'PostgreSQL found every port taken that was free a moment before (5 tries)',
    'look for a program that opens ports on 127.0.0.1 all the time, then try again',
  );
}

/** After a crash, processes of the old server may hold its shared memory or its port for a moment. */
async function relaunch(launch: () => Promise<ChildProcess | 'port taken'>): Promise<ChildProcess> {
  for (let attempt = 1; ; attempt++) {
    try {
      const child = await launch();
      if (child !== 'port taken') return child;
    } catch (error) {
      if (attempt >= 10) throw error;
    }
    if (attempt >= 10) {
      throw new EmbeddedError('PostgreSQL can not have its port back', 'stop the program that has taken it');
    }
    await sleep(300);
  }
}

async function answers(port: number, password: string): Promise<boolean> {
  const client = new pg.Client({
    ...{ host: '127.0.0.1', port, password, user: 'postgres', database: 'postgres' },
    connectionTimeoutMillis: 2_000,
  });
  client.on('error', () => undefined);
  try {
    await client.connect();
    await client.query('SELECT 1');
    return true;
  } catch {
    return false;
  } finally {
    await client.end().catch(() => undefined);
  }
}

async function endServer(child: ChildProcess): Promise<void> {
  if (child.pid === undefined) return;
  const family = hasEnded(child) ? [] : processesOf(child.pid);
  await endProcess(child, [
    { signal: 'SIGINT', graceMs: 10_000 },
    { signal: 'SIGQUIT', graceMs: 5_000 },
    { signal: 'SIGKILL', graceMs: 5_000 },
  ]);
  if (child.signalCode === 'SIGKILL') for (const pid of family) signalOne(pid, 'SIGKILL');
  await waitForEnd(child, 1_000);
}

function signalAll(child: ChildProcess, signal: NodeJS.Signals): void {
  if (child.pid === undefined || hasEnded(child)) return;
  // Each backend is in a session of its own, so a signal to the process group would reach the postmaster only.
  for (const pid of [child.pid, ...processesOf(child.pid)]) signalOne(pid, signal);
}

function signalOne(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {
    // It ended between the look and the signal.
  }
}
