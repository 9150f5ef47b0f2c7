import { defineConfig } from 'vitest/config';
import { SEED_VARIABLE, seedOfDay } from './test/support/property-seed.js';
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

/** Properties that `npm test` tries on the same cases in each run, and this one on other ones each day. */
const PROPERTIES = [
  'gates/decision-rules.property',
  'gates/persistent-evidence.property',
  'router/parts',
  'router/signed-tokens',
  ...['approval-links', 'cli-plan', 'copy-out', 'doctor-clean.property', 'gates-decide', 'poolers.property'].map(
    (name) => `unit/${name}`,
  ),
  ...['route-and-fence.property', 'router-statement', 'stream-groups', 'window-times'].map((name) => `unit/${name}`),
];

/** `npm run test:long`: tests like those of `npm test`, of what is rarer or takes longer to run. */
export default defineConfig({
  test: {
    include: [
      'test/long/**/*.long.ts',
      ...EITHER.map((name) => `test/postgres/${name}.test.ts`),
      ...PROPERTIES.map((name) => `test/${name}.test.ts`),
    ],
    env: { [VERSION_VARIABLE]: 'other', [SEED_VARIABLE]: seedOfDay() },
    globalSetup: ['test/support/global-setup.ts'],
    setupFiles: ['test/support/seeded-properties.ts'],
    pool: 'forks',
    maxWorkers: 3,
    testTimeout: 120_000,
    hookTimeout: 60_000,
    // A wait ends as soon as what it waits for is there: long enough for a machine that is busy with something else.
    expect: { poll: { timeout: 15_000 } },
    reporters: ['default', './test/support/plain-summary.ts'],
  },
});
