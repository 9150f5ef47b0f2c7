import { execFile, spawn } from 'node:child_process';
import pg from 'pg';
import type { Database } from '../session.js';

/** The name by which pg_dump is seen on the server. */
export const DUMP_APPLICATION = 'verdigris schema copy';

/** A pg_dump program of this machine. */
export interface NativePgDump {
  readonly path: string;
  readonly major: number;
}

/** How long what a pg_dump has said of itself is taken for true, ms: a run needs three of it, and asking is a program of its own. */
const KNOWN_FOR_MS = 60_000;

let known: { readonly program: NativePgDump; readonly since: number } | undefined;

/** The pg_dump that VERDIGRIS_PG_DUMP names, or the one on PATH; undefined when there is none that runs. */
export async function findNativePgDump(): Promise<NativePgDump | undefined> {
  const named = process.env.VERDIGRIS_PG_DUMP;
  const path = named === undefined || named === '' ? 'pg_dump' : named;
  if (known?.program.path === path && performance.now() - known.since < KNOWN_FOR_MS) return known.program;
  const version = await new Promise<string>((resolve) => {
    execFile(path, ['--version'], { timeout: 10_000 }, (error, stdout) => resolve(error === null ? stdout : ''));
  });
  const major = /\(PostgreSQL\)\s+(\d+)/.exec(version)?.[1];
  if (major === undefined) return undefined;
  known = { program: { path, major: Number(major) }, since: performance.now() };
  return known.program;
}

/**
 * The environment by which libpq logs in as node-postgres does; undefined when it can't: certificates in memory and
 * passwords that a function gives are node-postgres' own.
 */
export function libpqEnvironment(database: Database): Record<string, string> | undefined {
  if (typeof database.config.password === 'function') return undefined;
  const client = new pg.Client(database.config);
  const ssl: unknown = client.ssl;
  if (typeof ssl === 'object' && ssl !== null && !onlySkipsVerification(ssl)) return undefined;
  if (ssl === true) return undefined;
  return {
    PGHOST: client.host,
    PGPORT: String(client.port),
    ...(client.user === undefined ? {} : { PGUSER: client.user }),
    ...(client.database === undefined ? {} : { PGDATABASE: client.database }),
    // The environment, never an argument: those are in the list of processes, for everybody to read.
    ...(typeof client.password === 'string' ? { PGPASSWORD: client.password } : {}),
    PGSSLMODE: typeof ssl === 'object' && ssl !== null ? 'require' : 'disable',
    PGCONNECT_TIMEOUT: '10',
    PGAPPNAME: DUMP_APPLICATION,
    // Green reads the dump in sessions of ours: backslashes in it must be what they are there.
    PGOPTIONS: '-c standard_conforming_strings=on',
  };
}

function onlySkipsVerification(ssl: object): boolean {
  return Object.entries(ssl).every(([name, value]) => name === 'rejectUnauthorized' && value === false);
}

/**
 * Runs pg_dump and returns what it writes.
 *
 * @param input its standard input
 * @throws what pg_dump says on its standard error.
 */
export async function runNativePgDump(
  program: NativePgDump,
  environment: Readonly<Record<string, string>>,
  args: readonly string[],
  input: string,
  signal?: AbortSignal,
): Promise<string> {
  signal?.throwIfAborted();
  // Nothing of ours may be mixed with the PG* variables that the worker happens to have.
  const inherited = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('PG')));
  return new Promise<string>((resolve, reject) => {
    const child = spawn(program.path, args, {
      env: { ...inherited, LC_ALL: 'C', ...environment },
      stdio: ['pipe', 'pipe', 'pipe'],
      ...(signal === undefined ? {} : { signal }),
    });
    const output: Buffer[] = [];
    const errors: Buffer[] = [];
    child.stdout.on('data', (chunk: Buffer) => output.push(chunk));
    child.stderr.on('data', (chunk: Buffer) => errors.push(chunk));
    // One that ends without reading it all says why by itself.
    child.stdin.on('error', () => undefined);
    child.stdin.end(input);
    child.once('error', (error) => reject(signal?.aborted === true ? signal.reason : error));
    child.once('close', (code, killedBy) => {
      if (code === 0) resolve(Buffer.concat(output).toString('utf8'));
      else reject(new Error(Buffer.concat(errors).toString('utf8').trim() || `pg_dump ended with ${code ?? killedBy}`));
    });
  });
}
