import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { NotMeasured, type Bench } from './bench.js';
import { byHand, type ByHandTimes } from './by-hand.js';
import { BENCH_DATABASE, sizeOnDisk, type SizeOnDisk } from './data-set.js';
import { runMigration, type MigrationTimes } from './migration.js';
import { benchPlan, seedSteps } from './plan.js';
import { findProgram, runProgram } from './program.js';
import { withClient } from './servers.js';

/** One contestant in one round. */
export interface Measured {
  readonly seconds: number;
  readonly peakMemoryBytes: number | null;
  readonly size: SizeOnDisk;
  /** Of a run of Verdigris. */
  readonly migration?: MigrationTimes;
  /** Of the schema change by hand. */
  readonly byHand?: ByHandTimes;
}

export interface Contestant {
  readonly name: string;
  /**
   * Brings blue's rows to an empty green.
   *
   * @throws NotMeasured when it can't be done here.
   */
  measure(bench: Bench, round: number): Promise<Measured>;
}

/** Verdigris, or PostgreSQL's tablesync in its place in the same run. */
export function verdigris(method: 'copy' | 'tablesync', change: 'none' | 'seed'): Contestant {
  return {
    name: method === 'copy' ? 'Verdigris' : 'tablesync',
    measure: async (bench, round) => {
      const migrations = change === 'seed' ? seedSteps() : [];
      const name = `${change === 'seed' ? 'change' : 'copy'}-${method}-${round}`;
      const bootstrap = { method, ...(method === 'copy' ? { parallel: bench.options.jobs } : {}) };
      const migration = await runMigration(bench, benchPlan({ name, bootstrap, migrations }));
      const { seconds, memory, verification } = migration;
      if (verification !== undefined && verification.differing > 0) {
        throw new Error(`${verification.differing} rows differ after ${name}`);
      }
      return { seconds, peakMemoryBytes: memory?.family ?? null, migration, size: await greenSize(bench) };
    },
  };
}

/** `pgcopydb clone`, with the split of large tables that it offers: its fastest setting here. */
export const pgcopydb: Contestant = {
  name: 'pgcopydb clone',
  measure: async (bench) => {
    const { seconds, peakMemoryBytes } = await cloneWithPgcopydb(bench);
    return { seconds, peakMemoryBytes, size: await greenSize(bench) };
  },
};

/** pgcopydb, and then the seed's schema change as an engineer does it by hand. */
export const pgcopydbAndByHand: Contestant = {
  name: 'pgcopydb + by hand',
  measure: async (bench) => {
    const cloned = await cloneWithPgcopydb(bench);
    const times = await byHand(bench.servers.green.uri(BENCH_DATABASE), bench.signal);
    return {
      seconds: cloned.seconds + times.seconds,
      peakMemoryBytes: cloned.peakMemoryBytes,
      size: await greenSize(bench),
      byHand: times,
    };
  },
};

/** `pg_dump -Fd -j` to the disk without compression, then `pg_restore -j`, then ANALYZE. */
export const dumpAndRestore: Contestant = {
  name: 'pg_dump, pg_restore',
  measure: async (bench) => {
    const { servers, signal, options } = bench;
    const [dump, restore] = [findProgram('pg_dump', 15), findProgram('pg_restore', 15)];
    if (dump === undefined || restore === undefined) throw new NotMeasured('pg_dump and pg_restore are not installed');
    const folder = join(bench.folder, 'dump');
    rmSync(folder, { recursive: true, force: true });
    const since = performance.now();
    const [from, to] = [servers.blue.uri(BENCH_DATABASE), servers.green.uri(BENCH_DATABASE)];
    const jobs = ['-j', String(options.jobs)];
    const dumped = await runProgram(dump, ['-Fd', ...jobs, '-Z', '0', '-f', folder, ...connect(from)], {
      signal,
      env: passwordOf(from),
    });
    const restored = await runProgram(restore, ['--exit-on-error', ...jobs, ...connect(to), folder], {
      signal,
      env: passwordOf(to),
    });
    await withClient(to, (client) => client.query('ANALYZE'));
    const seconds = (performance.now() - since) / 1_000;
    rmSync(folder, { recursive: true, force: true });
    return {
      seconds,
      peakMemoryBytes: larger(dumped.peakMemoryBytes, restored.peakMemoryBytes),
      size: await greenSize(bench),
    };
  },
};

/** @throws NotMeasured where pgcopydb is not installed. */
export async function cloneWithPgcopydb(bench: Bench): Promise<{ seconds: number; peakMemoryBytes: number | null }> {
  const { servers, signal, options } = bench;
  const program = findProgram('pgcopydb');
  if (program === undefined) throw new NotMeasured('pgcopydb is not installed');
  const folder = join(bench.folder, 'pgcopydb');
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder);
  const args = [
    ...['clone', '--dir', join(folder, 'work'), '--split-tables-larger-than', '100MB'],
    ...['--table-jobs', String(options.jobs), '--index-jobs', String(options.jobs)],
  ];
  const env = {
    PGCOPYDB_SOURCE_PGURI: servers.blue.uri(BENCH_DATABASE),
    PGCOPYDB_TARGET_PGURI: servers.green.uri(BENCH_DATABASE),
    // Client programs that are not newer than itself: it runs the pg_dump that comes first on PATH.
    PATH: `/usr/lib/postgresql/15/bin:${process.env['PATH'] ?? ''}`,
  };
  const since = performance.now();
  const { peakMemoryBytes } = await runProgram(program, args, { signal, env });
  const seconds = (performance.now() - since) / 1_000;
  rmSync(folder, { recursive: true, force: true });
  return { seconds, peakMemoryBytes };
}

function greenSize(bench: Bench): Promise<SizeOnDisk> {
  return withClient(bench.servers.green.uri(BENCH_DATABASE), sizeOnDisk);
}

/** The address without its password, which would be in the list of processes. */
function connect(uri: string): string[] {
  const { hostname, port, username, pathname } = new URL(uri);
  return ['-h', hostname, '-p', port, '-U', username, '-d', pathname.slice(1)];
}

function passwordOf(uri: string): NodeJS.ProcessEnv {
  return { PGPASSWORD: decodeURIComponent(new URL(uri).password) };
}

function larger(a: number | null, b: number | null): number | null {
  return a === null || b === null ? (a ?? b) : Math.max(a, b);
}
