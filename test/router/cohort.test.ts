import { expect, test } from 'vitest';
import { inCohort } from '../../src/router/cohort.js';

const USERS = Array.from({ length: 20_000 }, (_, i) => `user-${i}`);

function cohort(flag: string, percent: number): string[] {
  return USERS.filter((user) => inCohort(flag, user, percent));
}

// What @openfeature/flagd-core 4.0.1 answers to {"fractional": [["green", weight], ["off", 100000 - weight]]}.
test.each([
  ['use-green-db', 0.001, 0, []],
  ['use-green-db', 1, 233, [167, 209, 334, 446, 456, 474]],
  ['use-green-db', 10, 1_989, [12, 17, 25, 29, 70, 73]],
  ['use-green-db', 50, 10_014, [0, 1, 3, 6, 8, 9]],
  ['use-green-db', 99.999, 20_000, [0, 1, 2, 3, 4, 5]],
  ['orders', 1, 203, [227, 631, 638, 755, 776, 917]],
  ['orders', 10, 1_982, [9, 24, 35, 43, 80, 85]],
  ['orders', 50, 9_899, [1, 3, 4, 5, 9, 14]],
])('flag %s at %d %% holds the same users as in flagd', (flag, percent, size, first) => {
  const users = cohort(flag, percent);
  expect(users).toHaveLength(size);
  expect(users.slice(0, 6)).toEqual(first.map((i) => `user-${i}`));
});

test('nobody leaves the cohort when it grows', () => {
  let smaller = new Set<string>();
  for (const percent of [0, 0.5, 1, 10, 33.333, 50, 99, 100]) {
    const larger = new Set(cohort('use-green-db', percent));
    for (const user of smaller) expect(larger.has(user)).toBe(true);
    smaller = larger;
  }
  expect(smaller.size).toBe(USERS.length);
});

test('0 % is nobody and 100 % is everybody', () => {
  expect(cohort('f', 0)).toHaveLength(0);
  expect(cohort('f', 100)).toHaveLength(USERS.length);
});
