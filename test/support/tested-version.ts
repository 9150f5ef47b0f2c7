import type { TestServer } from './postgres.js';

/** Set to `other` where tests that hold for both versions are to run on the one that `npm test` leaves out. */
export const VERSION_VARIABLE = 'VERDIGRIS_TEST_VERSION';

/** The version that a test of either runs on: `usual` in `npm test`, the other one in `npm run test:long`. */
export function testedVersion(usual: TestServer): TestServer {
  if (process.env[VERSION_VARIABLE] !== 'other') return usual;
  return usual === 'pg15' ? 'pg18' : 'pg15';
}
