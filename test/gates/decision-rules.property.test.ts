import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { decideGate, type GateInput } from '../../src/gates/decide.js';
import { neededRequests } from '../../src/gates/forecast.js';
import type { Piece } from '../../src/gates/persistent-evidence.js';
import { surelyAbove, surelyLarger } from '../../src/gates/sequential.js';
import { judgeShare } from '../../src/gates/share.js';
import { Slices } from '../../src/gates/slices.js';
import type { EndpointWindow, GateWindow, SideWindow } from '../../src/gates/window.js';
import { LATENCY_BUCKETS_MS } from '../../src/router/metrics-snapshot.js';

const SHARE = fc.double({ min: 1e-4, max: 0.5, noNaN: true });
const sample = fc
  .tuple(fc.integer({ min: 1, max: 200_000 }), fc.double({ min: 0, max: 1, noNaN: true }))
  .map(([of, part]) => ({ of, hits: Math.floor(of * part ** 4) }));

function verdict(share: number, hits: number, of: number, blue?: { hits: number; of: number }): string {
  const question = { share, green: { surely: hits, possibly: hits, of }, what: 'reads' };
  return judgeShare(blue === undefined ? question : { ...question, blue }).outcome;
}

function piece(surely: number, of: number, blueHits = 0, blueOf = 0): Piece {
  return { surely, of, blueHits, blueOf };
}

function window(parts: Partial<GateWindow>): GateWindow {
  const latency = LATENCY_BUCKETS_MS.map(() => 0).concat(0);
  const nothing = { requests: 0, errors: 0, latency };
  return {
    ...{ seconds: 60, blue: nothing, green: nothing, blueBefore: nothing, fallbacks: { behind: 0, error: 0 } },
    ...{ mirrored: { compared: 0, different: 0 }, endpoints: {}, liveInstances: 1, staleInstances: [] },
    ...{ unreadableInstances: [], unreachable: [], ...parts },
  };
}

describe('the decision about a share', () => {
  test('never passes on fewer requests than the exact bound needs without an error', () => {
    fc.assert(
      fc.property(SHARE, sample, (share, { of, hits }) => {
        const needed = neededRequests({ metric: 'errorRate', max: share });
        if (of < needed) expect(verdict(share, hits, of)).not.toBe('pass');
      }),
    );
  });

  test('is monotonic in errors: one more never helps green', () => {
    const worse = { pass: 0, inconclusive: 1, fail: 2 };
    fc.assert(
      fc.property(SHARE, sample, sample, (share, { of, hits }, blue) => {
        const now = verdict(share, hits, of, { hits: blue.hits, of: blue.of });
        const more = verdict(share, Math.min(of, hits + 1), of, { hits: blue.hits, of: blue.of });
        expect(worse[more as keyof typeof worse]).toBeGreaterThanOrEqual(worse[now as keyof typeof worse]);
      }),
    );
  });

  test('never fails green for what is no more than on blue', () => {
    fc.assert(
      fc.property(SHARE, sample, fc.integer({ min: 1, max: 100 }), (share, { of, hits }, times) => {
        expect(verdict(share, hits, of, { hits: hits * times, of: of * times })).not.toBe('fail');
      }),
    );
  });

  test('no single moment fails a gate, whatever happens in it', () => {
    fc.assert(
      fc.property(
        SHARE,
        fc.integer({ min: 0, max: 50_000 }),
        fc.integer({ min: 1, max: 5_000 }),
        (share, good, bad) => {
          const green = { surely: bad, possibly: bad, of: good + bad };
          const slices = new Slices([piece(0, good), piece(bad, bad)]);
          const pieces = { slices, name: 'reads', count: (slice: Piece) => slice };
          expect(judgeShare({ share, green, what: 'reads', pieces }).outcome).not.toBe('fail');
        },
      ),
    );
  });
});

describe('evidence that may be looked at again and again', () => {
  test('a green at its limit is hardly ever above it at any of a thousand looks', () => {
    let alarms = 0;
    let state = 7;
    const next = (): number => (state = (state * 48_271) % 2_147_483_647) / 2_147_483_647;
    for (let run = 0; run < 300; run++) {
      let hits = 0;
      for (let n = 1; n <= 2_000; n++) {
        if (next() >= 0.01) continue;
        hits += 1;
        // Between hits the evidence only falls.
        if (!surelyAbove(0.01, hits, n)) continue;
        alarms += 1;
        break;
      }
    }
    expect(alarms).toBeLessThanOrEqual(3);
  });

  test('finds a broken green, and one that is worse than blue', () => {
    expect(surelyAbove(0.001, 4, 4)).toBe(true);
    expect(surelyAbove(0.001, 15, 3_000)).toBe(true);
    expect(surelyLarger(15, 3_000, 60, 297_000)).toBe(true);
    expect(surelyLarger(3, 3_000, 297, 297_000)).toBe(false);
  });
});

describe('input that shows nothing', () => {
  const odd = fc.constantFrom(NaN, Infinity, -Infinity, -1);

  test('never passes and never fails', () => {
    const gates = [
      { metric: 'errorRate', max: 0.001 },
      { metric: 'p99', max: '1s' },
      { metric: 'fallbackRate', max: 0.1 },
      { metric: 'mismatchRate', max: 0.1 },
    ] as const;
    fc.assert(
      fc.property(odd, odd, fc.boolean(), fc.boolean(), (requests, errors, dead, unreadable) => {
        const latency = LATENCY_BUCKETS_MS.map(() => 0).concat(requests);
        const input: GateInput = {
          window: window({
            green: { requests, errors, latency },
            liveInstances: dead ? 0 : 1,
            unreadableInstances: unreadable ? ['a'] : [],
            mirrored: { compared: requests, different: errors },
          }),
          lagMs: [requests, requests, requests],
        };
        for (const gate of gates) expect(decideGate(gate, input).outcome).toBe('inconclusive');
        // Three markers that never arrived are measurements.
        const ofLag = requests === Infinity ? 'fail' : 'inconclusive';
        expect(decideGate({ metric: 'lag', max: '1s' }, input).outcome).toBe(ofLag);
      }),
    );
  });

  test('a source that can not be asked is an error of its own gates alone', () => {
    const input: GateInput = { window: window({}), lagMs: [1, 1, 1], failures: { routers: 'blue is away' } };
    expect(decideGate({ metric: 'errorRate', max: 0.1 }, input)).toMatchObject({ outcome: 'error' });
    expect(decideGate({ metric: 'lag', max: '1s' }, input)).toMatchObject({ outcome: 'pass' });
  });

  test('a metrics page that does not answer keeps the others from passing, not from failing', () => {
    const latency = LATENCY_BUCKETS_MS.map(() => 0).concat(5_000);
    const decide = (errors: number): string =>
      decideGate(
        { metric: 'errorRate', max: 0.001 },
        { window: window({ green: { requests: 5_000, errors, latency }, unreachable: ['router_2'] }), lagMs: [] },
      ).outcome;
    expect(decide(0)).toBe('error');
    expect(decide(500)).toBe('fail');
  });
});

describe('one endpoint of ten', () => {
  const LENGTH = LATENCY_BUCKETS_MS.length + 1;
  const took = (requests: number, ms: number): number[] => {
    const bucket = LATENCY_BUCKETS_MS.findIndex((upper) => ms <= upper);
    return Array.from({ length: LENGTH }, (_, i) => (i === bucket ? requests : 0));
  };
  const side = (requests: number, errors = 0, ms = 2): SideWindow => ({
    requests,
    errors,
    latency: took(requests, ms),
  });
  const nothing = side(0);

  /** Nine endpoints that are well, and one as given; the totals are their sums. */
  function input(rare: { blue: SideWindow; green: SideWindow }): GateInput {
    const usual = { blue: side(99_000, 10), green: side(1_111, 0), blueBefore: nothing };
    const endpoints: Record<string, EndpointWindow> = { '/rare': { ...rare, blueBefore: nothing } };
    for (let i = 1; i <= 9; i++) endpoints[`/usual/${i}`] = usual;
    const all = Object.values(endpoints);
    const total = (name: 'blue' | 'green'): SideWindow => ({
      requests: all.reduce((sum, one) => sum + one[name].requests, 0),
      errors: all.reduce((sum, one) => sum + one[name].errors, 0),
      latency: Array.from({ length: LENGTH }, (_, i) => all.reduce((sum, one) => sum + (one[name].latency[i] ?? 0), 0)),
    });
    return { window: window({ green: total('green'), blue: total('blue'), endpoints }), lagMs: [] };
  }

  test('that fails on green fails the error rate although it drowns in the sum', () => {
    const decision = decideGate({ metric: 'errorRate', max: 0.005 }, input({ blue: side(1_188), green: side(12, 12) }));
    expect(decision.outcome).toBe('fail');
    expect(decision.because).toContain('the endpoint /rare');
  });

  test('that fails on both sides alike is not blamed on green', () => {
    const both = input({ blue: side(1_188, 1_188), green: side(12, 12) });
    expect(decideGate({ metric: 'errorRate', max: 0.005 }, both).outcome).not.toBe('fail');
  });

  test.each([
    { metric: 'p99', max: '100ms' },
    { metric: 'p99', maxIncrease: '50ms' },
    { metric: 'p95', maxIncrease: '50ms' },
    { metric: 'p50', maxIncrease: '50ms' },
  ] as const)('that is 200 ms slower on green fails %o', (gate) => {
    const decision = decideGate(gate, input({ blue: side(1_188), green: side(30, 0, 200) }));
    expect(decision.outcome).toBe('fail');
    expect(decision.because).toContain('of the endpoint /rare');
  });

  test('that is slow on both sides is not blamed on green', () => {
    const slow = input({ blue: side(1_188, 0, 200), green: side(30, 0, 200) });
    for (const gate of [
      { metric: 'p99', max: '100ms' },
      { metric: 'p99', maxIncrease: '50ms' },
    ] as const) {
      expect(decideGate(gate, slow).outcome).not.toBe('fail');
    }
  });

  test('is compared with blue before the stage when the stage leaves blue nothing', () => {
    const endpoints = { '/a': { blue: nothing, green: side(100, 50), blueBefore: side(10_000, 5_000) } };
    const decision = decideGate(
      { metric: 'errorRate', max: 0.01 },
      { window: window({ green: side(100, 50), blueBefore: side(10_000, 5_000), endpoints }), lagMs: [] },
    );
    expect(decision.outcome).not.toBe('fail');
  });

  test('of a hundred healthy ones with noise none fails a gate by being one of many', () => {
    // Each endpoint of green is as blue: 1 % of its reads are slow and 0.1 % fail.
    const seeded = fc.sample(fc.integer({ min: 0, max: 2 ** 30 }), { numRuns: 50, seed: 7 });
    for (const seed of seeded) {
      let state = seed;
      const random = (): number => (state = (state * 1_103_515_245 + 12_345) % 2 ** 31) / 2 ** 31;
      const noisy = (requests: number): SideWindow => {
        let slow = 0;
        let errors = 0;
        for (let i = 0; i < requests; i++) {
          if (random() < 0.01) slow += 1;
          if (random() < 0.001) errors += 1;
        }
        const fast = took(requests - slow, 2);
        return { requests, errors, latency: took(slow, 300).map((n, i) => n + (fast[i] ?? 0)) };
      };
      const endpoints: Record<string, EndpointWindow> = {};
      for (let i = 0; i < 100; i++) endpoints[`/${i}`] = { blue: noisy(500), green: noisy(100), blueBefore: nothing };
      const noise = { window: window({ green: noisy(10_000), blue: noisy(50_000), endpoints }), lagMs: [] };
      for (const gate of [
        { metric: 'errorRate', max: 0.001 },
        { metric: 'p99', max: '100ms' },
        { metric: 'p99', maxIncrease: '50ms' },
      ] as const) {
        expect(decideGate(gate, noise).outcome).not.toBe('fail');
      }
    }
  });
});

describe('wrong rows for one endpoint, GET /invoice/:id, which has one read in 4,000', () => {
  const GATE = { metric: 'mismatchRate', max: 0.001 } as const;

  /** Slices of 400 mirrored reads, of which one in ten has a read of the endpoint. */
  function stage(count: number, isWrong: (read: number) => boolean): GateInput {
    const slices = Array.from({ length: count }, (_, number) => {
      const compared = number % 10 === 0 ? 1 : 0;
      const different = compared === 1 && isWrong(number / 10) ? 1 : 0;
      const endpoints = { '/usual': { compared: 399, different: 0 }, 'GET /invoice/:id': { compared, different } };
      return window({ mirrored: { compared: 400, different, endpoints } });
    });
    const sum = (of: (one: GateWindow['mirrored']) => number): number =>
      slices.reduce((all, { mirrored }) => all + of(mirrored), 0);
    const rare = {
      compared: sum(({ endpoints }) => endpoints?.['GET /invoice/:id']?.compared ?? 0),
      different: sum(({ different }) => different),
    };
    const compared = sum((one) => one.compared);
    const mirrored = {
      ...{ compared, different: rare.different },
      endpoints: { '/usual': { compared: compared - rare.compared, different: 0 }, 'GET /invoice/:id': rare },
    };
    return { window: window({ mirrored }), slices: new Slices(slices), lagMs: [] };
  }

  test('all of them fail the gate although their share of all reads is allowed', () => {
    const decision = decideGate(
      GATE,
      stage(120, () => true),
    );
    expect(decision.outcome).toBe('fail');
    expect(decision.because).toContain(
      '12 of 12 mirrored reads that green answers otherwise than blue, of the endpoint GET /invoice',
    );
  });

  test('a few of them in a row keep the stage, until there are enough to fail or to be no fault', () => {
    const decision = decideGate(
      GATE,
      stage(50, () => true),
    );
    expect(decision).toMatchObject({ outcome: 'inconclusive' });
    expect(decision.because).toContain('5 of 5 mirrored reads');
  });

  test('one unlucky read of a small endpoint is no obstacle, nor is an endpoint with too few reads to pass alone', () => {
    expect(
      decideGate(
        GATE,
        stage(120, (read) => read === 3),
      ).outcome,
    ).toBe('pass');
    expect(
      decideGate(
        GATE,
        stage(120, () => false),
      ).outcome,
    ).toBe('pass');
  });

  test('of routers that do not tell endpoints only the sum is judged', () => {
    const { window: all } = stage(120, () => true);
    const { compared, different } = all.mirrored;
    expect(decideGate(GATE, { window: window({ mirrored: { compared, different } }), lagMs: [] }).outcome).toBe('pass');
  });
});
