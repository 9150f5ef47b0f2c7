import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { defineConfig } from 'vitest/config';

const UNIT = 'test/unit';

/** Tests that replace modules, which others would meet in the same process. */
const REPLACING = readdirSync(UNIT)
  .map((name) => join(UNIT, name))
  .filter((file) => readFileSync(file, 'utf8').includes('vi.mock('));

/** What both kinds of tests go by. */
const EACH = {
  setupFiles: 'test/support/seeded-properties.ts',
  pool: 'forks',
  testTimeout: 120_000,
  hookTimeout: 60_000,
  // A wait ends as soon as what it waits for is there: long enough for a machine that is busy with something else.
  expect: { poll: { timeout: 15_000 } },
} as const;

export default defineConfig({
  test: {
    globalSetup: ['test/support/global-setup.ts'],
    // Two cores are the smallest machine that the suite is kept fast on.
    maxWorkers: 2,
    // The second one prints a plain closing line, for people and machines that read no colours.
    reporters: ['default', './test/support/plain-summary.ts'],
    projects: [
      // Many quick files, which leave nothing behind: a process of its own for each would take longer than its tests.
      { test: { ...EACH, name: 'unit', include: [`${UNIT}/*.test.ts`], exclude: REPLACING, isolate: false } },
      // Each closes its own worker, and what they import takes longer than some of them run.
      { test: { ...EACH, name: 'runs', include: ['test/workflow/*.test.ts'], isolate: false } },
      { test: { ...EACH, name: 'isolated', include: ['test/!(unit|workflow)/**/*.test.ts', ...REPLACING] } },
    ],
  },
});
