import { chmodSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { guardFolder, releaseFolder } from './guardian.js';

/**
 * Makes an empty folder for files that live as long as the environment. Another user can reach it: a server that was
 * started by root runs as somebody else, and TMPDIR may lie in a home that only root may enter.
 *
 * @param under where it is made; default: the folder for temporary files
 */
export function makeScratchFolder(purpose: string, under?: string): string {
  const parent = under ?? temporaryFolder();
  const folder = mkdtempSync(join(parent, `verdigris-${purpose}-`));
  guardFolder(folder);
  chmodSync(folder, 0o755);
  return folder;
}

function temporaryFolder(): string {
  return [tmpdir(), '/tmp', '/var/tmp'].find((folder) => isReachableByOthers(folder)) ?? tmpdir();
}

/** Removes a scratch folder with all that is in it. A folder that is gone is fine. */
export function removeScratchFolder(folder: string): void {
  rmSync(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
  releaseFolder(folder);
}

/** Whether every folder down to this one lets other users pass. */
function isReachableByOthers(folder: string): boolean {
  try {
    const passable = (statSync(folder).mode & 0o001) !== 0;
    return passable && (dirname(folder) === folder || isReachableByOthers(dirname(folder)));
  } catch {
    return false;
  }
}
