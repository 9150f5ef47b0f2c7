/** Who a process is to the file system. */
export interface FileUser {
  readonly uid: number;
  readonly gid: number;
  /** Further groups. Default: none */
  readonly groups?: readonly number[];
}

/** Whether asUser() can be used: only root becomes others. */
export const isRoot = process.getuid?.() === 0;

/** Does the work as another user; what else this process does meanwhile, it does as that user, too. */
export async function asUser<T>({ uid, gid, groups = [] }: FileUser, work: () => Promise<T>): Promise<T> {
  const before = process.getgroups?.() ?? [];
  process.setgroups?.([gid, ...groups]);
  process.setegid?.(gid);
  process.seteuid?.(uid);
  try {
    return await work();
  } finally {
    process.seteuid?.(0);
    process.setegid?.(0);
    process.setgroups?.(before);
  }
}
