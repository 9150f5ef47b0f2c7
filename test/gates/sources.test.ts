import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { decidePostgres } from '../../src/gates/decide-postgres.js';
import { formatExposition, parseExposition } from '../../src/gates/exposition.js';
import { forecastGates } from '../../src/gates/forecast.js';
import { volumeBetween, type PostgresSample } from '../../src/gates/postgres-series.js';
import { scrapeRouters } from '../../src/gates/scrape-source.js';
import { windowBetween } from '../../src/gates/window.js';
import { parsePlan } from '../../src/plan/parse.js';
import type { Plan } from '../../src/plan/schema.js';
import { RequestMetrics } from '../../src/router/metrics.js';
import { httpEndpoints } from '../../src/worker/http-endpoints.js';
import { MetricsPage } from '../support/prometheus.js';

function plan(traffic: object): Plan {
  const parsed = parsePlan({ name: 'shop', blue: { connection: 'a' }, green: { connection: 'b' }, traffic });
  if (!('plan' in parsed)) throw new Error(JSON.stringify(parsed.findings));
  return parsed.plan;
}

const UNCOMPARED = expect.stringMatching(
  /^no gate compares what green answers with what blue does: .* set the option "mirror" of the routers, and add the gate/,
) as string;

describe('the metrics pages of routers', () => {
  let pages: MetricsPage[];
  beforeAll(async () => {
    pages = [await MetricsPage.open(), await MetricsPage.open()];
  });
  afterAll(() => {
    for (const page of pages) page.close();
  });

  test("say what the routers' heartbeats say, and one that is away is named", async () => {
    const metrics = new RequestMetrics();
    metrics.showRoute({
      ...{ migration: 'shop', epoch: 3, generation: 7, writesOn: 'blue', greenReadPercent: 1 },
      ...{ flag: 'use-green-db', opening: null },
    });
    for (let i = 0; i < 20; i++) metrics.record('green', 'read', '/cart "x"', i < 2 ? 'error' : 'ok', i);
    metrics.record('blue', 'read', '/list', 'ok', 60_000);
    metrics.fallback('behind', '/list');
    for (const page of pages) page.text = await metrics.registry.metrics();
    const environment = { VERDIGRIS_CONNECTION_ROUTERS: pages.map((page) => page.url).join(', ') };
    const targets = httpEndpoints('traffic.scrape', 'routers', environment);
    const first = await scrapeRouters(targets, undefined);
    const { reads, fallbacks } = metrics.snapshot();
    expect(first.live).toHaveLength(2);
    expect(first.live[0]).toMatchObject({ epoch: 3, generation: 7, metrics: { reads, fallbacks } });
    expect(first.live[0]?.metrics.endpoints).toEqual(metrics.snapshot().endpoints);
    expect(first.live[0]?.metrics.endpoints?.['/cart "x"']?.green).toMatchObject({ requests: 20, errors: 2 });

    const [, second] = pages;
    if (second !== undefined) second.text = undefined;
    const then = await scrapeRouters(targets, first);
    expect(then.live).toHaveLength(1);
    const window = windowBetween(first, then);
    expect(window.green.requests).toBe(0);
    expect(window.unreachable).toEqual(['routers (address 2 of 2) answered HTTP 503']);
    if (second !== undefined) second.text = 'up 1\n';
    expect((await scrapeRouters(targets, first)).unreadable).toHaveLength(1);
  });
});

test('a page is read as it was written', () => {
  const samples = [
    { name: 'a', labels: { path: 'a\\b "c"\nd', le: '+Inf' }, value: 1.5 },
    { name: 'a', labels: {}, value: Infinity },
  ];
  expect(parseExposition(formatExposition('a', 'counter', 'what\nit is', samples))).toEqual(samples);
  expect(() => parseExposition('ok 1\n<html>')).toThrow('line 2');
});

test('a secret is in a header, never in a name or an address', () => {
  const [endpoint] = httpEndpoints('x', 'prom', { VERDIGRIS_CONNECTION_PROM: 'https://ada:p%40ss@host/base/' });
  expect(endpoint).toEqual({
    ...{ name: 'prom', url: 'https://host/base/' },
    authorization: `Basic ${Buffer.from('ada:p@ss').toString('base64')}`,
  });
  expect(() => httpEndpoints('x', 'prom', { VERDIGRIS_CONNECTION_PROM: 'postgres://u:secret@h/db' })).toThrow(
    /^(?!.*secret).*VERDIGRIS_CONNECTION_PROM is not an http/s,
  );
});

describe('the servers themselves', () => {
  const sample = (parts: Partial<PostgresSample>): PostgresSample => ({
    ...{ atMs: 0, lockWaits: [], whoWaits: '', oldestTransactionSeconds: 0, transactions: 0, assignedIds: 0 },
    ...{ decoded: 0, conflicts: 0, retainedWalBytes: 0, ...parts },
  });
  const series = (green: readonly PostgresSample[], volumeBefore?: number) => ({
    atOpening: { blue: sample({}), green: sample({ conflicts: 5 }) },
    samples: green.map((one) => ({ blue: sample({ atMs: one.atMs }), green: one })),
    volumeBefore,
  });

  test('three measurements in a row of a session that waits for a lock fail, two do not', () => {
    const gate = { metric: 'blockingLocks', max: 0, longerThan: '5s' } as const;
    const waits = sample({ lockWaits: [9], whoWaits: 'pid 1 has waited 9.0 s for pid 2', conflicts: 5 });
    expect(decidePostgres(gate, series([waits, waits]))).toMatchObject({ outcome: 'inconclusive' });
    const failed = decidePostgres(gate, series([waits, waits, waits]));
    expect(failed.outcome).toBe('fail');
    expect(failed.because).toContain('pid 1 has waited 9.0 s for pid 2');
    const free = sample({ lockWaits: [1] });
    expect(decidePostgres(gate, series([waits, waits, free])).outcome).toBe('inconclusive');
    expect(decidePostgres(gate, series([waits, waits, free, free, free])).outcome).toBe('pass');
  });

  test('a conflict since the stage opened fails at once, one from before does not', () => {
    const gate = { metric: 'conflicts', max: 0 } as const;
    expect(decidePostgres(gate, series([sample({ conflicts: 5 })])).outcome).toBe('pass');
    expect(decidePostgres(gate, series([sample({ conflicts: 6 })])).outcome).toBe('fail');
  });

  test('a transaction that stays open, and WAL that is kept for green, fail at the third measurement', () => {
    const transactions = { metric: 'longTransactions', max: '1m' } as const;
    const [old, young] = [sample({ oldestTransactionSeconds: 120 }), sample({ oldestTransactionSeconds: 59 })];
    expect(decidePostgres(transactions, series([old, old])).outcome).toBe('inconclusive');
    expect(decidePostgres(transactions, series([old, old, old]))).toEqual({
      outcome: 'fail',
      because: 'the oldest open transaction is 2 min old; 1 min is allowed, for 3 measurements in a row',
    });
    expect(decidePostgres(transactions, series([young, young, young])).outcome).toBe('pass');
    expect(decidePostgres(transactions, series([old, old, young, old, old, young])).outcome).toBe('inconclusive');

    const retained = { metric: 'retainedWal', max: '2GB' } as const;
    const kept = (...bytes: number[]) => ({
      ...series([]),
      samples: bytes.map((retainedWalBytes) => ({ blue: sample({ retainedWalBytes }), green: sample({}) })),
    });
    const [much, little] = [2 ** 31 + 2 ** 20, 2 ** 31];
    expect(decidePostgres(retained, kept(much, much)).outcome).toBe('inconclusive');
    expect(decidePostgres(retained, kept(much, much, much))).toEqual({
      outcome: 'fail',
      because: 'blue retains 2049 MB of WAL for green; 2GB is allowed, for 3 measurements in a row',
    });
    expect(decidePostgres(retained, kept(much, much, little)).outcome).toBe('inconclusive');
    expect(decidePostgres(retained, kept(much, little, little, little)).outcome).toBe('pass');
  });

  test('transactions that are missing fail, and nothing is missed where there were none', () => {
    const gate = { metric: 'transactionVolume', maxDrop: 0.5 } as const;
    const at = (rate: number) =>
      Array.from({ length: 31 }, (_, i) => sample({ atMs: i * 2_000, transactions: i * 2 * rate }));
    expect(decidePostgres(gate, series(at(90), 100)).outcome).toBe('pass');
    expect(decidePostgres(gate, series(at(20), 100)).outcome).toBe('fail');
    expect(decidePostgres(gate, series(at(0), 0)).outcome).toBe('inconclusive');
    expect(decidePostgres(gate, series(at(90))).outcome).toBe('inconclusive');
  });

  test('what replication applies on green is no transaction of the application, however often blue has decoded it', () => {
    const gate = { metric: 'transactionVolume', maxDrop: 0.5 } as const;
    /** So much a second since ever; blue has 500 transactions a second, and green has copied many rows. */
    const measured = (
      perSecond: Readonly<Record<'applied' | 'decoded' | 'read' | 'elsewhere', number>>,
      blue = 500,
    ) => {
      const { applied, decoded, read, elsewhere } = perSecond;
      const samples = Array.from({ length: 31 }, (_, i) => ({
        blue: sample({ atMs: i * 2_000, transactions: i * 2 * blue, decoded: i * 2 * decoded }),
        green: sample({
          ...{ atMs: i * 2_000, transactions: 50_000 + i * 2 * (applied + read) },
          assignedIds: 9_000 + i * 2 * (applied + elsewhere),
        }),
      }));
      return decidePostgres(gate, { ...series([], 500), samples });
    };
    const tells = (rate: string): unknown => expect.stringContaining(`${rate} transactions a second on both sides`);
    const none = { applied: 0, decoded: 0, read: 0, elsewhere: 0 };
    // Four slots, each of which decodes all of it; tables that are not replicated.
    expect(measured({ ...none, applied: 300, decoded: 1_200 })).toEqual({ outcome: 'pass', because: tells('500.0') });
    expect(measured({ ...none, decoded: 800 }, 260)).toEqual({ outcome: 'pass', because: tells('260.0') });
    expect(measured({ ...none, applied: 300, decoded: 1_200 }, 0)).toEqual({ outcome: 'fail', because: tells('0.0') });
    // Writes in another database of green are not the application's reads.
    expect(measured({ applied: 100, decoded: 100, read: 300, elsewhere: 900 }, 100)).toEqual({
      ...{ outcome: 'pass', because: tells('400.0') },
    });
  });

  test('statistics that begin anew are counted from nothing', () => {
    const before = { blue: sample({ transactions: 1_000 }), green: sample({ transactions: 90_000, assignedIds: 5 }) };
    const after = {
      blue: sample({ atMs: 10_000, transactions: 1_500 }),
      green: sample({ atMs: 10_000, transactions: 20, assignedIds: 5 }),
    };
    expect(volumeBetween(before, after, 10)).toBe(52);
  });

  test('transactions that are missing hours after the others were counted hold, and fail nothing', () => {
    const gate = { metric: 'transactionVolume', maxDrop: 0.5 } as const;
    const HOUR = 3_600_000;
    /** Measurements that begin so long after the stage was opened. */
    const after = (ms: number) =>
      series(
        Array.from({ length: 31 }, (_, i) => sample({ atMs: ms + i * 2_000, transactions: i * 80 })),
        100,
      );
    expect(decidePostgres(gate, { ...after(0), volumeBeforeAtMs: -0.9 * HOUR }).outcome).toBe('fail');
    const atNight = decidePostgres(gate, { ...after(0), volumeBeforeAtMs: -10 * HOUR });
    expect(atNight.outcome).toBe('inconclusive');
    expect(atNight.because).toContain('that was 10 h ago: it may be the hour of the day');
    // While an approval or a window is waited for; when it was counted was not kept.
    expect(decidePostgres(gate, after(0.5 * HOUR)).outcome).toBe('fail');
    expect(decidePostgres(gate, after(2 * HOUR)).outcome).toBe('inconclusive');
  });
});

describe('the forecast', () => {
  const gates = [{ metric: 'errorRate', max: 0.001 }];
  const snapshot = { live: [], stale: [], unreadable: [] };
  const empty = windowBetween({ at: '2026-11-23T00:00:00Z', ...snapshot }, { at: '2026-11-23T00:00:05Z', ...snapshot });

  test('says with the numbers that a stage is too short for its gate', () => {
    const window = { ...empty, blue: { ...empty.blue, requests: 50 } };
    const [first] = forecastGates(plan({ gates }), { routers: 1, window });
    expect(first).toContain(
      'stage 1 % for 15m at 10 reads a second gives 90 on green; errorRate max 0.001 needs 2,995',
    );
    expect(first).toContain("it can't pass before maxStageDuration (4h)");
    // The time of the stage itself comes before that.
    const long = plan({ gates, stages: [{ percent: 1, for: '3h' }], maxStageDuration: '2h' });
    const forecast = (requests: number): string[] =>
      forecastGates(long, { routers: 1, window: { ...empty, blue: { ...empty.blue, requests } } });
    expect(forecast(100)[0]).toContain('it lasts about 4.2 h');
    expect(forecast(80)[0]).toContain("it can't pass before maxStageDuration (2h)");
    // A dry run holds nothing.
    expect(forecastGates(plan({ gates: [{ ...gates[0], dryRun: true }] }), { routers: 1, window })).toEqual([
      UNCOMPARED,
    ]);
    const busy = { ...empty, blue: { ...empty.blue, requests: 5_000 } };
    expect(forecastGates(plan({ gates }), { routers: 1, window: busy })).toEqual([UNCOMPARED]);
  });

  test('says that no gate would see wrong rows, as long as none does', () => {
    const busy = { ...empty, blue: { ...empty.blue, requests: 5_000 }, mirrored: { compared: 500, different: 0 } };
    const mismatches = { metric: 'mismatchRate', max: 0.01 };
    const told = (own: object[], stages = [{ percent: 1, for: '15m' }]): string[] =>
      forecastGates(plan({ gates: own, stages }), { routers: 1, window: busy });
    expect(told(gates)).toEqual([
      expect.stringMatching(/wrong rows .* the routers mirror reads already: add the gate/),
    ]);
    expect(told([...gates, { ...mismatches, dryRun: true }])).toHaveLength(1);
    expect(told([...gates, { metric: 'rowDifferences', max: 0 }])).toEqual([
      expect.stringContaining('(rowDifferences compares tables)'),
    ]);
    expect(told([...gates, mismatches])).toEqual([]);
    expect(told(gates, [{ percent: 0, for: '15m' }])).toEqual([]);
    // Whoever reads without a router can mirror nothing.
    expect(forecastGates(plan({ gates: [{ metric: 'lag', max: '1s' }] }), { routers: 0 })).toEqual([]);
  });

  test('says that nobody reads, and that no router mirrors', () => {
    expect(forecastGates(plan({ gates }), { routers: 2, window: empty })).toEqual([
      "the routers have had no read within 5 s: errorRate can't decide",
      UNCOMPARED,
    ]);
    const window = { ...empty, blue: { ...empty.blue, requests: 5_000 } };
    const mismatches = plan({ gates: [{ metric: 'mismatchRate', max: 0.01 }] });
    expect(forecastGates(mismatches, { routers: 2, window })).toEqual([
      'no router mirrors reads: mismatchRate can\'t decide; set the option "mirror" of the routers',
    ]);
    const mirrored = (compared: number) => ({ ...window, mirrored: { compared, different: 0 } });
    expect(forecastGates(mismatches, { routers: 2, window: mirrored(500) })).toEqual([]);
    expect(forecastGates(mismatches, { routers: 2, window: mirrored(1) })[0]).toContain('0.2 mirrored reads a second');
  });

  test('says the same of requests that Prometheus counts, without any router', () => {
    const share = { metric: 'prometheus', name: 'orders', connection: 'p', query: 'q', requests: 'r', max: 0.005 };
    const counted = plan({ gates: [share] });
    const [gate] = counted.traffic.gates;
    if (gate === undefined) throw new Error('no gate');
    const at = (perSecond: number): string[] =>
      forecastGates(counted, { routers: 0, prometheus: new Map([[gate, perSecond]]) });
    expect(at(20)[0]).toContain(
      'stage 1 % for 15m at 20 requests a second gives 180 on green; prometheus: orders max 0.005 needs 598',
    );
    expect(at(100)).toEqual([]);
    expect(forecastGates(counted, { routers: 0 })).toEqual([]);
  });

  test('says that there are no transactions to miss', () => {
    const volume = plan({ gates: [{ metric: 'transactionVolume', maxDrop: 0.5 }] });
    expect(forecastGates(volume, { routers: 0, transactions: 0.25 })).toEqual([
      expect.stringContaining(
        '0.3 transactions a second: transactionVolume needs 1 before the first stage to miss any',
      ),
    ]);
    expect(forecastGates(volume, { routers: 0, transactions: 1 })).toEqual([]);
    expect(forecastGates(volume, { routers: 0 })).toEqual([]);
    expect(forecastGates(plan({ gates: [{ metric: 'lag', max: '1s' }] }), { routers: 0, transactions: 0 })).toEqual([]);
  });

  test('says that nobody reports', () => {
    expect(forecastGates(plan({ gates }), { routers: 0 })[0]).toContain('no router reports');
    expect(forecastGates(plan({ gates: [{ metric: 'lag', max: '1s' }] }), { routers: 0 })).toEqual([]);
  });
});
