import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { LastingFeed, type FeedState } from '../../activities/feed-watch.js';

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
  it.each(['notFollowing', 'greenAway', 'blueAway'] as const)('within a minute: %s', (state) => {
    expect(newsAfter('follows', ['follows', 10], [state, 60])).toBe(55);
  });

  it('not for a blip, however often it comes', () => {
    const blips = Array.from({ length: 20 }, () => [['greenAway', 40] as const, ['follows', 1] as const]).flat();
    expect(newsAfter('follows', ...blips)).toBeNull();
  });

  it('also where one thing gives way to another: a server that comes up again and again, and never follows', () => {
    const upAndDown = Array.from({ length: 4 }, () => [
      ['greenAway', 16] as const,
      ['notFollowing', 4] as const,
    ]).flat();
    expect(newsAfter('follows', ...upAndDown)).toBe(55);
  });

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
