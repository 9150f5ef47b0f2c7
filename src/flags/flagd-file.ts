import { randomBytes } from 'node:crypto';
import { access, constants, open, readFile, rename, rm, stat, type FileHandle } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { VerdigrisError } from '../errors.js';
import { flagdJson, readWritten, type FlagState, type Written } from './flagd-flags.js';

/** flagd runs as another user as a rule, and there is no secret in the file. */
const MODE_OF_A_NEW_FILE = 0o644;

/**
 * Writes the file, whole or not at all: flagd keeps its last weights when it meets half a file, so a rollback that was
 * half written would silently not be applied. A file that the same run has written for a later route stays: a worker
 * that was frozen and wakes up late takes nothing back to an older stage.
 *
 * @throws VerdigrisError FlagsNotWritten when the file can't be written, or is not ours to replace.
 */
export async function writeFlagdFile(path: string, state: FlagState): Promise<'written' | 'later one is there'> {
  return explained(path, async () => {
    const there = await readOurs(path, state.route.migration);
    if (there !== undefined && isLater(there, state)) return 'later one is there';
    await replaceWhole(path, flagdJson(state));
    return 'written';
  });
}

/**
 * Whether the file could be written, by a look.
 *
 * @throws VerdigrisError FlagsNotWritten when it could not.
 */
export async function refuseUnwritable(path: string, migration: string): Promise<void> {
  await explained(path, async () => {
    await access(dirname(path), constants.W_OK | constants.X_OK);
    await readOurs(path, migration);
  });
}

async function explained<T>(path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof VerdigrisError) throw error;
    throw notWritten(path, `(${codeOf(error)})`, 'see whether the worker may write in its folder', true, error);
  }
}

/** What the file says about itself; undefined where there is none yet. */
async function readOurs(path: string, migration: string): Promise<Written | undefined> {
  const there = await textOf(path);
  if (there === undefined || there.trim() === '') return undefined;
  const before = readWritten(there);
  if (before === undefined || before.migration !== migration) {
    const whose = before === undefined ? 'holds what is not ours' : `belongs to the migration ${before.migration}`;
    throw notWritten(path, `: it ${whose}`, 'give this migration a file of its own, or remove the old one', false);
  }
  return before;
}

function isLater(there: Written, { run, route }: FlagState): boolean {
  if (there.run !== run || there.epoch < route.epoch) return false;
  return there.epoch > route.epoch || there.generation > route.generation;
}

/** A name of its own for each draft: two workers must not write into one. */
async function replaceWhole(path: string, text: string): Promise<void> {
  const before = await stat(path).catch(absent);
  const mode = before === undefined ? MODE_OF_A_NEW_FILE : before.mode & 0o777;
  const draft = join(dirname(path), `.${basename(path)}.verdigris-${randomBytes(6).toString('hex')}`);
  const handle = await open(draft, 'wx', mode);
  try {
    await handle.writeFile(text);
    await handle.chmod(mode);
    // Only root may give a file away.
    if (before !== undefined) await handle.chown(before.uid, before.gid).catch(() => undefined);
    // Before the rename: after a crash of the machine there is the old file or the new one, never an empty one.
    await handle.sync();
    await handle.close();
    await rename(draft, path);
  } catch (error) {
    await handle.close().catch(() => undefined);
    await rm(draft, { force: true });
    throw error;
  }
  const folder: FileHandle = await open(dirname(path));
  // Some file systems can't sync a folder; the file is in its place in any case.
  await folder.sync().catch(() => undefined);
  await folder.close();
}

async function textOf(path: string): Promise<string | undefined> {
  return readFile(path, 'utf8').catch(absent);
}

function absent(error: unknown): undefined {
  if (codeOf(error) === 'ENOENT') return undefined;
  throw error;
}

function codeOf(error: unknown): string {
  return error instanceof Error && 'code' in error ? String(error.code) : 'unknown error';
}

function notWritten(path: string, why: string, nextStep: string, retryable: boolean, cause?: unknown): VerdigrisError {
  return new VerdigrisError({
    type: 'FlagsNotWritten',
    message: `the file for flagd, ${path}, could not be written ${why}`.replace(' :', ':'),
    nextStep,
    retryable,
    cause,
  });
}
