import { defineConfig } from 'vitest/config';
import { LongestFirst } from './test/support/longest-first.js';

/** `npm run test:faults`: what takes minutes, since real processes are killed and their work is taken over. */
export default defineConfig({
  test: {
    include: ['test/faults/**/*.faults.ts'],
    globalSetup: ['test/support/global-setup.ts'],
    pool: 'forks',
    // Most of the time is spent waiting for what a fault does: one more than the two cores of the smallest machine.
    maxWorkers: 3,
    sequence: { sequencer: LongestFirst },
    testTimeout: 120_000,
    hookTimeout: 60_000,
    // A wait ends as soon as what it waits for is there: long enough for a machine that is busy with something else.
    expect: { poll: { timeout: 15_000 } },
    reporters: ['verbose', './test/support/outcome-table.ts', './test/support/plain-summary.ts'],
  },
});
