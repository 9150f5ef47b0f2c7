import type { Stats } from 'node:fs';
import { realpath, stat, type FileHandle } from 'node:fs/promises';
import { dirname } from 'node:path';

/*
 * A file that is replaced is a new one, of this process: only root may give it to another owner, and only who is in a group
 * may give it to that. Whoever has read the old one by its owner or its group may not be able to read it then.
 */

/** Somebody who reads a file, and what becomes of that when it is replaced. For people. */
export interface LostReader {
  /**
   * Whether it can't be read any more. Otherwise it can by who is in the group of the file, which an owner may be; or by
   * its owner, where only group 0 loses it.
   */
  readonly isSure: boolean;
  readonly why: string;
  readonly nextStep: string;
}

/** The new file would get another owner or group, and whoever reads it could not any more. */
export class ReadersLost extends Error {
  override readonly name = 'ReadersLost';
  readonly nextStep: string;

  constructor({ why, nextStep }: LostReader) {
    super(why);
    this.nextStep = nextStep;
  }
}

/** Who owns a file, and what they may do with it. */
type Owned = Pick<Stats, 'uid' | 'gid' | 'mode'>;

/**
 * Gives a new file, before there is something to read in it, the mode, the group and the owner of the one that it replaces,
 * as far as this process may.
 *
 * @throws ReadersLost
 */
export async function giveTo(handle: FileHandle, before: Owned): Promise<void> {
  await handle.chown(-1, before.gid).catch(() => undefined);
  await handle.chmod(before.mode & 0o777);
  await handle.chown(before.uid, -1).catch(() => undefined);
  const lost = lostReader(before, await handle.stat());
  if (lost?.isSure === true) throw new ReadersLost(lost);
}

/**
 * Who might not read a file any more once this process has replaced it, by a look.
 *
 * @returns undefined where nobody is known of, and where there is no file
 */
export async function lostReaderOf(path: string): Promise<LostReader | undefined> {
  const file = await realpath(path).catch(() => undefined);
  const uid = process.geteuid?.();
  if (file === undefined || uid === undefined || uid === 0) return undefined;
  const before = await stat(file);
  const gid = groupOfNew(before.gid, await stat(dirname(file)));
  const lost = lostReader(before, { uid, gid });
  // Who else is in a group is not known: in the one that is a user's own, nobody is as a rule.
  return lost?.isSure === false && gid !== process.getegid?.() ? undefined : lost;
}

/** The group that this process can give to a new file in a folder, where it is to be `wanted`. */
function groupOfNew(wanted: number, folder: Owned): number {
  if (process.getgroups?.().includes(wanted) === true) return wanted;
  const isOfFolder = (folder.mode & 0o2000) !== 0;
  return isOfFolder ? folder.gid : (process.getegid?.() ?? wanted);
}

/** @returns undefined where everybody who reads the file still can */
function lostReader(before: Owned, after: Pick<Owned, 'uid' | 'gid'>): LostReader | undefined {
  const byOthers = (before.mode & 0o004) !== 0;
  const byGroup = (before.mode & 0o040) !== 0;
  if (byOthers) return undefined;
  if (byGroup && after.gid !== before.gid) {
    return after.uid === before.uid && before.gid === 0 ? ROOTS_GROUP : notGivenTo(`group ${before.gid}`);
  }
  if (after.uid === before.uid) return undefined;
  if (!byGroup) return notGivenTo(`user ${before.uid}`);
  const why = `it will be the worker's own: user ${before.uid}, who owns it now, reads it then only as a member of group ${before.gid}`;
  return { isSure: false, why, nextStep: GIVE_A_GROUP };
}

function notGivenTo(reader: string): LostReader {
  const why = `the new file can't be given to ${reader}, who reads the one that is there`;
  return { isSure: true, why, nextStep: GIVE_A_GROUP };
}

const GIVE_A_GROUP =
  'give it a group that both the worker and its reader are in (in a folder with chmod g+s new files get the group of that), or let others read it where it holds no password';

/** What nobody has given to a group is root's as a rule, and its owner reads it as before. */
const ROOTS_GROUP: LostReader = {
  isSure: false,
  why: "its group 0 can't be kept: its owner still reads it, but nobody who is only a member of that group",
  nextStep: GIVE_A_GROUP,
};
