import {
  chmodSync,
  chownSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { lostReaderOf } from '../../src/file-readers.js';
import { writeFlagdFile } from '../../src/flags/flagd-file.js';
import { changeFile, replaceFile } from '../../src/replace-file.js';
import { asUser, isRoot } from '../support/as-user.js';

let folder: string;
let file: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'verdigris-replace-file-'));
  chmodSync(folder, 0o777);
  file = join(folder, 'databases.ini');
});

afterEach(() => rmSync(folder, { recursive: true, force: true }));

describe('a path that is a symbolic link', () => {
  let link: string;

  beforeEach(() => {
    mkdirSync(join(folder, 'links'));
    link = join(folder, 'links', 'orders');
    symlinkSync('../databases.ini', link);
  });

  const isLink = (): boolean => lstatSync(link).isSymbolicLink();

  it('stays one, and the file that it leads to is replaced', async () => {
    writeFileSync(file, 'one');
    const reachDisk = await replaceFile(link, 'two', { stillIs: 'one' });
    await reachDisk();
    await changeFile(link, (text) => `${text} three`);
    expect(readFileSync(file, 'utf8')).toBe('two three');
    expect(isLink()).toBe(true);
    expect(readdirSync(folder).sort()).toEqual(['databases.ini', 'links']);
    expect(readdirSync(join(folder, 'links'))).toEqual(['orders']);
  });

  it('stays one where the file is not there yet', async () => {
    const first = join(folder, 'links', 'first');
    symlinkSync('orders', first);
    const route = { migration: 'm', epoch: 1, generation: 1, writesOn: 'blue', greenReadPercent: 1 } as const;
    await writeFlagdFile(first, { run: 'r', route: { ...route, flag: 'use-green-db', opening: null } });
    expect(isLink()).toBe(true);
    expect(lstatSync(first).isSymbolicLink()).toBe(true);
    expect(JSON.parse(readFileSync(file, 'utf8'))).toMatchObject({ metadata: { migration: 'm' } });
  });
});

describe.skipIf(!isRoot)('a file of another user that is replaced', () => {
  const OWNER = 54_001;
  const READERS = 54_002;
  const WORKER = { uid: 54_003, gid: 54_004 };

  const owned = (gid: number, mode: number, uid = OWNER): void => {
    writeFileSync(file, 'one');
    chownSync(file, uid, gid);
    chmodSync(file, mode);
  };
  const owners = (): unknown => {
    const { uid, gid, mode } = statSync(file);
    return { uid, gid, mode: mode & 0o777 };
  };
  const replaced = (groups: readonly number[] = []): Promise<unknown> =>
    asUser({ ...WORKER, groups }, () =>
      replaceFile(file, 'two').then(
        () => 'replaced',
        (error: unknown) => (error instanceof Error ? error.message : error),
      ),
    );
  const foreseen = (groups: readonly number[] = []): ReturnType<typeof lostReaderOf> =>
    asUser({ ...WORKER, groups }, () => lostReaderOf(file));

  it('keeps its group where this process is in it, so that its reader still reads it', async () => {
    owned(READERS, 0o660);
    expect(await foreseen([READERS])).toBeUndefined();
    expect(await replaced([READERS])).toBe('replaced');
    expect(owners()).toEqual({ uid: WORKER.uid, gid: READERS, mode: 0o660 });
  });

  it('stays as it is where its group, or its owner, would not read it any more', async () => {
    for (const [mode, reader] of [
      [0o640, `group ${READERS}`],
      [0o600, `user ${OWNER}`],
    ] as const) {
      owned(READERS, mode);
      const before = statSync(file).ino;
      expect(await foreseen()).toMatchObject({ isSure: true, why: expect.stringContaining(reader) as string });
      expect(await replaced()).toContain(`can't be given to ${reader}`);
      expect(statSync(file).ino).toBe(before);
      expect(readdirSync(folder)).toEqual(['databases.ini']);
    }
    // Its own file, that somebody has given to the reader's group.
    owned(READERS, 0o640, WORKER.uid);
    expect(await foreseen()).toMatchObject({ isSure: true });
    expect(await replaced()).toContain(`can't be given to group ${READERS}`);
    expect(owners()).toEqual({ uid: WORKER.uid, gid: READERS, mode: 0o640 });
  });

  it('gets the group of its folder where that is what new files get there', async () => {
    owned(READERS, 0o640);
    chownSync(folder, 0, READERS);
    chmodSync(folder, 0o2777);
    expect(await foreseen()).toBeUndefined();
    expect(await replaced()).toBe('replaced');
    expect(owners()).toEqual({ uid: WORKER.uid, gid: READERS, mode: 0o640 });
  });

  it('is replaced where others may read it; and where its owner may be in its group, which is told if that is not likely', async () => {
    owned(READERS, 0o644);
    expect(await foreseen()).toBeUndefined();
    expect(await replaced()).toBe('replaced');
    owned(WORKER.gid, 0o660);
    expect(await foreseen()).toMatchObject({
      isSure: false,
      why: expect.stringContaining(`user ${OWNER}, who owns it now, reads it then only as a member of`) as string,
    });
    expect(await replaced()).toBe('replaced');
    expect(owners()).toEqual({ uid: WORKER.uid, gid: WORKER.gid, mode: 0o660 });
  });

  it('is replaced where its owner stays the same and its group is only that of root, which is told', async () => {
    owned(0, 0o640, WORKER.uid);
    expect(await foreseen()).toMatchObject({
      isSure: false,
      why: expect.stringContaining("group 0 can't be kept") as string,
    });
    expect(await replaced()).toBe('replaced');
    expect(owners()).toEqual({ uid: WORKER.uid, gid: WORKER.gid, mode: 0o640 });
    // Of another owner, who would read it by that group then, it is not.
    owned(0, 0o640);
    expect(await foreseen()).toMatchObject({ isSure: true });
    expect(await replaced()).toContain("can't be given to group 0");
  });

  it('keeps its owner and its group where root replaces it', async () => {
    owned(READERS, 0o600);
    expect(await lostReaderOf(file)).toBeUndefined();
    await replaceFile(file, 'two');
    expect(owners()).toEqual({ uid: OWNER, gid: READERS, mode: 0o600 });
  });
});
