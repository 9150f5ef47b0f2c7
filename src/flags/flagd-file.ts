import { access, constants, readFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { VerdigrisError } from '../errors.js';
import { lostReaderOf, ReadersLost } from '../file-readers.js';
import { fileBehind, isAbsent, replaceFile } from '../replace-file.js';
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
    const sync = await replaceFile(path, flagdJson(state), { newFileMode: MODE_OF_A_NEW_FILE, syncFirst: true });
    // Some file systems can't sync a folder; the file is in its place in any case.
    await sync().catch(() => undefined);
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
    await access(dirname(await fileBehind(path)), constants.W_OK | constants.X_OK);
    await readOurs(path, migration);
    const lost = await lostReaderOf(path);
    if (lost?.isSure === true) throw new ReadersLost(lost);
  });
}

/** Whether there is a file that a run of this migration has written. */
export async function isWrittenFor(path: string, migration: string): Promise<boolean> {
  return readOurs(path, migration).then(
    (there) => there !== undefined,
    () => false,
  );
}

async function explained<T>(path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof VerdigrisError) throw error;
    if (error instanceof ReadersLost) throw notWritten(path, `: ${error.message}`, error.nextStep, true, error);
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

async function textOf(path: string): Promise<string | undefined> {
  return readFile(path, 'utf8').catch((error: unknown) => {
    if (isAbsent(error)) return undefined;
    throw error;
  });
}

function codeOf(error: unknown): string {
  return error instanceof Error && 'code' in error ? String(error.code) : 'unknown error';
}

/** The error of a file that could not be written. */
export function notWritten(
  path: string,
  why: string,
  nextStep: string,
  retryable: boolean,
  cause?: unknown,
): VerdigrisError {
  return new VerdigrisError({
    type: 'FlagsNotWritten',
    message: `the file for flagd, ${path}, could not be written ${why}`.replace(' :', ':'),
    nextStep,
    retryable,
    cause,
  });
}
