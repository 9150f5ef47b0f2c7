import { afterEach, describe, expect, test, vi } from 'vitest';
import type { Work } from '../../activities/context.js';
import { StageMeasurements, type StageBaseline, type StageEvidence } from '../../activities/stage-measurements.js';
import { decidePrometheus } from '../../src/gates/decide-prometheus.js';
import type { PrometheusGate, PrometheusMeasurement } from '../../src/gates/prometheus-measurement.js';
import type { PrometheusAnswer } from '../../src/gates/prometheus-query.js';
import { measureStage } from '../../src/gates/prometheus-stage.js';
import type { ShareVerdict } from '../../src/gates/share.js';
import { planSchema } from '../../src/plan/schema.js';
import { databasesOf } from '../../src/worker/connections.js';
import { StubPrometheus } from '../support/stub-prometheus.js';

const value = (of: number): PrometheusAnswer => ({ kind: 'value', value: of });
const gate: PrometheusGate = {
  ...{ metric: 'prometheus', name: 'errors', connection: 'p' },
  ...{ query: 'sum(failed)', requests: 'sum(all)', max: 0.01 },
};
const endpoint = { name: 'p', url: 'http://prometheus.test' };

afterEach(() => void vi.unstubAllGlobals());

describe('counters as they are, of several instances', () => {
  /** What is said of a stage that opened at 100 of 100,000. */
  const said = (...counts: readonly (readonly [failed: number, all: number])[]): ShareVerdict => {
    const opening = { green: value(100), requests: value(100_000) };
    const measured = counts.map(([failed, all]) => ({
      ...{ green: value(failed), requests: value(all), query: 'q', opening },
    }));
    return decidePrometheus(gate, { measured });
  };
  const growing = (failed: number, all: number, by: readonly [number, number], answers: number): [number, number][] =>
    Array.from({ length: answers }, (_, i) => [failed + by[0] * i, all + by[1] * i]);

  test('pass nothing by what those that were not restarted had counted before the stage', () => {
    const answers = [
      ...([
        [100, 100_010],
        [110, 100_200],
        [99, 90_200],
        [77, 70_250],
        [50, 49_000],
        [50, 49_010],
      ] as const),
    ];
    for (let n = 1; n <= answers.length; n++) expect(said(...answers.slice(0, n)).outcome).not.toBe('pass');
    expect(said(...answers).because).toContain('of 210 requests on green');
  });

  test('go on to be judged by what is added when some were restarted', () => {
    expect(said([110, 100_200], ...growing(66, 60_200, [20, 100], 60)).outcome).toBe('fail');
    expect(said([110, 100_200], ...growing(66, 60_200, [0, 100], 60)).outcome).toBe('pass');
  });

  test('of which Prometheus misses some for a moment add what was added meanwhile, and not what comes back', () => {
    // One of a hundred, twice; then sixty at once, which come back one after the other.
    const once = [
      [110, 100_200],
      [109, 99_200],
      [109, 99_250],
      [110, 100_300],
      [109, 99_350],
      [110, 100_400],
    ] as const;
    expect(said(...once).because).toContain('10 of 400 requests');
    const many = [
      [50, 40_400],
      [70, 60_400],
      [90, 80_400],
      [110, 100_440],
    ] as const;
    expect(said(...once, ...many).because).toContain('10 of 440 requests');
  });
});

describe('what counters were when the stage opened', () => {
  /** Looks of one worker, every five seconds, of a stage that is open for a minute at the first of them. */
  class Looks {
    measured: PrometheusMeasurement[] = [];
    windowSeconds = 60;
    constructor(
      readonly prometheus: StubPrometheus,
      readonly kept?: Pick<PrometheusMeasurement, 'opening' | 'counted'>,
    ) {}
    async look(): Promise<ShareVerdict> {
      const scope = { migration: 'shop', stage: 1, windowSeconds: this.windowSeconds };
      const before = this.measured.at(-1);
      this.measured.push(await measureStage(endpoint, gate, scope, { before, kept: this.kept }));
      this.windowSeconds += 5;
      this.prometheus.now += 5;
      return decidePrometheus(gate, { measured: this.measured });
    }
  }

  /** Prometheus that remembers the opening, a minute ago, and 10 of 200 that failed since then. */
  function stage(): StubPrometheus {
    const prometheus = StubPrometheus.stub();
    const opened = prometheus.now - 60;
    prometheus.answer = (query, at) => {
      if (query === 'count(up)') return at < prometheus.remembersFrom ? undefined : 3;
      if (at < prometheus.remembersFrom) return undefined;
      if (query === 'sum(all)') return at <= opened ? 100_000 : 100_200;
      return at <= opened ? 100 : 110;
    };
    return prometheus;
  }

  test('stays known when an answer fails and Prometheus has lost it then', async () => {
    const prometheus = stage();
    const looks = new Looks(prometheus);
    expect((await looks.look()).because).toContain('10 of 200 requests');
    prometheus.isAway = true;
    expect((await looks.look()).outcome).toBe('error');
    prometheus.isAway = false;
    prometheus.remembersFrom = prometheus.now;
    const { outcome, because } = await looks.look();
    expect(because).toContain('10 of 200 requests');
    expect(outcome).toBe('inconclusive');
    expect(looks.measured.at(-1)?.opening).toEqual({ green: value(100), requests: value(100_000) });
  });

  test('is kept for the worker that takes over', async () => {
    const prometheus = stage();
    const first = new Looks(prometheus);
    await first.look();
    prometheus.remembersFrom = prometheus.now;
    const kept = JSON.parse(JSON.stringify(first.measured.at(-1))) as PrometheusMeasurement;
    expect((await new Looks(prometheus, kept).look()).because).toContain('10 of 200 requests');
  });

  test('is not taken for nothing where Prometheus knows nothing of that moment: what is added from then on counts', async () => {
    const prometheus = stage();
    prometheus.remembersFrom = prometheus.now;
    const looks = new Looks(prometheus);
    expect((await looks.look()).because).toContain('no requests yet');
    expect((await looks.look()).outcome).toBe('inconclusive');
    const before = prometheus.answer;
    prometheus.answer = (query, at) => (query === 'sum(all)' ? 101_200 : before(query, at));
    expect((await looks.look()).because).toContain('0 of 1,000 requests');
  });

  test('is nothing where Prometheus knows that moment, or is no one that knows `up`', async () => {
    const prometheus = stage();
    const before = prometheus.answer;
    const opened = prometheus.now - 60;
    prometheus.answer = (query, at) => (query !== 'count(up)' && at <= opened ? undefined : before(query, at));
    expect((await new Looks(prometheus).look()).because).toContain('110 of 100,200 requests');
    prometheus.remembersFrom = prometheus.now;
    prometheus.answer = (query, at) => (query === 'count(up)' ? undefined : before(query, at));
    expect((await new Looks(prometheus).look()).because).toContain('110 of 100,200 requests');
  });

  test('is written down with the evidence of the stage', async () => {
    const prometheus = stage();
    const environment = {
      VERDIGRIS_CONNECTION_P: endpoint.url,
      VERDIGRIS_CONNECTION_B: 'postgres://u:p@127.0.0.1:1/b',
      VERDIGRIS_CONNECTION_G: 'postgres://u:p@127.0.0.1:1/g',
    };
    const plan = planSchema.parse({
      ...{ name: 'shop', blue: { connection: 'b' }, green: { connection: 'g' }, traffic: { gates: [gate] } },
    });
    const openedAt = new Date((prometheus.now - 60) * 1_000).toISOString();
    const baseline: StageBaseline = { openedAt, sample: { at: openedAt, live: [], stale: [], unreadable: [] } };
    const work: Work = {
      ...{ databases: databasesOf(plan, environment), run: { runId: 'r', migration: plan.name } },
      ...{ signal: new AbortController().signal, report: () => undefined },
      session: () => Promise.reject(new Error('no database')),
    };
    const stageOf = async (before?: StageEvidence): Promise<{ because: string; evidence: StageEvidence }> => {
      const measurements = new StageMeasurements(work, plan, {
        ...{ stage: { percent: 1, for: '1m' }, baseline, environment, blueNow: () => prometheus.now * 1_000, before },
      });
      try {
        const series = () => measurements.input().prometheus?.get(plan.traffic.gates[0] ?? gate);
        await vi.waitFor(() => expect(series()?.measured.length).toBeGreaterThan(0), 5_000);
        const evidence = JSON.parse(JSON.stringify(measurements.evidence())) as StageEvidence;
        return { because: decidePrometheus(gate, series() ?? { measured: [] }).because, evidence };
      } finally {
        await measurements.close();
      }
    };
    const first = await stageOf();
    expect(first.because).toContain('10 of 200 requests');
    prometheus.now += 5;
    prometheus.remembersFrom = prometheus.now;
    expect((await stageOf(first.evidence)).because).toContain('10 of 200 requests');
    // Written by a version that did not keep it, or about another opening of the stage.
    const { counters, ...old } = first.evidence;
    expect(counters).toBeDefined();
    expect((await stageOf(old)).because).toContain('no requests yet');
    expect((await stageOf({ ...first.evidence, openedAt: '2026-01-01T00:00:00.000Z' })).because).toContain(
      'no requests yet',
    );
  });
});
