import type { Side } from '../../src/side.js';

/* One side of the model: what a database has, its sessions, and the feed that fills it. */

export interface Change {
  readonly key: number;
  readonly id: number;
}

export interface Row {
  epoch: number;
  writesOn: Side;
  opening: boolean;
}

/** A session of a worker in one database, with the transaction that it has open. */
export class Session {
  static #pids = 0;
  readonly pid = ++Session.#pids;
  alive = true;
  /** The message `setval; COMMIT` while the server works on it. */
  inFlight: 'setval' | 'commit' | null = null;
  committed = false;
  answerLost = false;
  pending: Row | null = null;

  /** @param ofWorker not one of the doctor's. Default: true */
  constructor(
    readonly db: Db,
    readonly ofWorker = true,
  ) {}
}

/** The fence of a table. */
export type TableFence = 'absent' | 'armed' | 'disabled';

export class Db {
  row: Row = { epoch: 1, writesOn: 'blue', opening: false };
  /** Not under MVCC and not undone by a rollback: a sequence. */
  open: boolean;
  /** Of two tables: a change of both may be broken off after the first. */
  fence: readonly [TableFence, TableFence];
  /** Whether schema verdigris is there. */
  schema = true;
  /** How the run has ended here. */
  outcome: string | null = null;
  exclusive: Session | null = null;
  rowLock: Session | null = null;
  actor: Session | null = null;
  /** Writers that hold the fence's lock in shared mode. */
  readonly shared = new Set<object>();
  /** Writers whose statement began before the table was armed: arming waits for them. */
  readonly unfenced = new Set<object>();
  readonly wal: Change[] = [];
  readonly values = new Map<number, number>();

  constructor(readonly side: Side) {
    this.open = side === 'blue';
    this.fence = side === 'green' ? ['armed', 'armed'] : ['absent', 'absent'];
  }

  get armed(): boolean {
    return this.fence.every((state) => state === 'armed');
  }

  /** Whether an application that comes now can write. */
  get writable(): boolean {
    return this.open || !this.armed;
  }

  write(change: Change): void {
    this.wal.push(change);
    this.values.set(change.key, change.id);
  }
}

/** The feed that fills a side. */
export interface Feed {
  subscribed: boolean;
  enabled: boolean;
  /** Its worker: stops some time after the subscription was disabled. */
  running: boolean;
  /** The slot's position in the source's WAL; null while there is none. */
  slot: number | null;
}

export function session(sessions: Session[], db: Db, ofWorker = true): Session {
  const one = new Session(db, ofWorker);
  sessions.push(one);
  return one;
}
