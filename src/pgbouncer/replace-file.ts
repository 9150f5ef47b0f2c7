import { randomBytes } from 'node:crypto';
import { open, readdir, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';

/**
 * Puts `text` in the place of a file that is there, at once and whole: PgBouncer may read it, or start, at any moment.
 * Mode and owner stay, so that whoever could read it still can. A name of its own for each draft: a worker that wakes up
 * late must not write into what another one is about to rename.
 *
 * @returns what brings the change to the disk; a crash of the machine before it may bring the old text back.
 */
export async function replaceFile(path: string, text: string): Promise<() => Promise<void>> {
  const before = await stat(path);
  const draft = join(dirname(path), `${draftPrefix(path)}${randomBytes(6).toString('hex')}`);
  const handle = await open(draft, 'wx', before.mode & 0o777);
  try {
    await handle.writeFile(text);
    await handle.chmod(before.mode & 0o777);
    // Only root may give a file away; where it can't be done, RELOAD shows whether PgBouncer can still read it.
    await handle.chown(before.uid, before.gid).catch(() => undefined);
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
