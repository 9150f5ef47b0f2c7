import { readFileSync, statfsSync } from 'node:fs';
import { cpus, platform, release, tmpdir, totalmem } from 'node:os';
import type { Bench } from './bench.js';
import { cores } from './options.js';
import { findProgram, runProgram } from './program.js';
import { withClient } from './servers.js';

/** What the figures hold for. */
export interface Machine {
  readonly cpu: string;
  readonly cores: number;
  readonly memoryBytes: number;
  readonly freeDiskBytes: number;
  readonly system: string;
  readonly node: string;
  readonly blue: string;
  readonly green: string;
  readonly pgcopydb: string | null;
  readonly pgDump: string | null;
}

export async function describeMachine(bench: Pick<Bench, 'servers' | 'signal'>): Promise<Machine> {
  const { bavail, bsize } = statfsSync(tmpdir());
  return {
    cpu: cpus()[0]?.model ?? 'unknown',
    cores: cores(),
    memoryBytes: totalmem(),
    freeDiskBytes: bavail * bsize,
    system: systemName(),
    node: process.version,
    blue: await serverVersion(bench.servers.blue.uri()),
    green: await serverVersion(bench.servers.green.uri()),
    pgcopydb: await versionOf('pgcopydb', bench.signal),
    pgDump: await versionOf('pg_dump', bench.signal, 15),
  };
}

function systemName(): string {
  try {
    const [, name] = /^PRETTY_NAME="(.*)"$/m.exec(readFileSync('/etc/os-release', 'utf8')) ?? [];
    return `${name ?? platform()}, kernel ${release()}`;
  } catch {
    return `${platform()} ${release()}`;
  }
}

async function serverVersion(uri: string): Promise<string> {
  return withClient(uri, async (client) => {
    const { rows } = await client.query<{ server_version: string }>('SHOW server_version');
    return rows[0]?.server_version ?? 'unknown';
  });
}

/** The version in what the program prints; null where it is not installed. */
async function versionOf(name: string, signal: AbortSignal, version?: number): Promise<string | null> {
  const program = findProgram(name, version);
  if (program === undefined) return null;
  const { output } = await runProgram(program, ['--version'], { signal });
  return /\b([0-9]+\.[0-9]+)/.exec(output)?.[1] ?? null;
}
