import type { Lsn } from './lsn.js';
import { isUncovered, uncoveredToken, type Token } from './token.js';

interface Entry {
  /** The store's count of uses when it was put where it lies in the order. */
  putAt: number;
  readonly token: Token | undefined;
  /** Until then the user's last write may not be flushed on blue, so no position says where it is. */
  readonly unknownUntil: number;
  /** What says so to other processes; kept when it is over, since the same one may come back from them. */
  readonly uncovered: Token | undefined;
}

/**
 * How long a commit with synchronous_commit = off may stay unflushed: three times wal_writer_delay, whose largest value
 * is 10 s (PostgreSQL documentation, 30.4 Asynchronous Commit).
 */
const UNFLUSHED_MS = 30_000;

/**
 * The tokens of the users who wrote last, a bounded number of them. A user who has been pushed out has no token, and
 * takes blue's position at the time of the next read: never a wrong answer, only a question more.
 */
export class TokenStore {
  readonly #capacity: number;
  readonly #now: () => number;
  // A Map iterates in the order of insertion; entries are put back at the end when they are used, unless they lie near it.
  readonly #entries = new Map<string, Entry>();
  #uses = 0;
  /** Of those who were pushed out with a write that may not be flushed: until when that counts, and the highest epoch. */
  #forgottenUnknown = { until: 0, epoch: 0 };

  constructor(capacity: number, now: () => number = () => performance.now()) {
    this.#capacity = capacity;
    this.#now = now;
  }

  get size(): number {
    return this.#entries.size;
  }

  /** The user's token; undefined when there is none. */
  get(user: string): Token | undefined {
    const entry = this.#entries.get(user);
    if (entry === undefined) return undefined;
    this.#use(user, entry);
    return entry.token;
  }

  /**
   * The position of the user's last write if it is known and of this epoch; `later` when it is of a later one, which this
   * process has not heard of; undefined otherwise.
   */
  positionIn(user: string, epoch: number): Lsn | 'later' | undefined {
    const entry = this.#entries.get(user);
    const known = entry?.token ?? entry?.uncovered;
    if (entry === undefined || known === undefined) return undefined;
    if (known.epoch > epoch) return 'later';
    if (entry.token?.epoch !== epoch || (entry.unknownUntil > 0 && entry.unknownUntil > this.#now())) return undefined;
    this.#use(user, entry);
    return entry.token.lsn;
  }

  /** What other processes must know of the user's last write; undefined when nothing is known of it. */
  toExport(user: string): Token | undefined {
    if (!this.isUnknown(user)) return this.get(user);
    return this.#entries.get(user)?.uncovered ?? uncoveredToken(this.#forgottenUnknown.epoch);
  }

  /** The epoch of the user's token, 0 when there is none; without a word about when the user was last seen. */
  epochOf(user: string): number {
    const entry = this.#entries.get(user);
    return (entry?.token ?? entry?.uncovered)?.epoch ?? 0;
  }

  /** Whether a write of the user may not be flushed yet, so that only blue is sure to show it. */
  isUnknown(user: string): boolean {
    const until = this.#entries.get(user)?.unknownUntil ?? this.#forgottenUnknown.until;
    return until > this.#now();
  }

  /**
   * Remembers a position that was taken here, after everything that this process knows of the user. A token never goes
   * back: the higher epoch wins, and within an epoch the higher position.
   */
  record(user: string, token: Token): void {
    const entry = this.#entries.get(user);
    // The log is flushed in order: a flushed position covers every earlier commit of the user, asynchronous or not.
    this.#put(user, { token: newerOf(entry?.token, token), unknownUntil: 0, uncovered: entry?.uncovered });
  }

  /** Takes over what another process has exported: it says nothing of the order of its write and those known here. */
  import(user: string, token: Token): void {
    const entry = this.#entries.get(user);
    if (!isUncovered(token)) {
      const isCovered = entry?.uncovered === undefined || entry.token !== undefined;
      if (isCovered || token.epoch > (entry.uncovered?.epoch ?? 0)) this.record(user, token);
    } else if (token.lsn !== entry?.uncovered?.lsn && token.epoch >= this.epochOf(user)) {
      this.#recordUncovered(user, token);
    }
  }

  /** The user has written, and where that is can't be known. */
  recordUnknown(user: string, epoch: number): void {
    this.#recordUncovered(user, uncoveredToken(epoch));
  }

  /** The user's token no longer holds: there was a write without one. */
  forget(user: string): void {
    if (this.#entries.has(user) && !this.isUnknown(user)) this.#entries.delete(user);
  }

  #recordUncovered(user: string, uncovered: Token): void {
    this.#put(user, { token: undefined, unknownUntil: this.#now() + UNFLUSHED_MS, uncovered });
  }

  /** To move it for each use would cost more than all else that a read does here. */
  #use(user: string, entry: Entry): void {
    if (this.#uses - entry.putAt > this.#capacity / 4) this.#put(user, entry);
  }

  #put(user: string, { token, unknownUntil, uncovered }: Omit<Entry, 'putAt'>): void {
    this.#uses += 1;
    this.#entries.delete(user);
    this.#entries.set(user, { token, unknownUntil, uncovered, putAt: this.#uses });
    if (this.#entries.size <= this.#capacity) return;
    const [oldest] = this.#entries;
    if (oldest === undefined) return;
    this.#entries.delete(oldest[0]);
    this.#noteForgotten(oldest[1]);
  }

  #noteForgotten({ unknownUntil, uncovered }: Entry): void {
    const now = this.#now();
    if (unknownUntil <= now) return;
    const { until, epoch } = this.#forgottenUnknown;
    const known = until > now ? epoch : 0;
    this.#forgottenUnknown = {
      until: Math.max(until, unknownUntil),
      epoch: Math.max(known, uncovered?.epoch ?? 0),
    };
  }
}

function newerOf(known: Token | undefined, token: Token): Token {
  if (known === undefined || token.epoch > known.epoch) return token;
  return token.epoch === known.epoch && token.lsn > known.lsn ? token : known;
}
