import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { initializeCluster } from '../../src/embedded/postgres-initdb.js';
import type { PostgresVersion } from '../../src/embedded/postgres-binaries.js';
import { startPostgres, type EmbeddedPostgres } from '../../src/embedded/postgres-server.js';

const run = promisify(execFile);

/** Where Debian's package libfaketime has it. */
const LIBFAKETIME = ['x86_64', 'aarch64']
  .map((machine) => `/usr/lib/${machine}-linux-gnu/faketime/libfaketime.so.1`)
  .find((path) => existsSync(path));

/** Why no clock can be shifted here; undefined where it can. */
export const NO_OTHER_CLOCK =
  LIBFAKETIME === undefined ? 'skipped: libfaketime is not installed (apt-get install libfaketime)' : undefined;

/** Variables by which a program sees another time of day; how long things take stays as it is. */
export function shiftedClock(by: string): Readonly<Record<string, string>> {
  return { LD_PRELOAD: LIBFAKETIME ?? '', FAKETIME: by, FAKETIME_DONT_FAKE_MONOTONIC: '1', FAKETIME_NO_CACHE: '1' };
}

export interface OddServerOptions {
  readonly version: PostgresVersion;
  readonly name: string;
  /** The server's clock against everybody else's, such as `+3600`, seconds. */
  readonly clock?: string;
  /** The data lies on a disk of its own of so many MB. Mounting one needs root. */
  readonly diskMb?: number;
}

const PASSWORD = 'odd-server';

/** The tests crash no machine, only processes, so nothing has to reach the disk. */
const SETTINGS = { fsync: 'off', full_page_writes: 'off', min_wal_size: '32MB', max_wal_size: '64MB' };

/** A server of a test's own whose clock or disk is not like others'. */
export async function startOddServer({ version, name, clock, diskMb }: OddServerOptions): Promise<EmbeddedPostgres> {
  let mounted: string | undefined;
  const unmount = async (): Promise<void> => {
    if (mounted !== undefined) await run('umount', ['-l', mounted]);
    mounted = undefined;
  };
  const server = await startPostgres({
    ...{ version, name, settings: SETTINGS },
    cluster: {
      password: PASSWORD,
      fill: async (dataDirectory, user) => {
        const folder = dirname(dataDirectory);
        const native = join(folder, 'native');
        if (diskMb === undefined) await initializeCluster(native, folder, dataDirectory, PASSWORD, user);
        else {
          const fresh = join(folder, 'fresh');
          await initializeCluster(native, folder, fresh, PASSWORD, user);
          mkdirSync(dataDirectory);
          const owner = user === undefined ? '' : `,uid=${user.uid},gid=${user.gid}`;
          await run('mount', ['-t', 'tmpfs', '-o', `size=${diskMb}m,mode=0700${owner}`, 'tmpfs', dataDirectory]);
          mounted = dataDirectory;
          await run('cp', ['-a', `${fresh}/.`, dataDirectory]);
          rmSync(fresh, { recursive: true });
        }
        if (clock !== undefined) seeAnotherTime(native, clock);
      },
    },
  });
  return { ...server, stop: () => server.stop().catch(unmount).then(unmount).then(server.stop) };
}

/** A wrapper takes the program's place: the server inherits nothing else from whoever starts it. */
function seeAnotherTime(native: string, clock: string): void {
  const program = join(native, 'bin', 'postgres');
  renameSync(program, `${program}-itself`);
  const variables = Object.entries(shiftedClock(clock)).map(([name, value]) => `${name}='${value}'`);
  writeFileSync(program, `#!/bin/sh\n${variables.join(' ')} exec '${program}-itself' "$@"\n`, { mode: 0o755 });
}

/** Whether a disk can be mounted here; says why not. */
export async function whyNoDisk(): Promise<string | undefined> {
  const folder = join('/tmp', `verdigris-mount-${process.pid}`);
  mkdirSync(folder);
  try {
    await run('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', folder]);
    await run('umount', [folder]);
    return undefined;
  } catch {
    return 'skipped: a small disk can be mounted by root only';
  } finally {
    rmSync(folder, { recursive: true });
  }
}
