import { spawn, type ChildProcess } from 'node:child_process';
import { chmodSync, chownSync, closeSync, existsSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { delimiter, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { EmbeddedError } from './embedded-error.js';
import { freePort } from './free-port.js';
import { guard, release } from './guardian.js';
import { lastLines } from './last-lines.js';
import { serverEnvironment } from './postgres-initdb.js';
import { endProcess, hasEnded } from './process-end.js';
import { makeScratchFolder, removeScratchFolder } from './scratch-folder.js';
import { serverUser } from './server-user.js';

export interface PgBouncerOptions {
  /** The text of the included file: entries of `[databases]`. */
  readonly databases: string;
  /** Who may log in, with passwords; the servers behind must know them, too. */
  readonly users: Readonly<Record<string, string>>;
  /** Of these, who may use the admin console. */
  readonly adminUsers: readonly string[];
  /** Settings of `[pgbouncer]` beside or instead of the defaults. */
  readonly settings?: Readonly<Record<string, string>>;
  /** Part of the folder's name, for people who look at /tmp. Default: `pgbouncer`. */
  readonly name?: string;
}

/** A PgBouncer of our own: it listens on 127.0.0.1, and stop() leaves nothing behind. */
export interface EmbeddedPgBouncer {
  readonly port: number;
  /** The file that its configuration includes. */
  readonly file: string;
  readonly logFile: string;
  stop(): Promise<void>;
  kill(signal: NodeJS.Signals): void;
  /** Ends the process; restart() brings it back. */
  stopProcess(): Promise<void>;
  /** Starts it again, on the same port and configuration, instead of the one that runs or has run. */
  restart(): Promise<void>;
}

/** The program's path; undefined where PgBouncer is not installed. */
export function findPgBouncer(): string | undefined {
  const folders = [
    ...(process.env['PATH'] ?? '').split(delimiter),
    '/usr/sbin',
    '/usr/local/sbin',
    '/opt/homebrew/bin',
  ];
  return folders.map((folder) => join(folder, 'pgbouncer')).find((path) => existsSync(path));
}

/** Starts the PgBouncer that is installed on this machine. */
export async function startPgBouncer(options: PgBouncerOptions): Promise<EmbeddedPgBouncer> {
  const program = findPgBouncer();
  if (program === undefined) {
    throw new EmbeddedError('there is no program pgbouncer on this machine', 'install it: apt-get install pgbouncer');
  }
  const folder = makeScratchFolder(options.name ?? 'pgbouncer');
  // Like PostgreSQL, it refuses to run as root.
  const user = serverUser();
  const own = (path: string): string => {
    if (user !== undefined) chownSync(path, user.uid, user.gid);
    return path;
  };
  const write = (name: string, text: string): string => {
    writeFileSync(join(folder, name), text, { mode: 0o600 });
    return own(join(folder, name));
  };
  own(folder);
  const file = write('databases.ini', options.databases);
  const users = Object.entries(options.users).map(([name, password]) => `"${name}" "${password}"\n`);
  const userFile = write('users.txt', users.join(''));
  const logFile = join(folder, 'pgbouncer.log');

  const launch = async (port: number): Promise<ChildProcess> => {
    const settings = {
      listen_addr: '127.0.0.1',
      listen_port: String(port),
      unix_socket_dir: '',
      auth_type: 'scram-sha-256',
      auth_file: userFile,
      admin_users: options.adminUsers.join(','),
      pool_mode: 'transaction',
      max_client_conn: '200',
      ...options.settings,
    };
    const lines = Object.entries(settings).map(([key, value]) => `${key} = ${value}`);
    const config = write('pgbouncer.ini', `[databases]\n%include ${file}\n\n[pgbouncer]\n${lines.join('\n')}\n`);
    const output = openSync(logFile, 'a', 0o644);
    chmodSync(logFile, 0o644);
    const child = spawn(program, [config], {
      ...{ cwd: folder, env: serverEnvironment(), detached: true },
      stdio: ['ignore', output, output],
      ...user,
    });
    closeSync(output);
    child.on('error', () => undefined);
    if (child.pid !== undefined) guard({ pid: child.pid, signal: 'SIGINT', graceMs: 2_000 });
    const deadline = Date.now() + 10_000;
    while (Date.now() < deadline && !hasEnded(child)) {
      if (await listens(port)) return child;
      await sleep(10);
    }
    await end(child);
    throw new EmbeddedError(`PgBouncer did not start:\n${lastLines(logFile)}`, 'see the lines above');
  };

  try {
    const started = await onFreePort(launch, logFile);
    const { port } = started;
    let { child } = started;
    return {
      port,
      file,
      logFile,
      kill: (signal) => void child.kill(signal),
      stopProcess: () => end(child),
      stop: async () => {
        await end(child);
        removeScratchFolder(folder);
      },
      restart: async () => {
        await end(child);
        child = await launch(port);
      },
    };
  } catch (error) {
    removeScratchFolder(folder);
    throw error;
  }
}

async function onFreePort(
  launch: (port: number) => Promise<ChildProcess>,
  logFile: string,
): Promise<{ child: ChildProcess; port: number }> {
  for (let attempt = 1; ; attempt++) {
    const port = await freePort();
    try {
      return { child: await launch(port), port };
    } catch (error) {
      // Another program was quicker.
      if (attempt >= 5 || !/in use/i.test(readFileSync(logFile, 'utf8'))) throw error;
    }
  }
}

async function end(child: ChildProcess): Promise<void> {
  if (!hasEnded(child)) child.kill('SIGCONT');
  await endProcess(child, [
    { signal: 'SIGTERM', graceMs: 2_000 },
    { signal: 'SIGKILL', graceMs: 2_000 },
  ]);
  if (child.pid !== undefined) release(child.pid);
}

function listens(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host: '127.0.0.1', port });
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}
