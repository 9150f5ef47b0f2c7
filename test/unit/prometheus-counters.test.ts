import { afterEach, describe, expect, test, vi } from 'vitest';
import type { Work } from '../../activities/context.js';
import { StageMeasurements, type StageBaseline, type StageEvidence } from '../../activities/stage-measurements.js';
import { decidePrometheus } from '../../src/gates/decide-prometheus.js';
import type { PrometheusGate, PrometheusMeasurement } from '../../src/gates/prometheus-measurement.js';
import type { PrometheusAnswer } from '../../src/gates/prometheus-query.js';
import { measureStage } from '../../src/gates/prometheus-stage.js';
import type { ShareVerdict } from '../../src/gates/share.js';
import { countedAfter, type StageCounted } from '../../src/gates/stage-counts.js';
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

describe('counters as they are, of which only the sum is known', () => {
  const strict: PrometheusGate = { ...gate, max: 0.001 };
  type Counts = readonly [failed: number, all: number];
  /** What is said each quarter of a minute, and asked each five seconds, of a stage in which Prometheus reads its targets every so many seconds. */
  function saidOf(
    counts: (second: number) => Counts,
    { every = 15, until = 900, opened = [0, 0] as Counts },
  ): Map<number, ShareVerdict> {
    const opening = { green: value(opened[0]), requests: value(opened[1]) };
    const measured: PrometheusMeasurement[] = [];
    const said = new Map<number, ShareVerdict>();
    const openedAt = 1_800_000_000;
    let counted: StageCounted | undefined;
    for (let second = 5; second <= until; second += 5) {
      const [failed, all] = counts(Math.floor(second / every) * every).map(Math.round);
      const one = {
        ...{ green: value(failed ?? 0), requests: value(all ?? 0), query: 'q', opening },
        at: openedAt + second,
      };
      counted = countedAfter(counted, opening, one, openedAt);
      measured.push({ ...one, counted });
      if (second % 15 === 0) said.set(second, decidePrometheus(strict, { measured: [...measured] }));
    }
    return said;
  }
  const secondsOf = (said: Map<number, ShareVerdict>, outcome: string): number[] =>
    [...said].filter(([, verdict]) => verdict.outcome === outcome).map(([second]) => second);
  const judged = (said: Map<number, ShareVerdict>): number =>
    Number(/of ([\d,]+) requests/.exec([...said.values()].at(-1)?.because ?? '')?.[1]?.replaceAll(',', ''));
  const INTERVALS = [5, 15, 60];

  test.each(INTERVALS)('pass by what is added, read every %i s, whatever the stage before was like', (every) => {
    // The share of the traffic grows to fifty times what it was: the first reading has some of before.
    for (const before of [0.2, 1, 10]) {
      const said = saidOf((s) => [0, 40_000 + (s === 0 ? 0 : 10 * s + before * 7)], { every, opened: [0, 40_000] });
      expect(secondsOf(said, 'pass')[0]).toBeLessThanOrEqual(365);
      expect(secondsOf(said, 'pass').at(-1)).toBe(900);
    }
  });

  test.each(INTERVALS)('pass nothing by an instance that comes with its past, read every %i s', (every) => {
    const opened: Counts = [0, 40_000];
    for (const comes of [5, 50, 300]) {
      const bad = saidOf((s) => [s / 100, (s < comes ? 40_000 : 60_000) + s / 2], { every, opened });
      expect(secondsOf(bad, 'pass')).toEqual([]);
      expect(judged(bad)).toBeLessThan(460);
      // Nor is it blamed on green that it was broken before the stage.
      const well = saidOf((s) => [s < comes ? 0 : 2_000, (s < comes ? 40_000 : 60_000) + 10 * s], { every, opened });
      expect(secondsOf(well, 'fail')).toEqual([]);
      expect(secondsOf(well, 'pass')).toEqual([]);
      expect(well.get(900)?.because).toMatch(/of before the stage, which increase/);
    }
  });

  test.each(INTERVALS)('pass nothing by labels that change, read every %i s, and go on to count', (every) => {
    for (const from of [5, 60, 300]) {
      const once = (s: number): Counts => [s / 100, 60_000 + s / 2];
      const isTwice = (s: number): boolean => s >= from && s < from + Math.max(35, every);
      const said = saidOf((s) => (isTwice(s) ? (once(s).map((n) => 2 * n) as unknown as Counts) : once(s)), {
        ...{ every, opened: [0, 60_000] as Counts, until: 1_200 },
      });
      expect(secondsOf(said, 'pass')).toEqual([]);
      expect(judged(said)).toBeLessThan(620);
      expect(secondsOf(said, 'fail').length).toBeGreaterThan(0);
      // What green did wrong before it was mended keeps it for minutes, not for ever.
      const mended = (s: number): Counts => [2_000, 60_000 + 10 * s];
      const well = saidOf((s) => (isTwice(s) ? (mended(s).map((n) => 2 * n) as unknown as Counts) : mended(s)), {
        ...{ every, opened: [2_000, 60_000] as Counts },
      });
      expect(secondsOf(well, 'fail')).toEqual([]);
      expect(secondsOf(well, 'pass').at(-1)).toBe(900);
    }
  });

  test.each(INTERVALS)('fail a green that a deployment has broken, read every %i s', (every) => {
    for (const deployed of [60, 600]) {
      const broken = (s: number): Counts => [(s - deployed) / 2, 10 * (s - deployed)];
      const said = saidOf((s) => (s < deployed ? [0, 10 * s] : broken(s)), { every, until: deployed + 600 });
      expect(secondsOf(said, 'pass').filter((s) => s >= deployed + every)).toEqual([]);
      expect(secondsOf(said, 'fail')[0]).toBeLessThanOrEqual(deployed + 540);
      expect(judged(said)).toBeGreaterThan(10 * (deployed + 600) * 0.75);
    }
  });

  test.each(INTERVALS)('fail a green that dies again and again, read every %i s', (every) => {
    for (const begins of [0, 600]) {
      const dying = (s: number): Counts => [2 * ((s - begins) % 75), 10 * ((s - begins) % 75)];
      const said = saidOf((s) => (s < begins ? [0, 10 * s] : dying(s)), {
        every,
        until: begins + (every === 60 ? 3_000 : 300),
      });
      expect(secondsOf(said, 'pass').filter((s) => s >= begins + every + 60)).toEqual([]);
      // Of one life there are several readings, or less than two.
      expect(secondsOf(said, 'fail').length).toBeGreaterThan(0);
    }
  });

  test('are not silenced when the traffic grows after a restart, and the counter that fell was large', () => {
    const said = saidOf((s) => (s < 120 ? [0, 90_000 + s] : [(s - 120) / 2, 10 * (s - 120)]), {
      ...{ every: 60, opened: [0, 90_000] as Counts },
    });
    expect(secondsOf(said, 'pass')).toEqual([]);
    expect(secondsOf(said, 'fail')[0]).toBeLessThanOrEqual(720);
  });

  test.each(INTERVALS)('miss nothing by single readings that are missed, every %i s', (every) => {
    // One instance of ten, which has failed a tenth of its requests before it was mended.
    const missed = (s: number): boolean => Math.floor(s / every) % 13 === 7;
    const said = saidOf((s) => (missed(s) ? [18_000, 180_000 + 9 * s] : [20_000, 200_000 + 10 * s]), {
      ...{ every, opened: [20_000, 200_000] as Counts, until: 1_200 },
    });
    expect(secondsOf(said, 'fail')).toEqual([]);
    expect(secondsOf(said, 'pass').at(-1)).toBe(1_200);
    expect(judged(said)).toBeLessThanOrEqual(12_000);
    expect(judged(said)).toBeGreaterThan(9_000);
  });

  test('are told by two Prometheus in turns, of which one has read a little earlier', () => {
    let look = 0;
    const turns =
      (failed: number) =>
      (s: number): Counts => {
        const told = s - (look++ % 2 === 0 ? 15 : 0);
        return [Math.max(0, failed * told), 20_000 + 10 * told];
      };
    const opened: Counts = [0, 20_000];
    const well = saidOf(turns(0), { every: 5, opened });
    expect(secondsOf(well, 'pass')[0]).toBeLessThanOrEqual(450);
    expect(judged(well)).toBeLessThanOrEqual(9_000);
    look = 0;
    const bad = saidOf(turns(0.1), { every: 5, opened });
    expect(secondsOf(bad, 'pass')).toEqual([]);
    expect(secondsOf(bad, 'fail').length).toBeGreaterThan(0);
  });

  test('pass nothing while some are missed at most readings', () => {
    // None to four of twenty, others at each look: what goes and what comes back is one number.
    const said = saidOf((s) => [s / 200, 400_000 + 3 * s - 20_000 * (((s / 5) * 7) % 5)], {
      ...{ every: 5, opened: [0, 400_000] as Counts, until: 1_800 },
    });
    expect(secondsOf(said, 'pass')).toEqual([]);
  });

  test("blame no trouble of both sides on green while blue's targets are missed at most readings", () => {
    const opening = { green: value(0), requests: value(0), blue: value(0), blueRequests: value(400_000) };
    const bySide: PrometheusGate = { ...strict, query: 'failed{side="{{side}}"}', requests: 'all{side="{{side}}"}' };
    let counted: StageCounted | undefined;
    const measured: PrometheusMeasurement[] = [];
    for (let second = 5; second <= 900; second += 5) {
      const missed = 20_000 * (((second / 5) * 7) % 5);
      const one = {
        ...{ green: value(second / 5), requests: value(10 * second), query: 'q', opening },
        ...{ blue: value(second), blueRequests: value(400_000 + 50 * second - missed), at: 1_800_000_000 + second },
      };
      counted = countedAfter(counted, opening, one, 1_800_000_000);
      measured.push({ ...one, counted });
      expect(decidePrometheus(bySide, { measured: [...measured] }).outcome).toBe('inconclusive');
    }
  });

  test('have their errors counted when the traffic has grown to twenty times what it was', () => {
    const said = saidOf((s) => (s < 600 ? [0, 2 * s] : [(s - 600) / 2, 1_200 + 40 * (s - 600)]), { until: 1_200 });
    expect(secondsOf(said, 'pass')).toEqual([]);
    expect(secondsOf(said, 'fail')[0]).toBeLessThanOrEqual(900);
    const well = saidOf((s) => [0, s < 600 ? 2 * s : 1_200 + 40 * (s - 600)], { until: 1_200 });
    expect(secondsOf(well, 'pass')[0]).toBeLessThanOrEqual(900);
  });

  test.each(INTERVALS)('are judged by batches that come every few minutes, read every %i s', (every) => {
    for (const minutes of [2, 5, 10]) {
      const batches = (s: number): number => Math.floor(s / (60 * minutes) + 0.4);
      const until = 5 * 60 * minutes + 60;
      const opened: Counts = [0, 40_000];
      const all = (s: number): number => 40_000 + s / 2 + 3_000 * batches(s);
      const said = saidOf((s) => [3_000 * batches(s), all(s)], { every, until, opened });
      expect(secondsOf(said, 'pass')).toEqual([]);
      expect(secondsOf(said, 'fail').length).toBeGreaterThan(0);
      const well = saidOf((s) => [0, all(s)], { every, until, opened });
      expect(secondsOf(well, 'pass').at(-1)).toBe(until - (until % 15));
      // Two are not known to be any.
      expect(secondsOf(well, 'pass')[0]).toBeGreaterThan(60 * minutes * 2);
    }
  });

  test.each(INTERVALS)('fail a green that breaks as the traffic grows a hundredfold, read every %i s', (every) => {
    for (const grows of [300, 330]) {
      const since = (s: number): number => Math.max(0, s - grows);
      const said = saidOf((s) => [50 * since(s), 0.5 * Math.min(s, grows) + 50 * since(s)], { every, until: 600 });
      expect(secondsOf(said, 'fail')[0]).toBeLessThanOrEqual(grows + (every === 60 ? 270 : 105));
      const well = saidOf((s) => [0, 0.5 * Math.min(s, grows) + 50 * since(s)], { every, until: 600 });
      expect(secondsOf(well, 'pass')[0]).toBeLessThanOrEqual(grows + 240);
    }
  });

  test.each(INTERVALS)(
    'fail nothing by errors of before the stage, however many instances come within a minute, read every %i s',
    (every) => {
      for (const many of [1, 3, 12]) {
        for (const comes of [310, 350]) {
          const come = (s: number): number =>
            Math.max(0, Math.min(many, Math.ceil((s - comes) / Math.max(5, 60 / many))));
          const said = saidOf((s) => [18_000 * come(s), 40_000 + 10 * s + 20_000 * come(s)], {
            ...{ every, opened: [0, 40_000] as Counts },
          });
          expect(secondsOf(said, 'fail')).toEqual([]);
          expect(said.get(900)?.because).toMatch(/of before the stage, which increase/);
        }
      }
    },
  );

  test('are told by two Prometheus in turns after an instance was taken away', () => {
    let look = 0;
    const said = saidOf(
      (s) => {
        const told = Math.floor(((look++ % 2 === 0 ? s : s - 30) + 60) / 60) * 60;
        return [0, 120_000 + 10 * told - (s < 200 ? 0 : 30_000)];
      },
      { every: 5, opened: [0, 120_000] },
    );
    expect(secondsOf(said, 'pass').at(-1)).toBe(900);
  });

  test('go on for a worker that comes later, also from what a version without parts has kept', () => {
    const opening = { green: value(0), requests: value(0) };
    const at = (second: number): PrometheusMeasurement => ({
      ...{ green: value(0), requests: value(10 * second), query: 'q', opening, at: 1_800_000_000 + second },
    });
    const looked = (from: number, until: number, before?: StageCounted): StageCounted => {
      let counted = before;
      for (let s = from; s <= until; s += 5) counted = countedAfter(counted, opening, at(s), 1_800_000_000);
      return JSON.parse(JSON.stringify(counted)) as StageCounted;
    };
    const outcomeOf = (second: number, counted: StageCounted): ShareVerdict =>
      decidePrometheus(strict, { measured: [{ ...at(second), counted }] });
    // Nobody has looked for ten minutes.
    const gap = looked(1_000, 1_000, looked(5, 400));
    expect(outcomeOf(1_000, gap)).toMatchObject({ outcome: 'pass' });
    expect(outcomeOf(1_000, gap).because).toContain('0 of 10,000 requests');
    const old: StageCounted = {
      green: { hits: 0, of: 4_000, last: { hits: 0, of: 4_000 }, fallen: [{ hits: 0, of: 50 }] },
    };
    expect(outcomeOf(500, looked(405, 500, old)).outcome).toBe('inconclusive');
    expect(outcomeOf(600, looked(405, 600, old))).toMatchObject({ outcome: 'pass' });
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

  test('is the largest sum of the two minutes before: an instance that was missed in that moment comes back', async () => {
    for (const missed of [1, 2]) {
      const prometheus = StubPrometheus.stub();
      const opened = prometheus.now - 5;
      prometheus.answer = (query, at) => {
        if (query === 'count(up)') return 3;
        const instances = at >= opened - 20 && at < opened + 10 ? 2 - missed : 2;
        const all = 20_000 * instances + Math.max(0, at - opened);
        return instances === 0 ? undefined : query === 'sum(all)' ? all : 0;
      };
      const looks = new Looks(prometheus);
      looks.windowSeconds = 5;
      for (let look = 0; look < 40; look++) expect((await looks.look()).outcome).not.toBe('pass');
      expect(looks.measured.at(-1)?.opening).toEqual({ green: value(0), requests: value(40_000) });
      expect((await looks.look()).because).toContain('0 of 205 requests');
    }
  });

  test('is asked again while one of the moments is not answered', async () => {
    const prometheus = stage();
    const before = prometheus.answer;
    let refused = true;
    prometheus.answer = (query, at) => {
      if (refused && at < prometheus.now - 100) throw new Error('no answer');
      return before(query, at);
    };
    const looks = new Looks(prometheus);
    expect((await looks.look()).outcome).toBe('error');
    refused = false;
    expect((await looks.look()).because).toContain('10 of 200 requests');
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
      asOwner: () => Promise.reject(new Error('no database')),
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
