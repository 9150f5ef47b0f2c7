import { afterEach, describe, expect, test, vi } from 'vitest';
import { decidePrometheus } from '../../src/gates/decide-prometheus.js';
import {
  requestsPerSecondNow,
  type PrometheusGate,
  type PrometheusMeasurement,
} from '../../src/gates/prometheus-measurement.js';
import { measureStage } from '../../src/gates/prometheus-stage.js';
import { StubPrometheus } from '../support/stub-prometheus.js';

const level: PrometheusGate = {
  ...{ metric: 'prometheus', name: 'p99', connection: 'p' },
  ...{ query: 'p99_ms{side="green"}', max: 200 },
};
const rise: PrometheusGate = {
  ...{ metric: 'prometheus', name: 'p99', connection: 'p' },
  ...{ query: 'p99_ms{side="{{side}}"}', maxIncrease: 50 },
};

afterEach(() => void vi.unstubAllGlobals());

/** The answers of a stage from its opening on, every five seconds; undefined where there is no series. */
async function looks(
  gate: PrometheusGate,
  answers: number,
  green: (n: number) => number | undefined,
  blue: (n: number) => number | undefined = () => 100,
): Promise<{ outcomes: string[]; measured: PrometheusMeasurement[] }> {
  const prometheus = StubPrometheus.stub();
  const opened = prometheus.now;
  const measured: PrometheusMeasurement[] = [];
  const outcomes: string[] = [];
  for (let n = 0; n < answers; n++) {
    prometheus.now = opened + 5 * n;
    prometheus.answer = (query) => (query.includes('green') ? green(n) : blue(n));
    const scope = { migration: 'shop', stage: 1, windowSeconds: 5 * n };
    measured.push(
      await measureStage({ name: 'p', url: 'http://prometheus.test' }, gate, scope, { before: measured.at(-1) }),
    );
    outcomes.push(decidePrometheus(gate, { measured: [...measured] }).outcome);
  }
  return { outcomes, measured };
}

describe('a number that stays beyond its limit', () => {
  test.each([2, 3, 6])('fails though every answer of %i is missing', async (every) => {
    const isThere = (n: number): boolean => n % every !== every - 1;
    const { outcomes, measured } = await looks(level, 40, (n) => (isThere(n) ? 900 : undefined));
    expect(outcomes.indexOf('fail')).toBeGreaterThan(5);
    expect(outcomes.indexOf('fail')).toBeLessThan(9);
    measured.slice(8).forEach(({ green, later }) => expect(later !== undefined).toBe(green.kind === 'value'));
    // A missing answer by itself fails nothing.
    outcomes.forEach((outcome, n) => expect(isThere(n) || outcome === 'inconclusive').toBe(true));
  });

  test("fails though blue's, which it is compared with, is missing now and then", async () => {
    const { outcomes } = await looks(
      rise,
      40,
      () => 900,
      (n) => (n % 6 === 5 ? undefined : 100),
    );
    expect(outcomes).toContain('fail');
  });

  test('does not fail when it has kept the limit once in half a minute, whatever is missing', async () => {
    const { outcomes } = await looks(level, 60, (n) => (n % 6 === 5 ? 100 : n % 6 === 4 ? undefined : 900));
    expect(outcomes).not.toContain('fail');
  });

  test('begins anew when nothing was told for more than two minutes, and what is missing passes nothing', async () => {
    const { outcomes } = await looks(level, 60, (n) => (n < 3 || n > 40 ? 900 : undefined));
    expect(outcomes.slice(0, 46)).not.toContain('fail');
    expect(outcomes).toContain('fail');
    const good = await looks(level, 40, (n) => (n % 3 === 2 ? undefined : 100));
    expect(good.outcomes).not.toContain('pass');
  });
});

describe('the requests of now', () => {
  const gate: PrometheusGate = {
    ...{ metric: 'prometheus', name: 'errors', connection: 'p', max: 0.01 },
    query: 'sum(increase(errors_total{side="{{side}}"}[{{window}}]))',
    requests: 'sum(increase(requests_total{side="{{side}}"}[{{window}}]))',
  };

  test.each([
    ['90 s of 8 a second', 8 * 90, 8 * 60, 8],
    ['5 min of 8 a second', 8 * 300, 8 * 60, 8],
    ['5 min, a quiet minute', 8 * 300, 0, 8],
    ['a Prometheus that reads once a minute', 8 * 300, undefined, 8],
    ['less than a minute', undefined, 8 * 30, 4],
    ['nothing', undefined, undefined, undefined],
  ])('are those that Prometheus has seen: %s', async (_, long, short, perSecond) => {
    const prometheus = StubPrometheus.stub();
    prometheus.answer = (query) => (query.includes('green') ? 0 : query.includes('[300s]') ? long : short);
    const scope = { migration: 'shop', stage: 0, windowSeconds: 300 };
    expect(await requestsPerSecondNow({ name: 'p', url: 'http://prometheus.test' }, gate, scope)).toBe(perSecond);
  });
});
