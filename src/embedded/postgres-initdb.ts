import { spawn } from 'node:child_process';
import { chownSync, closeSync, mkdirSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { EmbeddedError } from './embedded-error.js';
import { lastLines } from './last-lines.js';
import type { ServerUser } from './server-user.js';

/** Makes a new database cluster whose superuser is `postgres`, and hands its files to the user that will run it. */
export async function initializeCluster(
  native: string,
  folder: string,
  dataDirectory: string,
  password: string,
  user: ServerUser | undefined,
): Promise<void> {
  const passwordFile = join(folder, 'password');
  writeFileSync(passwordFile, password, { mode: 0o600 });
  mkdirSync(dataDirectory, { mode: 0o700 });
  if (user !== undefined) for (const path of [folder, passwordFile, dataDirectory]) chownSync(path, user.uid, user.gid);
  const log = join(folder, 'initdb.log');
  const output = openSync(log, 'w');
  const child = spawn(
    join(native, 'bin', 'initdb'),
    [
      `--pgdata=${dataDirectory}`,
      '--username=postgres',
      '--auth=scram-sha-256',
      `--pwfile=${passwordFile}`,
      '--encoding=UTF8',
      '--locale=C',
      '--no-sync',
    ],
    { cwd: folder, env: serverEnvironment(), stdio: ['ignore', output, output], ...user },
  );
  closeSync(output);
  const failure = await new Promise<unknown>((resolve) => {
    child.once('error', resolve);
    child.once('exit', (code, signal) => resolve(code === 0 ? undefined : `exit ${code ?? signal}`));
  });
  rmSync(passwordFile);
  if (failure !== undefined) {
    throw new EmbeddedError(
      `initdb failed (${failure instanceof Error ? failure.message : String(failure)}):\n${lastLines(log)}`,
      'see the lines above; free disk space and shared memory are the usual causes',
      failure,
    );
  }
}

/** What the servers inherit: no PG* variable of the developer's shell may steer them. */
export function serverEnvironment(): NodeJS.ProcessEnv {
  return { PATH: process.env['PATH'] ?? '/usr/bin:/bin', LC_ALL: 'C', TZ: 'UTC' };
}
