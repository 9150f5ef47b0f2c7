import { describe, expect, test } from 'vitest';
import { bucketOf, inCohort, TOTAL_WEIGHT } from '../../src/router/cohort.js';

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

/** murmur3-32 by its definition, of the UTF-8 bytes of a text. */
function murmur3(text: string, seed = 0): number {
  const bytes = Buffer.from(text);
  const mixed = (k: number): number => {
    const product = Math.imul(k, 0xcc9e2d51);
    return Math.imul((product << 15) | (product >>> 17), 0x1b873593);
  };
  const blocks = bytes.length >> 2;
  let h = seed;
  for (let i = 0; i < blocks; i++) {
    h ^= mixed(bytes.readInt32LE(4 * i));
    h = Math.imul((h << 13) | (h >>> 19), 5) + 0xe6546b64;
  }
  const rest = bytes.subarray(4 * blocks);
  if (rest.length > 0) h ^= mixed(rest.readUIntLE(0, rest.length));
  h ^= bytes.length;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

describe('ids that are not ASCII', () => {
  // Vectors that are published for murmur3-32.
  test.each([
    ['Hello, world!', 0x9747b28c, 0x24884cba],
    ['\u03c0'.repeat(8), 0x9747b28c, 0xd58063c1],
    ['The quick brown fox jumps over the lazy dog', 0x9747b28c, 0x2fa826cd],
  ])('%s has the published hash', (text, seed, hash) => {
    expect(murmur3(text, seed)).toBe(hash);
  });

  test.each(['user', 'j\u00fcrgen', '\u0141ukasz', '\u7530\u4e2d', '\u{1f600}', 'a\n'])(
    '%s-N is in the bucket of its UTF-8 bytes, as in flagd',
    (name) => {
      const users = Array.from({ length: 200 }, (_, i) => `${name}-${i}`);
      const expected = users.map((user) => Math.floor((murmur3(`use-green-db${user}`) * TOTAL_WEIGHT) / 2 ** 32));
      expect(users.map((user) => bucketOf('use-green-db', user))).toEqual(expected);
    },
  );
});
