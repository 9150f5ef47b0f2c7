import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { AS_A_RUN, IN_PLACE } from '../../bench/backfill/contenders.js';
import { benchBackfill, type BackfillBenchmark, type BackfillBenchOptions } from '../../bench/backfill/measure.js';

/*
 * The benchmark of the backfill with few rows: not for its figures, but for what becomes of them.
 */

const folder = mkdtempSync(join(tmpdir(), 'bench-backfill-test-'));

afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
});

/** A program in the place of pgroll; its path is relative, as people give it. */
function program(script: string): string {
  const file = join(folder, 'pgroll');
  writeFileSync(file, `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  return relative(process.cwd(), file);
}

function bench(options: Partial<BackfillBenchOptions>): Promise<BackfillBenchmark> {
  return benchBackfill({
    ...{ rows: 2_000, rounds: 1, lanes: 2, sizes: [], writesPerSecond: 50 },
    log: (line) => process.stdout.write(`${line}\n`),
    ...options,
  });
}

describe('the benchmark of the backfill', () => {
  it('leaves out a pgroll that fails in its measured part, says why, and keeps the figures of the others', async () => {
    const pgroll = program('[ "$1" != start ] || { echo "Error: $4 says no" >&2; exit 3; }');
    const { live, leftOut, failed } = await bench({ rounds: 2, pgroll });
    expect(live.map(({ contender }) => contender)).toEqual([
      ...[AS_A_RUN, IN_PLACE, 'plain UPDATE'],
      ...['plain UPDATE', IN_PLACE, AS_A_RUN],
    ]);
    expect(failed).toEqual([]);
    // The whole change was measured: who leaves the column nullable has not done it.
    expect(live.map(({ notNull }) => notNull)).toEqual([true, true, false, false, true, true]);
    expect(leftOut).toHaveLength(1);
    // The address without its password.
    expect(leftOut[0]).toMatch(
      /^pgroll is left out: .* start failed \(exit 3\): Error: postgres(ql)?:\/\/\*{3}@.* says no$/,
    );
  });

  it('leaves out a pgroll that does not come to the end of its change, or has changed nothing', async () => {
    const half = await bench({ pgroll: program('[ "$1" != complete ] || exit 4') });
    expect(half.leftOut).toEqual([expect.stringMatching(/^pgroll is left out: .* complete failed \(exit 4\)$/)]);
    const none = await bench({ pgroll: program('exit 0') });
    expect(none.leftOut).toEqual(['pgroll is left out: column "metadata" does not exist']);
  });

  it.each([undefined, ''])('says of a pgroll that was not given how to give it: %j', async (pgroll) => {
    const { live, leftOut } = await bench({ live: false, pgroll });
    expect(live).toEqual([]);
    expect(leftOut).toEqual(['pgroll is left out: set PGROLL_BIN to its binary']);
  });
});
