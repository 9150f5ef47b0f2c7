import { afterEach, describe, expect, it, vi } from 'vitest';
import { FAULTS_FROM, isHalfTaken, isTaken } from '../support/fault-points.js';

afterEach(() => vi.unstubAllEnvs());

/** The points of a list of 60 that are taken in as many days as there are parts. */
function takenIn(every: number, isOne: (n: number) => boolean): number[][] {
  return Array.from({ length: every }, (_, day) => {
    vi.stubEnv(FAULTS_FROM, String(20_787 + day));
    return Array.from({ length: 60 }, (__, n) => n).filter(isOne);
  });
}

describe('the points of a fault that a day takes', () => {
  it.each([1, 2, 3, 4, 6])('are as many on each day, and all in %i days', (every) => {
    for (const isOne of [
      (n: number) => isTaken(n, every),
      (n: number) => isHalfTaken('before', n, every),
      (n: number) => isHalfTaken('after', n, every),
    ]) {
      const days = takenIn(every, isOne);
      expect(new Set(days.map(({ length }) => length))).toEqual(new Set([60 / every]));
      expect(new Set(days.flat()).size).toBe(60);
    }
  });

  it.each([2, 3, 4, 6])('are before some statements and after others, of every %i', (every) => {
    const [before = [], after = []] = (['before', 'after'] as const).map(
      (when) => takenIn(every, (n) => isHalfTaken(when, n, every))[0],
    );
    expect(before.filter((n) => after.includes(n))).toEqual([]);
  });
});
