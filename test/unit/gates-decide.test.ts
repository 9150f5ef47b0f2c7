import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { atLeast, atMost, isAtMost, lowerBound, neededSample, upperBound } from '../../src/gates/binomial.js';
import { decideGate, failedMeasurement, worstOutcome, type GateDecision } from '../../src/gates/decide.js';
import { Slices } from '../../src/gates/slices.js';
import type { GateWindow, SideWindow } from '../../src/gates/window.js';
import type { Gate } from '../../src/plan/schema.js';
import { LATENCY_BUCKETS_MS } from '../../src/router/metrics-snapshot.js';

/** A side whose requests took the given times, in ms. */
function side(requests: number, errors = 0, ms: (request: number) => number = () => 1): SideWindow {
  const latency = Array.from({ length: LATENCY_BUCKETS_MS.length + 1 }, () => 0);
  for (let i = 0; i < requests; i++) {
    const found = LATENCY_BUCKETS_MS.findIndex((upper) => ms(i) <= upper);
    const bucket = found === -1 ? LATENCY_BUCKETS_MS.length : found;
    latency[bucket] = (latency[bucket] ?? 0) + 1;
  }
  return { requests, errors, latency };
}

function window(parts: Partial<GateWindow>): GateWindow {
  return {
    seconds: 60,
    blue: side(10_000),
    green: side(0),
    blueBefore: side(0),
    fallbacks: { behind: 0, error: 0 },
    mirrored: { compared: 0, different: 0 },
    endpoints: {},
    liveInstances: 2,
    staleInstances: [],
    unreadableInstances: [],
    unreachable: [],
    ...parts,
  };
}

const ERROR_RATE: Gate = { metric: 'errorRate', max: 0.001 };

function decide(gate: Gate, parts: Partial<GateWindow>, lagMs: readonly number[] = []): GateDecision {
  return decideGate(gate, { window: window(parts), lagMs });
}

describe('the exact binomial', () => {
  test.each([
    [0, 2_995],
    [1, 4_742],
    [2, 6_294],
    [3, 7_752],
    [5, 10_511],
    [10, 16_959],
  ])('with %i errors, "< 0.1 %%" at 95 %% needs %i requests', (errors, needed) => {
    expect(neededSample(errors, 0.001)).toBe(needed);
    expect(isAtMost(0.001, errors, needed)).toBe(true);
    expect(isAtMost(0.001, errors, needed - 1)).toBe(false);
  });

  test('bounds agree with the published values of Clopper and Pearson', () => {
    expect(upperBound(0, 100)).toBeCloseTo(0.02951, 5);
    expect(upperBound(10, 100)).toBeCloseTo(0.16373, 4);
    expect(lowerBound(10, 100)).toBeCloseTo(0.05526, 4);
    expect(lowerBound(0, 100)).toBe(0);
    expect(upperBound(100, 100)).toBe(1);
  });

  test('the two tails of a distribution add up to one', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 200_000 }),
        fc.double({ min: 0, max: 1, noNaN: true }),
        fc.double({ min: 1e-6, max: 0.999, noNaN: true }),
        (n, x, p) => {
          const k = Math.floor(x * n);
          expect(atMost(k, n, p) + atLeast(k + 1, n, p)).toBeCloseTo(1, 9);
        },
      ),
      { numRuns: 300 },
    );
  });
});

describe('errorRate', () => {
  test('passes at the first sample that shows it, and says before how many requests are missing', () => {
    expect(decide(ERROR_RATE, { green: side(2_995) }).outcome).toBe('pass');
    const before = decide(ERROR_RATE, { green: side(2_000) });
    expect(before.outcome).toBe('inconclusive');
    expect(before.because).toContain('995 more');
  });

  test('no requests is never a pass', () => {
    expect(decide(ERROR_RATE, { green: side(0) })).toMatchObject({ outcome: 'inconclusive' });
  });

  test('a broken green fails at once, long before the sample would suffice to pass', () => {
    expect(decide(ERROR_RATE, { green: side(10, 10) }).outcome).toBe('fail');
    expect(decide(ERROR_RATE, { green: side(400, 8) }).outcome).toBe('fail');
  });

  test('one unlucky request among the first few fails nothing', () => {
    for (const requests of [1, 2, 10, 30, 50]) {
      expect(decide(ERROR_RATE, { green: side(requests, 1) }).outcome).toBe('inconclusive');
    }
  });

  test('two unlucky requests fail nothing, however small the limit', () => {
    // By chance alone they would be next to impossible.
    expect(decide({ ...ERROR_RATE, max: 0.000001 }, { green: side(2, 2) }).outcome).toBe('inconclusive');
    expect(decide({ ...ERROR_RATE, max: 0.000001 }, { green: side(3, 3) }).outcome).toBe('fail');
  });

  test('a green that is as bad as blue is not blamed', () => {
    const decision = decide(ERROR_RATE, { green: side(2_000, 100), blue: side(2_000, 100) });
    expect(decision.outcome).toBe('inconclusive');
    expect(decision.because).toContain('green is not surely worse');
  });

  test('when a stage leaves blue no reads, green is compared with blue as it was before', () => {
    expect(decide(ERROR_RATE, { green: side(2_000, 100), blue: side(1, 0), blueBefore: side(5_000, 1) }).outcome).toBe(
      'fail',
    );
    expect(decide(ERROR_RATE, { green: side(2_000, 100), blue: side(0), blueBefore: side(5_000, 250) }).outcome).toBe(
      'inconclusive',
    );
    expect(decide(ERROR_RATE, { green: side(2_000, 100), blue: side(0) }).outcome).toBe('fail');
  });

  test('minRequests delays a pass, not a certain failure', () => {
    const gate: Gate = { ...ERROR_RATE, minRequests: 10_000 };
    expect(decide(gate, { green: side(5_000) }).outcome).toBe('inconclusive');
    expect(decide(gate, { green: side(10_000) }).outcome).toBe('pass');
    expect(decide(gate, { green: side(500, 50) }).outcome).toBe('fail');
  });

  test('a healthy green (0.02 %) hardly ever fails, though it is looked at all the time', () => {
    let seed = 1;
    const random = (): number => {
      seed = (seed * 48_271) % 2_147_483_647;
      return seed / 2_147_483_647;
    };
    let failed = 0;
    for (let run = 0; run < 300; run++) {
      let errors = 0;
      for (let requests = 1; requests <= 4_000; requests++) {
        const isError = random() < 0.0002;
        if (isError) errors += 1;
        if (isError && decide(ERROR_RATE, { green: side(requests, errors) }).outcome === 'fail') {
          failed += 1;
          break;
        }
      }
    }
    expect(failed).toBeLessThanOrEqual(3);
  });
});

describe('quantiles', () => {
  const p99 = (limits: Partial<Extract<Gate, { metric: 'p50' | 'p95' | 'p99' }>>): Gate => ({
    metric: 'p99',
    ...limits,
  });

  test('a limit passes with 299 fast requests and fails when too many are surely slower', () => {
    expect(decide(p99({ max: '100ms' }), { green: side(298) }).outcome).toBe('inconclusive');
    expect(decide(p99({ max: '100ms' }), { green: side(299) }).outcome).toBe('pass');
    expect(decide(p99({ max: '100ms' }), { green: side(1_000, 0, (i) => (i % 20 === 0 ? 180 : 5)) }).outcome).toBe(
      'fail',
    );
  });

  test('requests in the bucket of the limit itself neither pass nor fail it', () => {
    const green = side(1_000, 0, (i) => (i % 20 === 0 ? 90 : 5));
    expect(decide(p99({ max: '80ms' }), { green }).outcome).toBe('inconclusive');
  });

  test('an increase is measured from blue over the same window', () => {
    const slowGreen = side(2_000, 0, (i) => (i % 10 === 0 ? 400 : 5));
    expect(decide(p99({ maxIncrease: '50ms' }), { green: slowGreen }).outcome).toBe('fail');
    const slowBlue = side(2_000, 0, (i) => (i % 10 === 0 ? 400 : 5));
    expect(decide(p99({ maxIncrease: '50ms' }), { green: slowGreen, blue: slowBlue }).outcome).not.toBe('fail');
    expect(decide(p99({ maxIncrease: '50ms' }), { green: side(2_000, 0, () => 4) }).outcome).toBe('pass');
  });

  test('a stage of 100 % compares with blue as it was before', () => {
    const green = side(1_000, 0, () => 4);
    expect(decide(p99({ maxIncrease: '50ms' }), { green, blue: side(3), blueBefore: side(10_000) }).outcome).toBe(
      'pass',
    );
    expect(decide(p99({ maxIncrease: '50ms' }), { green, blue: side(3) })).toMatchObject({ outcome: 'inconclusive' });
  });

  test('blue with too few reads to know its quantile decides nothing', () => {
    const slow = side(2_000, 0, () => 4_000);
    expect(decide(p99({ maxIncrease: '50ms' }), { green: slow, blue: side(100) }).outcome).toBe('inconclusive');
  });

  test('the median asks for half of the requests', () => {
    expect(decide({ metric: 'p50', max: '20ms' }, { green: side(100, 0, (i) => (i % 4 === 0 ? 90 : 5)) }).outcome).toBe(
      'pass',
    );
    expect(decide({ metric: 'p50', max: '20ms' }, { green: side(100, 0, (i) => (i % 4 === 0 ? 5 : 90)) }).outcome).toBe(
      'fail',
    );
  });

  describe('of an endpoint', () => {
    const [fast, slow] = [(): number => 1, (): number => 2_000];
    const none = side(0);
    const quick = { green: side(2_000, 0, fast), blue: side(2_000, 0, fast), blueBefore: none };

    /** A limit after 40 slices, in each of which one slow read of the second endpoint has come to green. */
    const after40 = (blue: number, blueBefore: number, max = '250ms'): GateDecision['outcome'] => {
      const stage = (reads: number, bluesToo: number): GateWindow => {
        const export_ = { green: side(reads, 0, slow), blue: side(bluesToo), blueBefore: side(blueBefore) };
        const share = { green: side(50 * reads, 0, fast), blue: side(50 * reads, 0, fast), blueBefore: none };
        const all = {
          green: side(51 * reads, 0, (i) => (i < reads ? slow() : fast())),
          blue: side(50 * reads + bluesToo),
          blueBefore: side(blueBefore),
        };
        return window({ ...all, endpoints: { list: share, export: export_, ping: quick } });
      };
      const slices = new Slices<GateWindow>(Array.from({ length: 40 }, () => stage(1, blue / 40)));
      return decideGate(p99({ max }), { window: stage(40, blue), slices, lagMs: [] }).outcome;
    };

    test('that blue was never asked for, the time is nothing that green is blamed for', () => {
      expect(after40(0, 0)).not.toBe('fail');
      const endpoints = { a: quick, b: { green: side(40, 0, slow), blue: none, blueBefore: none } };
      const green = side(2_040, 0, (i) => (i < 40 ? slow() : fast()));
      // The sum may be blamed: here it keeps a larger limit.
      expect(decide({ metric: 'p95', max: '250ms' }, { green, blue: side(2_000), endpoints }).outcome).toBe('pass');
    });

    test('that blue answers fast, beside or before, green is blamed by', () => {
      expect(after40(400, 0)).toBe('fail');
      expect(after40(0, 400)).toBe('fail');
      const b = { green: side(40, 0, slow), blue: none, blueBefore: side(100) };
      const green = side(2_040, 0, (i) => (i < 40 ? slow() : fast()));
      const endpoints = { a: quick, b };
      expect(decide({ metric: 'p95', max: '250ms' }, { green, blue: side(2_000), endpoints }).outcome).toBe('fail');
    });
  });

  test('both limits must hold', () => {
    const green = side(2_000, 0, () => 30);
    expect(decide(p99({ max: '10ms', maxIncrease: '1s' }), { green }).outcome).toBe('fail');
  });
});

describe('lag and fallbacks', () => {
  test('the lag passes at the limit and fails only when it stays above it', () => {
    const lag: Gate = { metric: 'lag', max: '1s' };
    expect(decide(lag, {}, [20, 20, 20]).outcome).toBe('pass');
    expect(decide(lag, {}, [2_000, 1_000, 1_000, 1_000]).outcome).toBe('pass');
    expect(decide(lag, {}, [2_000]).outcome).toBe('inconclusive');
    expect(decide(lag, {}, [2_000, 2_000, 900]).outcome).toBe('inconclusive');
    expect(decide(lag, {}, [2_000, 2_000, 2_000]).outcome).toBe('fail');
  });

  test('a lag that green is catching up with, or that has lasted for a moment, fails nothing', () => {
    const lag: Gate = { metric: 'lag', max: '1s' };
    const catchingUp = decide(lag, {}, [20, 10_000, 3_500, 1_300]);
    expect(catchingUp.outcome).toBe('inconclusive');
    expect(catchingUp.because).toContain('catching up');
    expect(decide(lag, {}, [20, 1_100, 1_100, 1_100]).outcome).toBe('inconclusive');
    expect(decide(lag, {}, [20, 1_100, 1_100, 1_100, 1_100, 1_100]).outcome).toBe('fail');
    expect(decide(lag, {}, [20, 5_000, 5_200, 4_900]).outcome).toBe('fail');
  });

  test('a good moment does not pass it: three measurements in a row do', () => {
    const lag: Gate = { metric: 'lag', max: '1s' };
    expect(decide(lag, {}, [20, 20]).outcome).toBe('inconclusive');
    expect(decide(lag, {}, [1_800, 1_800, 20, 1_800, 1_800, 20]).outcome).toBe('inconclusive');
    expect(decide(lag, {}, [Number.NaN, 20, 20]).outcome).toBe('inconclusive');
  });

  test('markers that do not arrive though green answers fail it like those that arrive too late', () => {
    const lag: Gate = { metric: 'lag', max: '1s' };
    const never = Number.POSITIVE_INFINITY;
    expect(decide(lag, {}, [20, never, never]).outcome).toBe('inconclusive');
    expect(decide(lag, {}, [20, never, never]).because).toContain('after 3 measurements in a row, 2 so far');
    const stands = decide(lag, {}, [20, never, never, never]);
    expect(stands.outcome).toBe('fail');
    expect(stands.because).toContain('the marker has not arrived on green within 17 s');
    // Further behind than a marker is waited for, and no closer when one arrives at last.
    expect(decide(lag, {}, [20, never, never, 16_500]).outcome).toBe('fail');
    expect(decide(lag, {}, [20, never, never, 6_000]).because).toContain('catching up');
    expect(decide({ metric: 'lag', max: '1m' }, {}, [20, never, never, never]).outcome).toBe('fail');
  });

  test.each([[[]], [[Number.NaN]], [[-1]], [[Number.POSITIVE_INFINITY]], [[Infinity, Number.NaN, Infinity]]])(
    'a lag of %j decides nothing',
    (lagMs) => {
      expect(decide({ metric: 'lag', max: '1s' }, {}, lagMs).outcome).toBe('inconclusive');
    },
  );

  test('reads that blue had to answer count against the share of green', () => {
    const gate: Gate = { metric: 'fallbackRate', max: 0.05 };
    expect(decide(gate, { green: side(1_000), fallbacks: { behind: 5, error: 0 } }).outcome).toBe('pass');
    expect(decide(gate, { green: side(500), fallbacks: { behind: 500, error: 0 } }).outcome).toBe('fail');
    expect(decide(gate, { green: side(0), fallbacks: { behind: 0, error: 0 } }).outcome).toBe('inconclusive');
    // All on blue since green is away: none of green's requests, and yet a clear answer.
    expect(decide(gate, { green: side(0), fallbacks: { behind: 0, error: 300 } }).outcome).toBe('fail');
  });
});

describe('counts of Prometheus, which grow from answer to answer', () => {
  const gate: Gate = {
    metric: 'prometheus',
    ...{ name: 'failed', connection: 'prometheus', max: 0.001 },
    ...{ query: 'failed{side="{{side}}"}', requests: 'all{side="{{side}}"}' },
  };
  const value = (of: number) => ({ kind: 'value', value: of }) as const;

  /** What the gate says after answers every five seconds, of which each adds 500 requests on green. */
  function after(failures: readonly number[]): string {
    let failed = 0;
    const series = failures.map((added, number) => ({
      ...{ green: value((failed += added)), requests: value(500 * (number + 1)), query: 'q' },
      ...{ blue: value(0), blueRequests: value(50_000 * (number + 1)) },
    }));
    const prometheus = new Map([[gate, { measured: series }]]);
    return decideGate(gate, { window: window({}), lagMs: [], prometheus }).outcome;
  }

  test('fail when they grow again and again, not by one moment', () => {
    expect(after([0, 100])).toBe('inconclusive');
    expect(after([100, 100, 0, 0])).toBe('inconclusive');
    expect(after(Array.from({ length: 12 }, () => 20))).toBe('fail');
    expect(after(Array.from({ length: 12 }, () => 0))).toBe('pass');
  });

  const said = (counts: readonly (readonly [failed: number, all: number])[]): string => {
    const series = counts.map(([failed, all]) => ({ green: value(failed), requests: value(all), query: 'q' }));
    const prometheus = new Map([[gate, { measured: series }]]);
    return decideGate(gate, { window: window({}), lagMs: [], prometheus }).outcome;
  };

  test('fail nothing by the first answer alone: to a worker that takes over, all that was is one moment', () => {
    expect(said([[60, 20_000]])).toBe('inconclusive');
    expect(
      said([
        [60, 20_000],
        [60, 20_500],
        [60, 21_000],
      ]),
    ).toBe('inconclusive');
    expect(said([[0, 20_000]])).toBe('pass');
  });

  test('that fall begin anew, and do not have to reach what they were before they are seen again', () => {
    const well = Array.from({ length: 120 }, (_, i) => [0, 500 * (i + 1)] as const);
    const bad = (answers: number): [number, number][] =>
      Array.from({ length: answers }, (_, i) => [25 * (i + 1), 500 * (i + 1)]);
    expect(said([...well, ...bad(6)])).toBe('inconclusive');
    expect(said([...well, ...bad(12)])).toBe('fail');
    // What Prometheus extrapolates wavers a little: nothing is counted twice.
    const wavering = Array.from({ length: 40 }, (_, i) => [20, 10_000 + 100 * i - (i % 2) * 900] as const);
    expect(said(wavering)).toBe('inconclusive');
  });
});

describe('two Prometheus that answer in turns, of which one knows the last minutes alone', () => {
  const gate: Gate = {
    metric: 'prometheus',
    ...{ name: 'failed', connection: 'prometheus', max: 0.001 },
    ...{ query: 'increase(failed[{{window}}])', requests: 'increase(all[{{window}}])' },
  };
  const value = (of: number) => ({ kind: 'value', value: of }) as const;

  /** Answers every five seconds, 125 requests apart: one has known 30,000 and errors, the other 11,000 and none. */
  const said = (
    answers: number,
    errors: (answer: number) => number,
    whose = (answer: number): 'first' | 'second' => (answer % 2 === 0 ? 'first' : 'second'),
  ): string => {
    const measured = Array.from({ length: answers }, (_, i) => {
      const isFirst = whose(i) === 'first';
      const failed = errors(i) + (isFirst ? 50 : 0);
      return { green: value(failed), requests: value((isFirst ? 30_000 : 11_000) + 125 * i), query: 'q' };
    });
    return decideGate(gate, { window: window({}), lagMs: [], prometheus: new Map([[gate, { measured }]]) }).outcome;
  };

  test('are not one that grows again and again, and the one that knows less does not pass it', () => {
    for (let answers = 1; answers <= 60; answers++) expect(said(answers, () => 0)).toBe('inconclusive');
    const inPairs = (answer: number): 'first' | 'second' => (answer % 5 < 2 ? 'first' : 'second');
    for (let answers = 1; answers <= 60; answers++) expect(said(answers, () => 0, inPairs)).not.toBe('fail');
  });

  test('show a green that is bad all the same', () => {
    expect(said(60, (answer) => 5 * answer)).toBe('fail');
  });
});

describe('what is not a measurement never passes and never fails', () => {
  const good = side(10_000);
  const flawed: [string, Partial<GateWindow>][] = [
    ['no live router', { green: good, liveInstances: 0 }],
    ['a router of another version', { green: good, unreadableInstances: ['a'] }],
    ['NaN', { green: { ...good, requests: Number.NaN } }],
    ['negative counts', { green: { ...good, errors: -1 } }],
    ['infinite counts', { green: { ...good, requests: Number.POSITIVE_INFINITY } }],
    ['more errors than requests', { green: side(10, 11) }],
    ['a histogram that does not add up', { green: { ...good, requests: 20_000 } }],
    ['a window that ends before it begins', { green: good, seconds: -3 }],
    ['a window without a length', { green: good, seconds: Number.NaN }],
    ['fallbacks that are none', { green: good, fallbacks: { behind: Number.NaN, error: 0 } }],
    ['a blue that is none', { green: good, blue: { ...good, errors: Number.NaN } }],
  ];
  test.each(flawed)('%s', (_, parts) => {
    for (const gate of [ERROR_RATE, { metric: 'p99', max: '1s' }, { metric: 'fallbackRate', max: 0.5 }] as Gate[]) {
      expect(decide(gate, parts).outcome).toBe('inconclusive');
    }
  });

  test('a measurement that failed is an error', () => {
    expect(failedMeasurement('lag', 'green is away')).toMatchObject({ outcome: 'error', metric: 'lag' });
  });
});

test('together the worst outcome counts, and no gate at all shows nothing', () => {
  const of = (...outcomes: GateDecision['outcome'][]): string => worstOutcome(outcomes.map((outcome) => ({ outcome })));
  expect(of('pass', 'pass')).toBe('pass');
  expect(of('pass', 'inconclusive')).toBe('inconclusive');
  expect(of('inconclusive', 'error')).toBe('error');
  expect(of('error', 'fail', 'pass')).toBe('fail');
  expect(of()).toBe('inconclusive');
});
