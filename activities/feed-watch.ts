import { reasonOf } from '../src/failure-text.js';
import { readEnabled, readReaders } from '../src/postgres/following.js';
import { closeSession, openSession, type Session } from '../src/postgres/session.js';
import { describeSynchronous, readSynchronousFeeds } from '../src/postgres/synchronous-standbys.js';
import { watching, type Work } from './context.js';

/**
 * What keeps green from following blue before the promotion; `follows` where nothing does, as far as is known. `synchronous`: it
 * follows, and blue's commits wait for it.
 */
export type FeedState = 'follows' | 'notFollowing' | 'greenAway' | 'blueAway' | 'synchronous';

/** The feed is no longer as people know it. */
export interface FeedNews {
  readonly feed: FeedState;
  /** One line for people. */
  readonly why: string;
}

/** How long it must be so before people are told, ms: a restart of a server is over by then. */
const AWAY_MS = 45_000;
/** How long all must be well before it is over, ms. */
const BACK_MS = 15_000;
/** How long another thing than the one that was told must keep green from following before it is told, ms. */
const OTHER_MS = 15_000;

/** Tells what has lasted: a blip is no news, nor is a server that comes and goes one each time. */
export class LastingFeed {
  #last: FeedState;
  #since = performance.now();
  #turned = this.#since;

  constructor(private readonly known: FeedState) {
    this.#last = known;
  }

  /** @returns whether people are to be told that it is so now */
  isNews(state: FeedState): boolean {
    const now = performance.now();
    if (isWell(state) !== isWell(this.#last)) this.#turned = now;
    if (state !== this.#last) this.#since = now;
    this.#last = state;
    if (state === this.known) return false;
    if (isWell(state)) return now - this.#turned >= BACK_MS;
    return now - this.#turned >= AWAY_MS && (isWell(this.known) || now - this.#since >= OTHER_MS);
  }
}

function isWell(state: FeedState): boolean {
  return state === 'follows';
}

/**
 * How long the same process must have read a slot before it counts as one that follows, ms. One that meets the same error
 * again and again reads until it meets it, and the next one begins 5 s later (`wal_retrieve_retry_interval`).
 */
const STEADY_MS = 10_000;

/** Which streams of the feed do not follow, from several looks at both sides. */
export class FollowingStreams {
  readonly #due: Set<string>;
  #now = performance.now();
  #readers: ReadonlyMap<string, { readonly pid: number; readonly since: number }> = new Map();

  /** @param names the streams' of the feed @param known what people know of it */
  constructor(
    names: readonly string[],
    private readonly known: FeedState,
  ) {
    // Of one that did not follow a subscription was on: that it is off now does not mend it.
    this.#due = new Set(known === 'notFollowing' ? names : []);
  }

  /** What blue says. @param readers see readReaders() */
  saw(readers: ReadonlyMap<string, number>): void {
    const now = performance.now();
    const before = this.#readers;
    this.#readers = new Map(
      [...readers].map(([name, pid]) => {
        const last = before.get(name);
        return [name, last?.pid === pid ? last : { pid, since: now }];
      }),
    );
    this.#now = now;
  }

  /**
   * Those that nobody reads, or a process that has only just come. A subscription that was on while something was amiss
   * is to follow until that is over, also where somebody has disabled or dropped it.
   *
   * @param enabled see readEnabled()
   * @returns undefined while all are read, and it is not known yet whether that lasts
   */
  notFollowing(enabled: readonly string[]): readonly string[] | undefined {
    for (const name of enabled) this.#due.add(name);
    const due = isWell(this.known) ? enabled : [...this.#due];
    const readForMs = (name: string): number => this.#now - (this.#readers.get(name)?.since ?? this.#now);
    const left = due.filter((name) => readForMs(name) === 0);
    return left.length === 0 && due.some((name) => readForMs(name) < STEADY_MS) ? undefined : left;
  }
}

/** Between two looks at green, ms. */
const LOOK_AT_GREEN_EVERY_MS = 5_000;

/**
 * Whether green follows blue, seen from both: blue says who reads the slots, and green which subscriptions are to. Green is
 * looked at beside the watch that asks: one that does not answer keeps nobody from looking at blue.
 */
export class FeedWatch {
  readonly #closed = new AbortController();
  readonly #signal: AbortSignal;
  readonly #lasting: LastingFeed;
  readonly #streams: FollowingStreams;
  #green: Session | undefined;
  /** Undefined before the first answer. */
  #enabled: readonly string[] | undefined;
  #away: { readonly error: unknown } | undefined;
  #looking: Promise<void> | undefined;
  #lookAgainAt = 0;

  /** @param names the streams' of the feed @param known what people know of it */
  constructor(
    private readonly work: Work,
    private readonly names: readonly string[],
    known: FeedState,
  ) {
    this.#signal = AbortSignal.any([work.signal, this.#closed.signal]);
    this.#lasting = new LastingFeed(known);
    this.#streams = new FollowingStreams(names, known === 'synchronous' ? 'follows' : known);
  }

  /** One look. @throws what a blue that is away makes of it: see blueIsAway() */
  async look(blue: Session): Promise<FeedNews | undefined> {
    this.#streams.saw(await readReaders(blue, this.names));
    this.#lookAtGreen();
    if (this.#away !== undefined) {
      return this.#tell('greenAway', `the worker can't reach green: ${reasonOf(this.#away.error)}`);
    }
    if (this.#enabled === undefined) return undefined;
    const left = this.#streams.notFollowing(this.#enabled);
    if (left === undefined) return undefined;
    if (left.length === 0) return this.#followed(await readSynchronousFeeds(blue, this.names));
    return this.#tell('notFollowing', `green does not follow blue: nobody there reads ${left.join(', ')}`);
  }

  #followed(synchronous: readonly string[]): FeedNews | undefined {
    if (synchronous.length === 0) return this.#tell('follows', 'green follows blue');
    return this.#tell('synchronous', describeSynchronous('blue', synchronous));
  }

  /** The same where blue could not be asked. */
  blueIsAway(error: unknown): FeedNews | undefined {
    return this.#tell('blueAway', `the worker can't reach blue, which has the writes: ${reasonOf(error)}`);
  }

  async close(): Promise<void> {
    this.#closed.abort();
    await this.#looking;
    if (this.#green !== undefined) await closeSession(this.#green);
  }

  #tell(feed: FeedState, why: string): FeedNews | undefined {
    return this.#lasting.isNews(feed) ? { feed, why } : undefined;
  }

  #lookAtGreen(): void {
    if (this.#looking !== undefined || performance.now() < this.#lookAgainAt) return;
    this.#looking = this.#askGreen().finally(() => {
      this.#lookAgainAt = performance.now() + LOOK_AT_GREEN_EVERY_MS;
      this.#looking = undefined;
    });
  }

  /** Whatever it fails with: nothing of green is known then. */
  async #askGreen(): Promise<void> {
    try {
      this.#green ??= await openSession(this.work.databases.green, { purpose: 'feed', ...watching(this.#signal) });
      this.#enabled = await readEnabled(this.#green, this.names);
      this.#away = undefined;
    } catch (error) {
      const lost = this.#green;
      this.#green = undefined;
      if (!this.#signal.aborted) this.#away = { error };
      if (lost !== undefined) await closeSession(lost);
    }
  }
}
