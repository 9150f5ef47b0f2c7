import { describe, expect, test } from 'vitest';
import { decidePrometheus } from '../../src/gates/decide-prometheus.js';
import type { PrometheusGate, PrometheusMeasurement } from '../../src/gates/prometheus-measurement.js';
import type { PrometheusAnswer } from '../../src/gates/prometheus-query.js';
import type { ShareVerdict } from '../../src/gates/share.js';

const value = (of: number): PrometheusAnswer => ({ kind: 'value', value: of });
const NONE: PrometheusAnswer = { kind: 'unclear', why: 'no series', isEmpty: true };
const AWAY: PrometheusAnswer = { kind: 'failed', why: 'prometheus has not answered within 5000 ms' };

const common = { metric: 'prometheus', name: 'errors', connection: 'p' } as const;

describe('counts of green whose blue is not seen', () => {
  const gate: PrometheusGate = {
    ...{ ...common, max: 0.001, query: 'failed{side="{{side}}"}', requests: 'all{side="{{side}}"}' },
  };
  /** Five in a hundred fail on green. */
  const said = (blue: (n: number) => Partial<PrometheusMeasurement>, leavesBlueTooFew = false): ShareVerdict => {
    const measured = Array.from({ length: 60 }, (_, i) => ({
      ...{ green: value(5 * (i + 1)), requests: value(100 * (i + 1)), query: 'q' },
      ...blue(i + 1),
    }));
    return decidePrometheus(gate, { measured, leavesBlueTooFew });
  };

  test('blame nobody, and say so', () => {
    const equal = said((n) => ({ blue: value(45 * n), blueRequests: value(900 * n) }));
    expect(equal).toMatchObject({ outcome: 'inconclusive' });
    const gone = said(() => ({ blue: NONE, blueRequests: NONE }));
    expect(gone).toMatchObject({ outcome: 'inconclusive' });
    expect(gone.because).toContain('on blue, which it is compared with: no series');
    expect(said(() => ({ blue: AWAY, blueRequests: AWAY }))).toMatchObject({
      outcome: 'error',
      because: expect.stringContaining('on blue') as string,
    });
    expect(said((n) => ({ blue: AWAY, blueRequests: value(900 * n) })).outcome).toBe('error');
    expect(said((n) => ({ blue: value(950 * n), blueRequests: value(900 * n) })).outcome).toBe('inconclusive');
  });

  test('fail when blue is seen and well, has never failed, is not asked about, or has left', () => {
    expect(said((n) => ({ blue: value(0), blueRequests: value(900 * n) })).outcome).toBe('fail');
    expect(said((n) => ({ blue: NONE, blueRequests: value(900 * n) })).outcome).toBe('fail');
    expect(said(() => ({})).outcome).toBe('fail');
    expect(said(() => ({ blue: NONE, blueRequests: NONE }), true).outcome).toBe('fail');
  });
});

describe('counters as they are', () => {
  const gate: PrometheusGate = { ...common, max: 0.001, query: 'failed', requests: 'all' };
  const opened = (failed: number, all: number) => ({ opening: { green: value(failed), requests: value(all) } });
  const at = (failed: number, all: number, more: Partial<PrometheusMeasurement> = {}): PrometheusMeasurement => ({
    ...{ green: value(failed), requests: value(all), query: 'q', ...more },
  });
  const outcome = (...measured: PrometheusMeasurement[]): string => decidePrometheus(gate, { measured }).outcome;
  /** Three minutes of good requests, told every five seconds. */
  const served = (failed: number, all: number, requests: number, more?: Partial<PrometheusMeasurement>) =>
    Array.from({ length: 36 }, (_, i) => at(failed, all + Math.floor((requests * (i + 1)) / 36), more));

  test('count from the opening of the stage', () => {
    const well = opened(0, 10_000);
    expect(outcome(at(0, 10_000, well), at(0, 10_000, well))).toBe('inconclusive');
    expect(outcome(...served(0, 10_000, 3_000, well))).toBe('pass');
    expect(outcome(...served(0, 10_000, 2_990, well))).toBe('inconclusive');
    // All of them in one answer may be an instance that has come with its past.
    expect(outcome(at(0, 10_000, well), at(0, 13_000, well))).toBe('inconclusive');
    // What green did wrong before it was mended is not the stage's.
    expect(outcome(...served(500, 3_000, 3_000, opened(500, 3_000)))).toBe('pass');
    // One that has begun to count since then has no series at the opening.
    const none = { opening: { green: NONE, requests: NONE } };
    expect(outcome(...served(0, 0, 3_000, none))).toBe('pass');
    expect(outcome(at(0, 3_000, { opening: { green: NONE, requests: AWAY } }))).toBe('error');
  });

  test('count anew when they have begun anew, and pass nothing by what they had before', () => {
    const well = opened(0, 10_000);
    expect(outcome(at(0, 10_500, well), at(0, 100, well))).toBe('inconclusive');
    expect(outcome(at(0, 10_500, well), at(0, 100, well), ...served(0, 100, 3_200, well))).toBe('pass');
    expect(outcome(at(0, 9_000, well))).toBe('inconclusive');
  });

  test('pass no more when nothing was added to the requests within two minutes', () => {
    const before = (requestsBefore: PrometheusAnswer): string =>
      outcome(...served(0, 0, 5_000, { ...opened(0, 0), requestsBefore }));
    expect(before(value(4_000))).toBe('pass');
    expect(before(NONE)).toBe('pass');
    expect(before(value(5_000))).toBe('inconclusive');
    expect(before(AWAY)).toBe('error');
  });

  test('that are read at different moments for green and blue are compared all the same', () => {
    const bySide: PrometheusGate = { ...gate, query: 'failed{side="{{side}}"}' };
    // Every 15 s, and Prometheus is asked every 5 s: green's are new at the first answer of three, blue's at the second.
    const failing = (blueFails: number): string => {
      const measured = Array.from({ length: 60 }, (_, i) => {
        const [green, blue] = [300 * Math.ceil((i + 1) / 3), 2_700 * Math.ceil(i / 3)];
        return {
          ...{ green: value(green), requests: value(green), query: 'q' },
          ...{ blue: value(blue * blueFails), blueRequests: value(blue) },
        };
      });
      return decidePrometheus(bySide, { measured }).outcome;
    };
    expect(failing(0)).toBe('fail');
    expect(failing(1)).toBe('inconclusive');
  });
});

describe('a number with a limit', () => {
  const gate: PrometheusGate = { ...common, query: 'level', max: 0.1 };
  const at = (level: number, later?: number): PrometheusMeasurement => ({
    ...{ green: value(level), query: 'q' },
    ...(later === undefined ? {} : { later: { green: value(later) } }),
  });
  const outcome = (...measured: PrometheusMeasurement[]): string => decidePrometheus(gate, { measured }).outcome;

  test('fails nothing by one sample, however often it is seen', () => {
    const seen = [0.01, 0.01, 0.2, 0.01].flatMap((level) => [at(level), at(level), at(level)]);
    for (let n = 1; n <= seen.length; n++) expect(outcome(...seen.slice(0, n))).not.toBe('fail');
  });

  test('fails when what came after it is beyond the limit by itself', () => {
    expect(outcome(at(0.2), at(0.2), at(0.2, 0.01))).toBe('inconclusive');
    expect(outcome(at(0.2), at(0.2), at(0.2, 0.2))).toBe('fail');
    expect(outcome(at(0.01), at(0.2), at(0.2, 0.2))).toBe('inconclusive');
    const unclear = { ...at(0.2), later: { green: NONE } };
    expect(outcome(at(0.2), at(0.2), unclear)).toBe('inconclusive');
  });

  test('is compared with blue in what came later, too', () => {
    const rise: PrometheusGate = { ...common, query: 'level{side="{{side}}"}', maxIncrease: 5 };
    const both = (blueLater: number): PrometheusMeasurement => ({
      ...{ green: value(20), blue: value(10), query: 'q' },
      later: { green: value(20), blue: value(blueLater) },
    });
    expect(decidePrometheus(rise, { measured: [both(10), both(10), both(10)] }).outcome).toBe('fail');
    expect(decidePrometheus(rise, { measured: [both(18), both(18), both(18)] }).outcome).toBe('inconclusive');
  });
});
