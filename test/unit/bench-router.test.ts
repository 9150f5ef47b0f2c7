import { describe, expect, it } from 'vitest';
import { benchmarkNamed } from '../../bench/benchmarks.js';
import { exitCodeOf } from '../../bench/data/options.js';
import { overBothOrders } from '../../bench/router/both-orders.js';
import { routerOptions } from '../../bench/router/options.js';
import { verdictOf, type Overhead } from '../../bench/router/targets.js';

const READ: Overhead = { workload: 'read', throughput: 0.98, moreMicroseconds: 12 };

describe('the benchmark of the router', () => {
  it('is one of npm run bench', () => {
    expect(benchmarkNamed('router')).toBeDefined();
  });

  it('says that a target is missed, by throughput or by time a query', () => {
    expect(verdictOf(READ)).toBe('met');
    expect(verdictOf({ ...READ, throughput: 0.96 })).toBe('missed');
    expect(verdictOf({ ...READ, moreMicroseconds: 51 })).toBe('missed');
  });

  it('judges no strict read on green, which has a question more', () => {
    expect(verdictOf({ workload: 'strict on green', throughput: 0.4, moreMicroseconds: 300 })).toBe('-');
    expect(verdictOf({ workload: 'session on green', throughput: 0.4, moreMicroseconds: 300 })).toBe('missed');
  });

  it('takes its options, and has as many connections as callers', () => {
    expect(routerOptions(['--callers', '4', '--seconds', '0.5'])).toMatchObject({
      callers: 4,
      connections: 4,
      seconds: 0.5,
    });
    let code: number | undefined;
    try {
      routerOptions(['--only', 'nothing']);
    } catch (error) {
      code = exitCodeOf(error);
    }
    expect(code).toBe(1);
  });

  it('compares over both orders: whoever comes second and has it easier each time gains nothing by it', () => {
    const [first, second] = [100, 120];
    const pairs = Array.from({ length: 80 }, (_, n) =>
      n % 2 === 0 ? { pool: first, router: second } : { pool: second, router: first },
    );
    const rate = (of: typeof pairs): number | null =>
      overBothOrders(
        of,
        (one) => one,
        (router, pool) => router / pool,
      );
    expect(rate(pairs)).toBe(1);
    expect(rate(pairs.slice(0, 3))).toBe(1);
    expect(rate(pairs.slice(0, 1))).toBe(1.2);
    expect(rate([])).toBeNull();
  });
});
