import { defineConfig } from 'vitest/config';
import { VERSION_VARIABLE } from './test/support/tested-version.js';

/** Tests of `npm test` that hold for several versions of PostgreSQL, and run there on one. */
const EITHER = [
  ...['constraint', 'copy', 'copy-swift', 'ddl', 'forced-row-security', 'index-build', 'inheritance', 'migrate'],
  ...[
    'plan-trial',
    'promotion',
    'replication-slot',
    'same-answers',
    'schema-copy',
    'secret-statement',
    'streams',
    'unfenced-changes',
  ],
  ...['verify', 'verify-planted', 'copy-anew'],
];

/** `npm run test:long`: tests like those of `npm test`, of what is rarer or takes longer to run. */
export default defineConfig({
  test: {
    include: ['test/long/**/*.long.ts', ...EITHER.map((name) => `test/postgres/${name}.test.ts`)],
    env: { [VERSION_VARIABLE]: 'other' },
    globalSetup: ['test/support/global-setup.ts'],
    pool: 'forks',
    maxWorkers: 3,
    testTimeout: 120_000,
    hookTimeout: 60_000,
    reporters: ['default', './test/support/plain-summary.ts'],
  },
});
