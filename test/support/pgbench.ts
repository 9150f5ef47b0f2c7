import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** What a run of pgbench has seen, as its clients saw it. */
export interface PgbenchResult {
  readonly transactions: number;
  readonly failed: number;
  /** Latency of each transaction in microseconds, in the order of their ends. */
  readonly latencies: readonly number[];
}

export interface PgbenchOptions {
  readonly port: number;
  readonly user: string;
  readonly password: string;
  readonly database: string;
  /** The script that each client runs again and again. */
  readonly script: string;
  readonly clients: number;
  /** Transactions a second, of all clients together. */
  readonly rate: number;
}

const FOLDERS = ['/usr/lib/postgresql/15/bin', '/usr/lib/postgresql/16/bin', '/usr/lib/postgresql/17/bin', '/usr/bin'];

/** The program's path; undefined where it is not installed. */
export function findPgbench(): string | undefined {
  return FOLDERS.map((folder) => join(folder, 'pgbench')).find((path) => existsSync(path));
}

/** A run of pgbench: an application that neither knows of Verdigris nor tries anything again. */
export interface Pgbench {
  /** Everything that its clients have complained of so far; empty when all is well. */
  complaints(): string;
  /** Waits for its end, which is when its clients have lost their connections: it has no other one before its time. */
  result(): Promise<PgbenchResult>;
}

/** Begins a run. A client that meets an error ends, and that is in the complaints. */
export function startPgbench(options: PgbenchOptions): Pgbench {
  const program = findPgbench();
  if (program === undefined) throw new Error('pgbench is not installed');
  const folder = mkdtempSync(join(tmpdir(), 'verdigris-pgbench-'));
  writeFileSync(join(folder, 'script.sql'), options.script);
  const child = spawn(
    program,
    [
      ...['-h', '127.0.0.1', '-p', String(options.port), '-U', options.user, '-n', '-f', join(folder, 'script.sql')],
      ...['-c', String(options.clients), '-j', '1', '-T', '600', '-R', String(options.rate)],
      ...['-l', '--log-prefix', join(folder, 'log'), options.database],
    ],
    { cwd: folder, env: { ...process.env, PGPASSWORD: options.password }, stdio: ['ignore', 'ignore', 'pipe'] },
  );
  let complaints = '';
  child.stderr.on('data', (data) => (complaints += String(data)));
  const ended = once(child, 'close');
  return {
    complaints: () => complaints.replaceAll(/^pgbench \(.*\n/gm, '').trim(),
    result: async () => {
      await ended;
      const lines = readdirSync(folder)
        .filter((name) => name.startsWith('log'))
        .flatMap((name) => readFileSync(join(folder, name), 'utf8').split('\n'))
        .map((line) => line.split(' '))
        .filter((fields) => fields.length >= 6);
      rmSync(folder, { recursive: true, force: true });
      const failed = lines.filter((fields) => fields[2] === 'failed').length;
      return {
        transactions: lines.length - failed,
        failed,
        latencies: lines.filter((fields) => fields[2] !== 'failed').map((fields) => Number(fields[2])),
      };
    },
  };
}
