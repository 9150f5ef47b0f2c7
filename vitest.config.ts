import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: ['test/support/global-setup.ts'],
    pool: 'forks',
    // One more than the two cores of the smallest machine: about a fifth of the time is spent waiting.
    maxWorkers: 3,
    testTimeout: 60_000,
    hookTimeout: 60_000,
    // The second one prints a plain closing line, for people and machines that read no colours.
    reporters: ['default', './test/support/plain-summary.ts'],
  },
});
