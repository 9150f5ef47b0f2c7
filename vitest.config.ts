import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: ['test/support/global-setup.ts'],
    setupFiles: ['test/support/seeded-properties.ts'],
    pool: 'forks',
    // Two cores are the smallest machine that the suite is kept fast on.
    maxWorkers: 2,
    testTimeout: 120_000,
    hookTimeout: 60_000,
    // A wait ends as soon as what it waits for is there: long enough for a machine that is busy with something else.
    expect: { poll: { timeout: 15_000 } },
    // The second one prints a plain closing line, for people and machines that read no colours.
    reporters: ['default', './test/support/plain-summary.ts'],
  },
});
