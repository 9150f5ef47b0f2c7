import type { TestServer } from './postgres.js';

/** Set to `other` where tests that hold for several versions are to run on those that `npm test` leaves out. */
export const VERSION_VARIABLE = 'VERDIGRIS_TEST_VERSION';

const isOther = (): boolean => process.env[VERSION_VARIABLE] === 'other';

/** The version that a test of either runs on: `usual` in `npm test`, the other one in `npm run test:long`. */
export function testedVersion(usual: TestServer): TestServer {
  if (!isOther()) return usual;
  return usual === 'pg15' ? 'pg18' : 'pg15';
}

/** Of a test's combinations of versions the first one in `npm test`, the others, where there are any, in `npm run test:long`. */
export function testedPairs<T>(combinations: readonly [T, ...T[]]): readonly T[] {
  return isOther() ? combinations.slice(1) : combinations.slice(0, 1);
}
