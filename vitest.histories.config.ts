import { defineConfig } from 'vitest/config';

/** `npm run record-histories`: the tests that keep the history of a run in test/histories, each under a name of its own. */
export default defineConfig({
  test: {
    include: [
      'test/e2e/rollback.test.ts',
      'test/e2e/whole-migration.test.ts',
      'test/faults/rollback-runs.faults.ts',
      'test/long/messages.long.ts',
      'test/long/recorded-runs.long.ts',
      'test/long/rollback.long.ts',
      'test/long/whole-migration.long.ts',
      'test/workflow/approvals.test.ts',
      'test/long/late-decisions.long.ts',
      'test/workflow/pooler-clients-served.test.ts',
      'test/workflow/standby-events.test.ts',
      'test/long/window-waits.long.ts',
    ],
    env: { VERDIGRIS_RECORD_HISTORIES: '1' },
    globalSetup: ['test/support/global-setup.ts'],
    pool: 'forks',
    maxWorkers: 2,
    // Whatever the machine does meanwhile: what is kept is the order of events.
    testTimeout: 600_000,
    hookTimeout: 60_000,
    expect: { poll: { timeout: 15_000 } },
  },
});
