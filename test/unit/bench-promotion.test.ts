import { describe, expect, it } from 'vitest';
import { benchmarkNamed } from '../../bench/benchmarks.js';
import { exitCodeOf } from '../../bench/data/options.js';
import { wrongIn } from '../../bench/promotion/correctness.js';
import { OUTCOME, type LoadResult } from '../../bench/promotion/load-messages.js';
import { whatWasSeen } from '../../bench/promotion/measure.js';
import type { Move } from '../../bench/promotion/move.js';
import { CONTESTANTS, promotionOptions } from '../../bench/promotion/options.js';
import { resultOf } from '../../bench/promotion/pgbench-load.js';
import type { Measured } from '../../bench/promotion/result.js';
import { ordinarySeconds, quantile, secondOf, secondOfMove } from '../../bench/promotion/seconds.js';
import { targetsOf } from '../../bench/promotion/targets.js';

/** One write each 10 ms, of 2 ms; those that are due in a span take longer. */
function samples(seconds: number, slow: { from: number; to: number; took: number }[] = []): LoadResult {
  const due = Float64Array.from({ length: seconds * 100 }, (_, i) => i * 10);
  return {
    number: due.map((_, i) => i),
    due,
    took: due.map((at) => slow.find(({ from, to }) => at >= from && at < to)?.took ?? 2),
    outcome: new Uint8Array(due.length).fill(OUTCOME.acknowledged),
    ...{ failedWithoutNumber: 0, errors: {}, retried: 0 },
  };
}

function move(began: number, holdMs = 20): Move {
  const [tried, opened] = [began + 100, began + 100 + holdMs];
  return { from: 'blue', began, tried, opened, followed: opened + 700, holdMs, steps: {}, tries: 1, blocked: [] };
}

/** At this rate nine writes are enough. */
const options = promotionOptions(['--tps', '2']);

const SOUND = {
  ...{ payments: 9, acknowledged: 9, failed: 0, unanswered: 0, lost: 0, doubled: 0, failedButThere: 0 },
  ...{ isEqual: true, isBalanced: true },
};

function measured(contestant: Measured['contestant'], moves: readonly Move[], audit: Partial<Measured['audit']> = {}) {
  const seen = whatWasSeen(
    samples(
      20,
      moves.map(({ tried, holdMs }) => ({ from: tried, to: tried + 10, took: holdMs + 5 })),
    ),
    moves,
  );
  return {
    ...seen,
    ...{ contestant, audit: { ...SOUND, ...audit }, errors: {}, retried: 0, primaryAtEnd: 'blue' as const },
  };
}

describe('the benchmark of the promotion', () => {
  it('makes 20 moves each way at 1,000 transactions a second with everybody, unless asked otherwise', () => {
    expect(benchmarkNamed('promotion')).toBeDefined();
    expect(promotionOptions([])).toEqual({ moves: 20, tps: 1_000, rest: 4, only: CONTESTANTS, green: 18 });
    expect(promotionOptions(['--only', 'manual,router', '--moves', '2', '--green', '15'])).toMatchObject({
      ...{ moves: 2, only: ['router', 'manual'], green: 15 },
    });
    for (const wrong of [
      ['--only', 'tool'],
      ['--moves', '0'],
      ['--tps', '-5'],
    ]) {
      let code;
      try {
        promotionOptions(wrong);
      } catch (error) {
        code = exitCodeOf(error);
      }
      expect(code, wrong.join(' ')).toBe(1);
    }
  });

  it('counts a write to the second in which it was due, also when it ended later', () => {
    const all = samples(5, [{ from: 1_990, to: 2_000, took: 900 }]);
    expect(secondOf(all, 1_000, 2_000)).toEqual({ from: 1_000, to: 2_000, writes: 100, slowestMs: 900 });
    expect(secondOf(all, 2_000, 3_000).slowestMs).toBe(2);
  });

  it('has a second of a move that lasts as long as its tries did', () => {
    expect(secondOfMove(samples(20), move(5_000))).toMatchObject({ from: 5_100, to: 6_100 });
    expect(secondOfMove(samples(20), move(5_000, 2_000))).toMatchObject({ from: 5_100, to: 7_600 });
  });

  it('takes as ordinary only whole seconds that nothing of a move has touched', () => {
    // The first three seconds warm up; from 7.5 s to 9.32 s the move and what is near it.
    const seconds = ordinarySeconds(samples(13), [move(8_000)]);
    expect(seconds.map(({ from }) => from)).toEqual([3_000, 4_000, 5_000, 6_000, 10_000, 11_000]);
  });

  it('compares the slowest write of a move with that of the median ordinary second', () => {
    const { moves, ordinarySlowestMs } = whatWasSeen(
      samples(20, [
        { from: 10_100, to: 10_110, took: 42 },
        { from: 15_000, to: 15_010, took: 500 },
      ]),
      [move(10_000)],
    );
    expect(ordinarySlowestMs).toBe(2);
    expect(moves[0]).toMatchObject({ slowestMs: 42, aboveOrdinaryMs: 40 });
  });

  it('gives a quantile that was measured, never one in between', () => {
    expect([quantile([4, 1, 3, 2], 0.5), quantile([4, 1, 3, 2], 0.99), quantile([], 1)]).toEqual([2, 4, null]);
  });

  it("reads pgbench's log as a journal: when each was due, and who ended with an error", () => {
    const result = resultOf(
      ['3 1 4000 0 1000 500000 100', '0 2 2000 0 1000 400000 0', '0 1 1000 0 1000 100000 0', ''],
      'pgbench: error: client 3 script 0 aborted in command 8 query 0: FATAL\nprogress\n',
    );
    expect([...result.number]).toEqual([0, 1, 30_000_000]);
    expect([...result.due]).toEqual([1_000_099, 1_000_398, 1_000_496]);
    expect([...result.took]).toEqual([1, 2, 4]);
    expect(result).toMatchObject({ failedWithoutNumber: 1, errors: { 'aborted in command 8 query 0: FATAL': 1 } });
  });

  it('holds router and PgBouncer against their own limits, and the recipe by hand against none', () => {
    const moves = [move(5_000, 40), { ...move(12_000, 60), from: 'green' as const }];
    const lines = (one: Measured): unknown[] => targetsOf({ measured: [one] }).map(({ met }) => met);
    expect(lines(measured('router', moves))).toEqual([true, true, false, false, true, true, true]);
    expect(lines(measured('pgbouncer', moves))).toEqual([true, true, true, false, true, true, true]);
    expect(lines(measured('manual', moves))).toEqual([]);
  });

  it.each([
    ['a failed request', { failed: 1 }, 4],
    ['a request without an answer', { unanswered: 1 }, 4],
    ['a lost write', { lost: 1 }, 5],
    ['a doubled write', { doubled: 1 }, 5],
    ['rows that differ', { isEqual: false }, 6],
    ['sums that do not agree', { isBalanced: false }, 6],
  ])('misses a target for %s', (_, audit, line) => {
    const moves = [move(5_000), { ...move(12_000), from: 'green' as const }];
    const met = targetsOf({ measured: [measured('router', moves, audit)] }).map((target) => target.met);
    expect(met).toEqual(met.map((__, i) => i !== line));
    expect(wrongIn({ options, measured: [measured('router', moves, audit)] })).toHaveLength(1);
    expect(wrongIn({ options, measured: [measured('manual', moves, audit)] })).toEqual([]);
  });

  it('fails for what is wrong, never for a hold that is long', () => {
    const slow = measured('router', [move(5_000, 900)]);
    expect(targetsOf({ measured: [slow] }).some(({ met }) => met === false)).toBe(true);
    expect(wrongIn({ options, measured: [slow] })).toEqual([]);
    const there = measured('pgbouncer', [], { failedButThere: 2 });
    expect(wrongIn({ options, measured: [slow, there] })).toEqual([
      'pgbouncer: 2 writes not acknowledged, and there all the same',
    ]);
  });

  it('fails where the load has not run: a hold without writers is no figure', () => {
    const idle = measured('pgbouncer', [move(5_000), move(12_000)], { acknowledged: 5 });
    expect(wrongIn({ options, measured: [idle] })).toEqual([
      'pgbouncer: only 5 writes, of 16 that were due between the moves alone',
    ]);
  });
});
