import { statSync } from 'node:fs';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';

const isRoot = process.getuid?.() === 0;

/**
 * Options for a process that may not write what the tests have made: another user, where they run as root. Otherwise the
 * same one, for whom a folder without the right to write (`chmod 0555`) does.
 */
export const NOBODY: { readonly uid?: number; readonly gid?: number } = isRoot ? { uid: 65_534, gid: 65_534 } : {};

/** Whether such a process can read what it needs: Node.js, and the packages of this checkout. */
export const isNobodyServed =
  !isRoot || [process.execPath, fileURLToPath(new URL('../..', import.meta.url))].every(isOpenToOthers);

function isOpenToOthers(path: string): boolean {
  const above = dirname(path);
  return (statSync(path).mode & 0o001) !== 0 && (above === path || isOpenToOthers(above));
}
