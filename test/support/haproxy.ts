import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { delimiter, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { freePort } from '../../src/embedded/free-port.js';
import { guard, release } from '../../src/embedded/guardian.js';
import { endProcess, hasEnded } from '../../src/embedded/process-end.js';
import { makeScratchFolder, removeScratchFolder } from '../../src/embedded/scratch-folder.js';
import type { Haproxy } from '../../src/haproxy/haproxy.js';
import { ask } from '../../src/haproxy/runtime-api.js';
import { serversOf } from '../../src/haproxy/shown.js';
import type { Side } from '../../src/side.js';

/** The program's path; undefined where HAProxy is not installed. */
export function findHaproxy(): string | undefined {
  const folders = [...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin', '/usr/local/sbin'];
  return folders.map((folder) => join(folder, 'haproxy')).find((path) => existsSync(path));
}

/** Ports of the databases behind. */
export type Ports = Readonly<Record<Side, number>>;

/** The configuration that docs/haproxy.md shows, for this machine. */
export function configOf({ blue, green }: Ports, listen: readonly string[] = ['balance roundrobin']): string {
  const check = 'check inter 200ms fall 2';
  return `  ${listen.join('\n  ')}
  server blue 127.0.0.1:${blue} weight 200 ${check}
  server green 127.0.0.1:${green} weight 0 ${check}
  server blue_again 127.0.0.1:${blue} backup ${check}
`;
}

/** A HAProxy of the test's own before two databases; stop() leaves nothing behind. */
export class TestHaproxy {
  #child: ChildProcess | undefined;
  /** Those that a reload has left behind with their connections. */
  readonly #leaving: ChildProcess[] = [];

  private constructor(
    readonly port: number,
    private readonly folder: string,
    /** What follows `listen reads` and `bind`: written anew before a restart() to change it. */
    public listen: string,
  ) {}

  static async start(listen: string): Promise<TestHaproxy> {
    for (let attempt = 1; ; attempt++) {
      const haproxy = new TestHaproxy(await freePort(), makeScratchFolder('haproxy'), listen);
      try {
        await haproxy.#launch();
        return haproxy;
      } catch (error) {
        await haproxy.stop();
        // Another program was quicker.
        if (attempt >= 5) throw error;
      }
    }
  }

  /** What stands in the worker's environment. */
  get uri(): string {
    return `unix:${this.socket}`;
  }

  get socket(): string {
    return join(this.folder, 'admin.sock');
  }

  /** Gives a command to its runtime API, as a person would. */
  ask(command: string): Promise<string> {
    const haproxy: Haproxy = { connection: 'test', address: { path: this.socket } };
    return ask(haproxy, command);
  }

  /** The weights in force: `200/0`. */
  async weights(): Promise<string> {
    const servers = serversOf(await this.ask('show servers state reads'));
    const of = (side: Side): number | undefined => servers.find(({ name }) => name === side)?.weight;
    return `${of('blue')}/${of('green')}`;
  }

  /** How many of so many new connections, one after the other, reach each side. */
  async shares(database: pg.ClientConfig, connections: number): Promise<Record<Side, number>> {
    const counted = { blue: 0, green: 0 };
    for (let i = 0; i < connections; i++) counted[await this.read(database)] += 1;
    return counted;
  }

  /** Which side a new connection reaches: blue is PostgreSQL 15, green is 18. */
  async read(database: pg.ClientConfig): Promise<Side> {
    const client = await this.connect(database);
    try {
      return await sideOf(client);
    } finally {
      await client.end().catch(() => undefined);
    }
  }

  async connect(database: pg.ClientConfig): Promise<pg.Client> {
    const client = new pg.Client({ ...database, port: this.port, connectionTimeoutMillis: 5_000 });
    client.on('error', () => undefined);
    await client.connect();
    return client;
  }

  /** Freezes it, or lets it go on. */
  kill(signal: NodeJS.Signals): void {
    this.#child?.kill(signal);
  }

  /** Ends the process at once, and those before it; restart() brings it back. */
  async stopProcess(): Promise<void> {
    const children = [...this.#leaving.splice(0), ...(this.#child === undefined ? [] : [this.#child])];
    this.#child = undefined;
    for (const child of children) {
      if (!hasEnded(child)) child.kill('SIGCONT');
      await endProcess(child, [{ signal: 'SIGKILL', graceMs: 2_000 }]);
      if (child.pid !== undefined) release(child.pid);
    }
  }

  /** Another process takes over from the one that runs, which goes on with the connections that it has. */
  async reload(): Promise<void> {
    const before = this.#child;
    if (before?.pid === undefined) throw new Error('HAProxy does not run');
    this.#leaving.push(before);
    await this.#launch('admin', ['-sf', String(before.pid)]);
    const isNew = new RegExp(`^Pid: ${this.#child?.pid}$`, 'm');
    while (!isNew.test(await this.ask('show info'))) await sleep(10);
  }

  /** @param level what its runtime API lets everybody do */
  async restart(level = 'admin'): Promise<void> {
    await this.stopProcess();
    await this.#launch(level);
  }

  async stop(): Promise<void> {
    await this.stopProcess();
    removeScratchFolder(this.folder);
  }

  async #launch(level = 'admin', more: readonly string[] = []): Promise<void> {
    const program = findHaproxy();
    if (program === undefined) throw new Error('haproxy is not installed');
    const config = join(this.folder, 'haproxy.cfg');
    writeFileSync(
      config,
      `global
  stats socket ${this.socket} mode 600 level ${level}
defaults
  mode tcp
  timeout connect 1s
  timeout client 1m
  timeout server 1m
  retries 2
  option redispatch 1
listen reads
  bind 127.0.0.1:${this.port}
${this.listen}`,
    );
    const child = spawn(program, ['-db', '-f', config, ...more], { stdio: 'ignore', detached: true });
    child.on('error', () => undefined);
    this.#child = child;
    if (child.pid !== undefined) guard({ pid: child.pid, signal: 'SIGKILL', graceMs: 1_000 });
    const deadline = Date.now() + 10_000;
    // The file of the socket may be an earlier process's, which was killed.
    while (!(await listens({ host: '127.0.0.1', port: this.port })) || !(await listens({ path: this.socket }))) {
      if (Date.now() > deadline || hasEnded(child))
        throw new Error(`HAProxy did not start:\n${readFileSync(config, 'utf8')}`);
      await sleep(10);
    }
  }
}

/** Which side a connection is on. */
export async function sideOf(client: pg.Client): Promise<Side> {
  const { rows } = await client.query<{ v: number }>("SELECT current_setting('server_version_num')::int AS v");
  return (rows[0]?.v ?? 0) < 160_000 ? 'blue' : 'green';
}

function listens(address: { host: string; port: number } | { path: string }): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(address);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}
