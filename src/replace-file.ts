import { randomBytes } from 'node:crypto';
import { open, readdir, readFile, readlink, realpath, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { giveTo } from './file-readers.js';

/**
 * Puts `text` in the place of a file, at once and whole: its reader may read it, or start, at any moment. Where the path is
 * a symbolic link, that stays, and the file that it leads to is replaced. The mode stays, and the owner and the group do
 * where this process may give them, so that whoever could read it still can. A name of its own for each draft: a worker
 * that wakes up late must not write into what another one is about to rename.
 *
 * @param options.newFileMode of a file that is not there yet; without it the file must be there.
 * @param options.syncFirst brings the text to the disk before it takes the file's place: after a crash of the machine
 *   there is the old text or the new one, never an empty file.
 * @param options.stillIs what the file must hold right before; something else is a ChangedMeanwhile, and the file stays.
 * @returns what brings the change to the disk; a crash of the machine before it may bring the old text back.
 * @throws ReadersLost where whoever reads the file could not any more: it stays as it is
 */
export async function replaceFile(
  path: string,
  text: string,
  options: { readonly newFileMode?: number; readonly syncFirst?: boolean; readonly stillIs?: string } = {},
): Promise<() => Promise<void>> {
  const { newFileMode, syncFirst = false, stillIs } = options;
  const file = await fileBehind(path);
  const before = await stat(file).catch((error: unknown) => {
    if (newFileMode !== undefined && isAbsent(error)) return undefined;
    throw error;
  });
  const draft = join(dirname(file), `${draftPrefix(file)}${randomBytes(6).toString('hex')}`);
  const handle = await open(draft, 'wx', 0o600);
  try {
    if (before === undefined) await handle.chmod(newFileMode ?? 0o600);
    else await giveTo(handle, before);
    await handle.writeFile(text);
    if (syncFirst) await handle.sync();
    await handle.close();
    if (stillIs !== undefined && (await readFile(file, 'utf8')) !== stillIs) throw new ChangedMeanwhile(path);
    await rename(draft, file);
  } catch (error) {
    await handle.close().catch(() => undefined);
    await rm(draft, { force: true });
    throw error;
  }
  return async () => {
    for (const written of [file, dirname(file)]) {
      const opened = await open(written);
      await opened.sync().finally(() => opened.close());
    }
  };
}

/** The file that a path leads to by symbolic links, whether or not it is there yet. */
export async function fileBehind(path: string): Promise<string> {
  try {
    return await realpath(path);
  } catch (error) {
    if (!isAbsent(error)) throw error;
    const target = await readlink(path).catch(() => undefined);
    return target === undefined ? path : fileBehind(resolve(await realpath(dirname(path)), target));
  }
}

/** Somebody else has written the file since it was read. */
class ChangedMeanwhile extends Error {
  override readonly name = 'ChangedMeanwhile';

  constructor(path: string) {
    super(`${path} has been changed by somebody else`);
  }
}

/** What this process does to a file that it changes, by its path: one change after the other. */
const changes = new Map<string, Promise<unknown>>();
/** Others change it now and then, not all the time. */
const CHANGE_TRIES = 10;

/**
 * Changes a file that other processes change as well: what they have written since it was read is changed, and not taken
 * back. Between the last look and the rename nothing keeps another process out: some microseconds.
 *
 * @param change makes the new text of the old one; may be asked several times, and what it throws ends it
 * @returns what brings the change to the disk, as replaceFile() does
 */
export function changeFile(path: string, change: (text: string) => string): Promise<() => Promise<void>> {
  const changed = (changes.get(path) ?? Promise.resolve()).then(() => changeNow(path, change));
  const over = changed.then(
    () => undefined,
    () => undefined,
  );
  changes.set(path, over);
  void over.then(() => {
    if (changes.get(path) === over) changes.delete(path);
  });
  return changed;
}

async function changeNow(path: string, change: (text: string) => string): Promise<() => Promise<void>> {
  for (let left = CHANGE_TRIES; ; left--) {
    const file = await fileBehind(path);
    const before = await readFile(file, 'utf8');
    const text = change(before);
    if (text === before) return () => Promise.resolve();
    await removeDrafts(file);
    try {
      return await replaceFile(file, text, { stillIs: before });
    } catch (error) {
      if (!(error instanceof ChangedMeanwhile) || left === 1) throw error;
    }
  }
}

export function isAbsent(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ENOENT';
}

/** Drafts that a killed worker has left, once they are so old that nobody is about to rename them. */
export async function removeDrafts(path: string, olderThanMs = 60_000): Promise<void> {
  for (const name of await readdir(dirname(path))) {
    if (!name.startsWith(draftPrefix(path))) continue;
    const draft = join(dirname(path), name);
    const left = await stat(draft).catch(() => undefined);
    if (left !== undefined && Date.now() - left.mtimeMs > olderThanMs) await rm(draft, { force: true });
  }
}

function draftPrefix(path: string): string {
  return `.${basename(path)}.verdigris-`;
}
