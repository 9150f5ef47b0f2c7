import { readEnabled, readReaders } from '../src/postgres/following.js';
import { closeSession, openSession, type Session } from '../src/postgres/session.js';
import { watching, type Work } from './context.js';

/** What keeps green from following blue before the promotion; `follows` where nothing does, as far as is known. */
export type FeedState = 'follows' | 'notFollowing' | 'greenAway' | 'blueAway';

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
/** How long another thing must keep green from following before that one is told, ms. */
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
    return now - this.#turned >= AWAY_MS && now - this.#since >= OTHER_MS;
  }
}

function isWell(state: FeedState): boolean {
  return state === 'follows';
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
  #readers: ReadonlyMap<string, number> = new Map();
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
  }

  /** One look. @throws what a blue that is away makes of it: see blueIsAway() */
  async look(blue: Session): Promise<FeedNews | undefined> {
    const before = this.#readers;
    this.#readers = await readReaders(blue, this.names);
    this.#lookAtGreen();
    if (this.#away !== undefined) {
      return this.#tell('greenAway', `the worker can't reach green: ${reasonOf(this.#away.error)}`);
    }
    if (this.#enabled === undefined) return undefined;
    // A worker that ends at once, and is begun again every few seconds, is another process in each look.
    const follows = (name: string): boolean => before.has(name) && before.get(name) === this.#readers.get(name);
    const left = this.#enabled.filter((name) => !follows(name));
    if (left.length === 0) return this.#tell('follows', 'green follows blue');
    return this.#tell('notFollowing', `green does not follow blue: nobody there reads ${left.join(', ')}`);
  }

  /** The same where blue could not be asked. */
  blueIsAway(error: unknown): FeedNews | undefined {
    this.#readers = new Map();
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

function reasonOf(error: unknown): string {
  return error instanceof Error ? (error.message.split('\n', 1)[0] ?? '') : String(error);
}
