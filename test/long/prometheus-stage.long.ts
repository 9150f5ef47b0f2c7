import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { decidePrometheus } from '../../src/gates/decide-prometheus.js';
import type { PrometheusGate, PrometheusMeasurement } from '../../src/gates/prometheus-measurement.js';
import { measureStage } from '../../src/gates/prometheus-stage.js';
import type { ShareVerdict } from '../../src/gates/share.js';
import { findPrometheus, MetricsPage, TestPrometheus } from '../support/prometheus.js';

const program = findPrometheus();
if (program === undefined) process.stdout.write('SKIPPED stages that ask a real Prometheus: it is not installed\n');

/** Targets are read so often, s. */
const SCRAPED_EVERY = 15;
/** So long is what the page tells, s; a stage opens when so much of it is over, and something happens later. */
const TOLD = 630;
const OPENED = 300;
const HAPPENS = 450;
/** Green's and blue's targets are not read at the same moments. */
const BLUE_LATER = 5;

const gate = (query: string, more: Partial<PrometheusGate> = {}): PrometheusGate => ({
  metric: 'prometheus',
  ...{ name: 'test', connection: 'monitoring', query, max: 0.1, ...more },
});

describe.skipIf(program === undefined)('a stage of a real Prometheus (skipped where it is not installed)', () => {
  let page: MetricsPage;
  let prometheus: TestPrometheus;
  const begins = Math.floor(Date.now() / 1_000) - TOLD - 5;

  /** A series, by what it is at a moment, s. */
  const told = (series: string, valueAt: (second: number) => number, later = 0): string => {
    const lines = [];
    for (let s = later; s <= TOLD; s += SCRAPED_EVERY) {
      lines.push(`${series} ${valueAt(s)} ${(begins + s) * 1_000}`);
    }
    return lines.join('\n');
  };
  const isBroken = (s: number): boolean => s >= HAPPENS;
  const isNoise = (s: number): boolean => s >= HAPPENS && s < HAPPENS + SCRAPED_EVERY;
  const addedUp = (perSecond: (second: number) => number, from = 0) => {
    return (until: number): number => {
      let sum = from;
      for (let s = 0; s < until; s++) sum += perSecond(s);
      return sum;
    };
  };

  beforeAll(async () => {
    page = await MetricsPage.open();
    prometheus = await TestPrometheus.start(program ?? '', page);
    const served = (s: number): number => (s >= OPENED && s < HAPPENS ? 40 : 0);
    page.text = [
      told('level{of="noise"}', (s) => (isNoise(s) ? 0.2 : 0.01)),
      told('level{of="broken"}', (s) => (isBroken(s) ? 0.2 : 0.01)),
      told('all_total', (s) => 10 * s),
      told(
        'slow_total{of="noise"}',
        addedUp((s) => (isNoise(s) ? 9 : 0.1)),
      ),
      told(
        'slow_total{of="broken"}',
        addedUp((s) => (isBroken(s) ? 9 : 0.1)),
      ),
      told(
        'slow_total{of="before"}',
        addedUp((s) => (s >= OPENED - 120 && s < OPENED ? 9 : 0.1)),
      ),
      // Good reads from before, some in the stage, and none any more.
      told('served_total{side="green"}', addedUp(served, 10_000)),
      told('failed_total{side="green"}', () => 0),
      told(
        'served_total{side="blue"}',
        addedUp(() => 400, 50_000),
        BLUE_LATER,
      ),
      told('failed_total{side="blue"}', () => 0, BLUE_LATER),
      told('old_total{side="green"}', () => 10_000),
      // All fail since the stage opened, and some did before.
      told(
        'tried_total{side="green"}',
        addedUp((s) => (s >= OPENED ? 20 : 0), 400_000),
      ),
      told(
        'broke_total{side="green"}',
        addedUp((s) => (s >= OPENED ? 20 : 0), 100),
      ),
      told(
        'tried_total{side="blue"}',
        addedUp(() => 400, 50_000),
        BLUE_LATER,
      ),
      told('broke_total{side="blue"}', () => 0, BLUE_LATER),
      '',
    ].join('\n');
    const before = page.asked;
    while (page.asked < before + 3) await sleep(50);
    await sleep(200);
  });
  afterAll(async () => {
    await prometheus.stop();
    page.close();
  });

  /** What the gate says at each look, every five seconds, of a worker that came at a moment of its own. */
  async function looks(one: PrometheusGate, until: number, from = OPENED): Promise<Map<number, ShareVerdict>> {
    const measured: PrometheusMeasurement[] = [];
    const said = new Map<number, ShareVerdict>();
    const endpoint = { name: 'monitoring', url: prometheus.url };
    for (let s = from; s <= until; s += 5) {
      const scope = { migration: 'shop', stage: 10, windowSeconds: s - OPENED, atMs: (begins + s) * 1_000 };
      measured.push(await measureStage(endpoint, one, scope, { before: measured.at(-1) }));
      said.set(s, decidePrometheus(one, { measured: [...measured] }));
    }
    return said;
  }
  const firstFail = (said: Map<number, ShareVerdict>): number | undefined =>
    [...said].find(([, { outcome }]) => outcome === 'fail')?.[0];
  const share = (of: string): string => `sum(rate(slow_total{of="${of}"}[1m])) / sum(rate(all_total[1m]))`;
  const inWindow = (of: string): string =>
    `sum(increase(slow_total{of="${of}"}[{{window}}])) / sum(increase(all_total[{{window}}]))`;

  test('a gauge, or a share over a range, fails nothing by one sample, and within a minute when it stays bad', async () => {
    for (const query of ['level{of="noise"}', share('noise')]) {
      const said = await looks(gate(query), HAPPENS + 90);
      expect(firstFail(said), query).toBeUndefined();
      expect(said.get(HAPPENS + 90), query).toMatchObject({ outcome: 'pass' });
    }
    for (const query of ['level{of="broken"}', share('broken')]) {
      const failed = firstFail(await looks(gate(query), HAPPENS + 60)) ?? Infinity;
      expect(failed - HAPPENS, query).toBeLessThanOrEqual(60);
    }
    // One that is bad from the opening on.
    const atOnce = firstFail(await looks(gate('level{of="broken"}', { max: 0.001 }), OPENED + 60)) ?? Infinity;
    expect(atOnce - OPENED).toBeLessThanOrEqual(60);
  });

  test('one moment stays in a range as long as the stage, and holds it; what goes on fails', async () => {
    const noise = await looks(gate(inWindow('noise'), { max: 0.05 }), HAPPENS + 120);
    expect(firstFail(noise)).toBeUndefined();
    const held = noise.get(HAPPENS + 90);
    expect(held).toMatchObject({ outcome: 'inconclusive' });
    expect(held?.because).toContain('but what came after it is 0.01');
    const broken = firstFail(await looks(gate(inWindow('broken'), { max: 0.05 }), HAPPENS + 120)) ?? Infinity;
    expect(broken - HAPPENS).toBeLessThanOrEqual(90);
  });

  test('a worker that comes later asks Prometheus since when it is bad, and takes no longer', async () => {
    const from = HAPPENS + 60;
    const failed = firstFail(await looks(gate(share('broken')), from + 30, from)) ?? Infinity;
    expect(failed - from).toBeLessThanOrEqual(10);
    expect(firstFail(await looks(gate('level{of="noise"}'), HAPPENS + 120, HAPPENS + 10))).toBeUndefined();
  });

  test('what was bad before the stage opened is not of the stage', async () => {
    const query = `sum(rate(slow_total{of="before"}[5m])) / sum(rate(all_total[5m]))`;
    const said = await looks(gate(query), OPENED + 60);
    expect(
      [...said.values()].filter(({ because }) => because.includes('row; but') || / is [1-9]/.test(because)),
    ).toEqual([]);
    expect(said.get(OPENED + 60)).toMatchObject({ outcome: 'pass' });
  });

  const counters = (hits: string, requests: string): PrometheusGate =>
    gate(`sum(${hits}_total{side="{{side}}"})`, { requests: `sum(${requests}_total{side="{{side}}"})`, max: 0.001 });

  test('of counters as they are, what was counted before the stage passes nothing, nor what is old', async () => {
    const none = await looks(gate('vector(0)', { requests: 'sum(old_total{side="green"})', max: 0.001 }), OPENED + 60);
    for (const { outcome } of none.values()) expect(outcome).toBe('inconclusive');

    const one = counters('failed', 'served');
    const at = async (second: number, from = second): Promise<ShareVerdict | undefined> =>
      (await looks(one, second, from)).get(second);
    expect(await at(OPENED + 60)).toMatchObject({ outcome: 'inconclusive' });
    const good = await at(HAPPENS, HAPPENS - 60);
    expect(good).toMatchObject({ outcome: 'pass' });
    expect(good?.because).toContain('0 of 6,000 requests on green');
    const silent = await at(HAPPENS + 150, HAPPENS + 120);
    expect(silent).toMatchObject({ outcome: 'inconclusive' });
    expect(silent?.because).toContain('no requests within the last 2 min');
    // A worker that has just come, and counters by a function that leaves them as they are.
    expect((await at(HAPPENS))?.because).toContain('0 of 6,000 requests on green');
    const last = gate('vector(0)', { requests: 'sum(last_over_time(old_total{side="green"}[10m]))', max: 0.001 });
    expect((await looks(last, OPENED + 60, OPENED + 60)).get(OPENED + 60)).toMatchObject({ outcome: 'inconclusive' });
  });

  test('counters of a green that breaks fail it, though its target is read at other moments than that of blue', async () => {
    const failed = firstFail(await looks(counters('broke', 'tried'), OPENED + 90)) ?? Infinity;
    expect(failed - OPENED).toBeLessThanOrEqual(90);
  });
});

test('a number of a stage looks back no further than its opening, on green and blue, and counts look back as they say', async () => {
  const asked: { query: string | null; lookBack: string | null }[] = [];
  const server = createServer((request, response) => {
    let body = '';
    request.on('data', (part: Buffer) => (body += part.toString()));
    request.on('end', () => {
      const form = new URLSearchParams(body);
      asked.push({ query: form.get('query'), lookBack: form.get('lookback_delta') });
      const result = [{ metric: {}, value: [1, '0'] }];
      response.end(JSON.stringify({ status: 'success', data: { resultType: 'vector', result } }));
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const measured = async (one: PrometheusGate, windowSeconds: number) => {
    asked.length = 0;
    await measureStage(
      { name: 'm', url },
      one,
      { migration: 'shop', stage: 1, windowSeconds, atMs: 1e12 },
      { before: undefined },
    );
    return asked.map(({ query, lookBack }) => `${query} ${lookBack}`).sort();
  };
  const rate = gate('rate(x{side="{{side}}"}[5m])');
  expect(await measured(rate, 60.5)).toEqual(['rate(x{side="blue"}[60s]) 60s', 'rate(x{side="green"}[60s]) 60s']);
  expect(await measured(rate, 3)).toEqual(['rate(x{side="blue"}[15s]) 15s', 'rate(x{side="green"}[15s]) 15s']);
  expect(await measured(rate, 900)).toEqual([
    ...['rate(x{side="blue"}[5m]) 120s', 'rate(x{side="green"}[120s]) 120s', 'rate(x{side="green"}[5m]) 120s'],
  ]);
  const counts = gate('increase(f[{{window}}])', { requests: 'increase(a[{{window}}])' });
  expect(await measured(counts, 60)).toEqual(['increase(a[60s]) 120s', 'increase(f[60s]) 120s']);
  server.closeAllConnections();
  server.close();
});
