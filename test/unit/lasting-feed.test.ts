import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { FollowingStreams, LastingFeed, type FeedState } from '../../activities/feed-watch.js';

beforeEach(() => vi.useFakeTimers({ toFake: ['performance'] }));
afterEach(() => vi.useRealTimers());

/** Sees each state for so many seconds, one look a second. @returns after how many seconds there was news, or null */
function newsAfter(
  known: FeedState,
  ...seen: readonly (readonly [state: FeedState, seconds: number])[]
): number | null {
  const feed = new LastingFeed(known);
  let passed = 0;
  for (const [state, seconds] of seen) {
    for (let second = 0; second < seconds; second++) {
      if (feed.isNews(state)) return passed;
      vi.advanceTimersByTime(1_000);
      passed++;
    }
  }
  return null;
}

describe('that green does not follow, or a side is away, is told', () => {
  it.each(['notFollowing', 'greenAway', 'blueAway', 'synchronous'] as const)('within a minute: %s', (state) => {
    expect(newsAfter('follows', ['follows', 10], [state, 60])).toBe(55);
  });

  it('not for a blip, however often it comes', () => {
    const blips = Array.from({ length: 20 }, () => [['greenAway', 40] as const, ['follows', 1] as const]).flat();
    expect(newsAfter('follows', ...blips)).toBeNull();
  });

  it.each([
    [16, 4],
    [10, 5],
    [5, 5],
  ])(
    'also where one thing gives way to another: a server that is down for %i s, up for %i s, and never follows',
    (down, up) => {
      const upAndDown = Array.from({ length: 20 }, () => [
        ['greenAway', down] as const,
        ['notFollowing', up] as const,
      ]).flat();
      expect(newsAfter('follows', ...upAndDown)).toBe(45);
      expect(newsAfter('greenAway', ...upAndDown)).toBeNull();
    },
  );

  it('once: what people know is no news, nor is what it turns into before that has lasted', () => {
    expect(newsAfter('greenAway', ['greenAway', 1_000])).toBeNull();
    expect(newsAfter('greenAway', ['greenAway', 100], ['notFollowing', 14], ['greenAway', 100])).toBeNull();
    expect(newsAfter('greenAway', ['greenAway', 100], ['notFollowing', 60])).toBe(115);
  });

  it('as over when all has been well for a while', () => {
    expect(newsAfter('greenAway', ['greenAway', 100], ['notFollowing', 2], ['follows', 60])).toBe(117);
    expect(newsAfter('greenAway', ['follows', 14], ['greenAway', 60])).toBeNull();
  });
});

/** The process that reads the slot of each stream. */
type Readers = Readonly<Record<string, number>>;

/** Looks once a second for so many seconds. @returns after how many seconds there was news, or null */
function newsOfStreams(
  known: FeedState,
  ...seen: readonly (readonly [readers: Readers, enabled: readonly string[], seconds: number])[]
): number | null {
  const streams = new FollowingStreams(['one', 'two'], known);
  const feed = new LastingFeed(known);
  let passed = 0;
  for (const [readers, enabled, seconds] of seen) {
    for (let second = 0; second < seconds; second++) {
      streams.saw(new Map(Object.entries(readers)));
      const left = streams.notFollowing(enabled);
      if (left !== undefined && feed.isNews(left.length === 0 ? 'follows' : 'notFollowing')) return passed;
      vi.advanceTimersByTime(1_000);
      passed++;
    }
  }
  return null;
}

describe('a stream follows', () => {
  const BOTH = ['one', 'two'];
  const WELL = { one: 1, two: 2 };

  /** The apply worker of one stream begins, reads for so long, and ends; the next one is begun later. */
  const again = (readsFor: number, thenNone: number): (readonly [Readers, readonly string[], number])[] =>
    Array.from({ length: 100 }, (_, n) => [
      [{ one: 1, two: 100 + n }, BOTH, readsFor] as const,
      [{ one: 1 }, BOTH, thenNone] as const,
    ]).flat();

  it.each([
    [1, 0],
    [3, 2],
    [8, 5],
    [4, 0],
  ])('not where it is read for %i s, by nobody for %i s, and so on', (readsFor, thenNone) => {
    expect(newsOfStreams('follows', [WELL, BOTH, 20], ...again(readsFor, thenNone))).toBeLessThan(80);
    expect(newsOfStreams('notFollowing', ...again(readsFor, thenNone))).toBeNull();
  });

  it('once the same process has read for a while', () => {
    expect(newsOfStreams('notFollowing', [{ one: 1 }, BOTH, 20], [WELL, BOTH, 60])).toBe(45);
    expect(newsOfStreams('follows', [WELL, BOTH, 100], [{ one: 1, two: 3 }, BOTH, 100])).toBeNull();
  });

  it('or need not, while its subscription is not on yet, or off on purpose', () => {
    expect(newsOfStreams('follows', [{}, [], 100], [{ one: 1 }, ['one'], 100], [{}, [], 100])).toBeNull();
    expect(newsOfStreams('greenAway', [{}, [], 100])).toBe(15);
  });

  it('not where its subscription was disabled or dropped while something was amiss', () => {
    expect(newsOfStreams('notFollowing', [{ one: 1 }, ['one'], 200])).toBeNull();
    expect(newsOfStreams('notFollowing', [{ one: 1 }, ['one'], 200], [WELL, BOTH, 60])).toBe(225);
    expect(newsOfStreams('greenAway', [{ one: 1 }, BOTH, 5], [{ one: 1 }, ['one'], 100])).toBe(45);
  });
});
