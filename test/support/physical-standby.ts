import { execFile } from 'node:child_process';
import { chmodSync, chownSync, copyFileSync, existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { promisify } from 'node:util';
import pg from 'pg';
import { startPostgres, type EmbeddedPostgres } from '../../src/embedded/postgres-server.js';
import type { ServerUser } from '../../src/embedded/server-user.js';

export interface StandbyOptions {
  readonly name: string;
  /** The physical slot on the primary that the standby uses: it is made here, and keeps the WAL that the copy needs. */
  readonly slot: string;
  /** `tool` is pg_basebackup; `files` needs no client tools. Default: the tool where there is one. */
  readonly by?: 'tool' | 'files';
  readonly settings?: Readonly<Record<string, string>>;
}

/** Makes a physical standby of an embedded server, which may be under load, and starts it. */
export async function startStandby(primary: EmbeddedPostgres, options: StandbyOptions): Promise<EmbeddedPostgres> {
  const tool = pgBasebackup(primary);
  const by = options.by ?? (tool === undefined ? 'files' : 'tool');
  return startPostgres({
    version: primary.version,
    name: options.name,
    ...(options.settings === undefined ? {} : { settings: options.settings }),
    cluster: {
      password: primary.password,
      fill: async (dataDirectory, user) => {
        if (by === 'tool' && tool !== undefined) await byTool(tool, primary, options.slot, dataDirectory, user);
        else await byFiles(primary, options.slot, dataDirectory);
        if (user !== undefined) chownTree(dataDirectory, user);
        chmodSync(dataDirectory, 0o700);
      },
    },
  });
}

/** Where Debian has the client tools of a version. */
export function pgBasebackup(primary: EmbeddedPostgres): string | undefined {
  const path = `/usr/lib/postgresql/${primary.version}/bin/pg_basebackup`;
  return existsSync(path) ? path : undefined;
}

/** As an administrator would: -R writes standby.signal, primary_conninfo and primary_slot_name. */
async function byTool(
  tool: string,
  primary: EmbeddedPostgres,
  slot: string,
  dataDirectory: string,
  user: ServerUser | undefined,
): Promise<void> {
  // Its parent belongs to the server's user; the tool itself may run as anybody.
  mkdirSync(dataDirectory, { mode: 0o700 });
  if (user !== undefined) chownSync(dataDirectory, user.uid, user.gid);
  await promisify(execFile)(
    tool,
    [
      ...['-d', primary.uri('postgres'), '-D', dataDirectory],
      ...['-R', '-X', 'stream', '-c', 'fast', '-C', '-S', slot, '--no-sync'],
    ],
    { ...user, env: { LC_ALL: 'C', TZ: 'UTC' }, cwd: '/' },
  );
}

/** The same with SQL and a copy of the files. The session must stay open between start and stop. */
async function byFiles(primary: EmbeddedPostgres, slot: string, dataDirectory: string): Promise<void> {
  const client = new pg.Client(primary.uri());
  await client.connect();
  try {
    await client.query('SELECT pg_create_physical_replication_slot($1, true)', [slot]);
    await client.query(`SELECT pg_backup_start('test', true)`);
    copyData(primary.dataDirectory, dataDirectory, primary.dataDirectory);
    const { rows } = await client.query<{ labelfile: string }>('SELECT labelfile FROM pg_backup_stop(false)');
    writeFileSync(join(dataDirectory, 'backup_label'), rows[0]?.labelfile ?? '', { mode: 0o600 });
  } finally {
    await client.end();
  }
  writeFileSync(join(dataDirectory, 'standby.signal'), '', { mode: 0o600 });
  writeFileSync(
    join(dataDirectory, 'postgresql.auto.conf'),
    `primary_conninfo = 'host=127.0.0.1 port=${primary.port} user=postgres password=${primary.password}'\nprimary_slot_name = '${slot}'\n`,
    { mode: 0o600 },
  );
}

/** Folders whose contents must not be part of a base backup. Source: documentation, "Making a Base Backup". */
const LEFT_EMPTY = [
  'pg_wal',
  'pg_replslot',
  'pg_dynshmem',
  'pg_notify',
  'pg_serial',
  'pg_snapshots',
  'pg_stat_tmp',
  'pg_subtrans',
];

function copyData(from: string, to: string, root: string): void {
  mkdirSync(to, { mode: 0o700 });
  const inside = relative(root, from);
  if (LEFT_EMPTY.includes(inside)) {
    if (inside === 'pg_wal') mkdirSync(join(to, 'archive_status'), { mode: 0o700 });
    return;
  }
  for (const entry of readdirSync(from, { withFileTypes: true })) {
    if (entry.name === 'postmaster.pid' || entry.name === 'postmaster.opts') continue;
    if (entry.isDirectory()) copyData(join(from, entry.name), join(to, entry.name), root);
    else copyIfThere(join(from, entry.name), join(to, entry.name));
  }
}

/** Files come and go while the server runs: replay brings what is missing. */
function copyIfThere(from: string, to: string): void {
  try {
    copyFileSync(from, to);
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) throw error;
  }
}

function chownTree(folder: string, user: ServerUser): void {
  chownSync(folder, user.uid, user.gid);
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) chownTree(path, user);
    else chownSync(path, user.uid, user.gid);
  }
}
