import { randomBytes } from 'node:crypto';
import { open, readdir, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';

/**
 * Puts `text` in the place of a file, at once and whole: its reader may read it, or start, at any moment. Mode and owner
 * stay, so that whoever could read it still can. A name of its own for each draft: a worker that wakes up late must not
 * write into what another one is about to rename.
 *
 * @param options.newFileMode of a file that is not there yet; without it the file must be there.
 * @param options.syncFirst brings the text to the disk before it takes the file's place: after a crash of the machine
 *   there is the old text or the new one, never an empty file.
 * @returns what brings the change to the disk; a crash of the machine before it may bring the old text back.
 */
export async function replaceFile(
  path: string,
  text: string,
  options: { readonly newFileMode?: number; readonly syncFirst?: boolean } = {},
): Promise<() => Promise<void>> {
  const { newFileMode, syncFirst = false } = options;
  const before = await stat(path).catch((error: unknown) => {
    if (newFileMode !== undefined && isAbsent(error)) return undefined;
    throw error;
  });
  const mode = before === undefined ? newFileMode : before.mode & 0o777;
  const draft = join(dirname(path), `${draftPrefix(path)}${randomBytes(6).toString('hex')}`);
  const handle = await open(draft, 'wx', mode);
  try {
    await handle.writeFile(text);
    if (mode !== undefined) await handle.chmod(mode);
    // Only root may give a file away; its reader shows whether it can still read it.
    if (before !== undefined) await handle.chown(before.uid, before.gid).catch(() => undefined);
    if (syncFirst) await handle.sync();
    await handle.close();
    await rename(draft, path);
  } catch (error) {
    await handle.close().catch(() => undefined);
    await rm(draft, { force: true });
    throw error;
  }
  return async () => {
    for (const written of [path, dirname(path)]) {
      const opened = await open(written);
      await opened.sync().finally(() => opened.close());
    }
  };
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
