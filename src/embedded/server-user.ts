import { readFileSync } from 'node:fs';
import { EmbeddedError } from './embedded-error.js';

/** The operating system's user that a server runs as. */
export interface ServerUser {
  readonly uid: number;
  readonly gid: number;
}

/**
 * PostgreSQL refuses to run as root. Whoever is root gets another user for it: `postgres` where there is one, else
 * `nobody`; everybody else runs it as themselves (undefined).
 */
export function serverUser(): ServerUser | undefined {
  if (process.getuid?.() !== 0) return undefined;
  const users = readFileSync('/etc/passwd', 'utf8').split('\n');
  for (const name of ['postgres', 'nobody']) {
    const [, , uid, gid] = users.find((line) => line.startsWith(`${name}:`))?.split(':') ?? [];
    if (uid !== undefined && gid !== undefined) return { uid: Number(uid), gid: Number(gid) };
  }
  throw new EmbeddedError(
    'PostgreSQL refuses to run as root, and this machine has neither a user "postgres" nor "nobody"',
    'make one of them, or run the command as a normal user',
  );
}
