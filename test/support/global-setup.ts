import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestProject } from 'vitest/node';
import { startPostgres, type EmbeddedPostgres } from '../../src/embedded/postgres-server.js';
import { findTemporalCli } from '../../src/embedded/temporal-cli.js';
import { startTemporal, type EmbeddedTemporal } from '../../src/embedded/temporal-server.js';

/* One PostgreSQL 15, one PostgreSQL 18 and one Temporal dev server for the whole run of the tests. */

/** Where a server that the run started is. */
export interface ProvidedPostgres {
  readonly port: number;
  readonly password: string;
}

export interface ProvidedTemporal {
  readonly address: string;
  readonly cliPath: string;
}

declare module 'vitest' {
  export interface ProvidedContext {
    pg15: ProvidedPostgres;
    pg18: ProvidedPostgres;
    temporal: ProvidedTemporal;
    /** Where the workflow code is kept, once a test has bundled it. */
    bundleFolder: string;
  }
}

let bundleFolder: string | undefined;
let servers: readonly (EmbeddedPostgres | EmbeddedTemporal)[] = [];

/** The tests crash no machine, only processes, so nothing has to reach the disk. */
const TEST_SETTINGS = { fsync: 'off', full_page_writes: 'off', max_wal_size: '2GB', checkpoint_timeout: '30min' };

/** Servers that somebody else runs, as JSON of RunningServers: many short runs of tests need not start their own. */
export const SERVERS_VARIABLE = 'VERDIGRIS_TEST_SERVERS';

export interface RunningServers {
  readonly pg15: ProvidedPostgres;
  readonly pg18: ProvidedPostgres;
  readonly temporal: ProvidedTemporal;
}

export async function setup(project: TestProject): Promise<void> {
  const given = process.env[SERVERS_VARIABLE];
  const running = given === undefined ? await startServers() : (JSON.parse(given) as RunningServers);
  project.provide('pg15', running.pg15);
  project.provide('pg18', running.pg18);
  project.provide('temporal', running.temporal);
  bundleFolder = mkdtempSync(join(tmpdir(), 'verdigris-test-bundle-'));
  project.provide('bundleFolder', bundleFolder);
}

/** Starts the servers of a run; teardown() ends them. */
export async function startServers(): Promise<RunningServers> {
  const cliPath = await findTemporalCli((line) => process.stdout.write(`${line}\n`));
  const started = await Promise.allSettled([
    startPostgres({ version: 15, settings: TEST_SETTINGS, name: 'test-pg15' }),
    startPostgres({ version: 18, settings: TEST_SETTINGS, name: 'test-pg18' }),
    startTemporal({ cliPath }),
  ]);
  const [pg15, pg18, temporal] = started;
  servers = started.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
  if (pg15.status === 'rejected' || pg18.status === 'rejected' || temporal.status === 'rejected') {
    await teardown();
    throw started.find((result) => result.status === 'rejected')?.reason;
  }
  return {
    pg15: { port: pg15.value.port, password: pg15.value.password },
    pg18: { port: pg18.value.port, password: pg18.value.password },
    temporal: { address: temporal.value.address, cliPath },
  };
}

export async function teardown(): Promise<void> {
  await Promise.all(servers.map((server) => server.stop()));
  servers = [];
  if (bundleFolder !== undefined) rmSync(bundleFolder, { recursive: true, force: true });
}
