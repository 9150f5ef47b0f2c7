import type { Reporter, TestModule } from 'vitest/node';

/** Prints `N passed, N failed` alone on the last line of a run. */
export default class PlainSummary implements Reporter {
  #line = '';

  onTestRunEnd(modules: readonly TestModule[], errors: readonly unknown[]): void {
    const counts = { passed: 0, failed: 0, skipped: 0 };
    for (const module of modules) {
      for (const test of module.children.allTests()) {
        const { state } = test.result();
        if (state !== 'pending') counts[state]++;
      }
      // A file that can't be loaded has no tests that could fail.
      if (module.state() === 'failed' && [...module.children.allTests('failed')].length === 0) counts.failed++;
    }
    counts.failed += errors.length;
    const skipped = counts.skipped === 0 ? '' : `, ${counts.skipped} skipped`;
    this.#line = `${counts.passed} passed, ${counts.failed} failed${skipped}`;
    // After the summary of the reporter before this one.
    process.once('exit', () => process.stdout.write(`${this.#line}\n`));
  }
}
