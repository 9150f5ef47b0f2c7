import { describe, expect, test } from 'vitest';
import { parseExposition } from '../../src/gates/exposition.js';
import { readRouterPage } from '../../src/gates/router-page.js';
import { isRouterMetrics } from '../../src/gates/router-snapshot.js';
import { windowBetween } from '../../src/gates/window.js';
import type { Route } from '../../src/postgres/state.js';
import {
  LATENCY_BUCKETS_MS,
  MAX_ENDPOINTS,
  OTHER_ENDPOINTS,
  packLatency,
  unpackLatency,
  type RouterMetrics,
} from '../../src/router/metrics-snapshot.js';
import { RequestMetrics } from '../../src/router/metrics.js';

/** As it is written to the database and read there. */
function pushed(metrics: RequestMetrics): RouterMetrics {
  const value: unknown = JSON.parse(JSON.stringify(metrics.snapshot()));
  if (!isRouterMetrics(value)) throw new Error('a snapshot can be read');
  return value;
}

function sample(metrics: RouterMetrics) {
  const snapshot = { instance: 'a', epoch: 1, generation: 1, ageSeconds: 0, metrics };
  return { at: new Date(0).toISOString(), live: [snapshot], stale: [], unreadable: [] };
}

describe('what a router says of its endpoints', () => {
  test('counts of reads by endpoint arrive as they were counted, between two heartbeats', () => {
    const metrics = new RequestMetrics();
    metrics.record('blue', 'read', '/a', 'ok', 2);
    metrics.record('blue', 'write', '/w', 'ok', 2);
    const before = pushed(metrics);
    for (let i = 0; i < 10; i++) metrics.record('green', 'read', '/a', i < 3 ? 'error' : 'ok', 60);
    metrics.record('blue', 'read', '/b', 'refused', 99_999);
    const { endpoints } = windowBetween(sample(before), sample(pushed(metrics)));
    expect(Object.keys(endpoints)).toEqual(['/a', '/b']);
    expect(endpoints['/a']?.green).toMatchObject({ requests: 10, errors: 3 });
    expect(endpoints['/a']?.green.latency[LATENCY_BUCKETS_MS.indexOf(75)]).toBe(10);
    expect(endpoints['/a']?.blue.requests).toBe(0);
    expect(endpoints['/a']?.blueBefore.requests).toBe(1);
    expect(endpoints['/b']?.blue.latency.at(-1)).toBe(1);
  });

  test('there are at most so many; further ones are counted together, and nothing is lost', () => {
    const metrics = new RequestMetrics();
    for (let i = 0; i < 3 * MAX_ENDPOINTS; i++) {
      metrics.record('blue', 'read', `/user/${i}`, 'ok', 1);
      metrics.record('green', 'read', `/user/${i}`, 'error', 1);
    }
    const { endpoints = {}, reads } = pushed(metrics);
    expect(Object.keys(endpoints)).toHaveLength(MAX_ENDPOINTS + 1);
    expect(endpoints[OTHER_ENDPOINTS]?.green).toMatchObject({ requests: 2 * MAX_ENDPOINTS, errors: 2 * MAX_ENDPOINTS });
    expect(reads.green.requests).toBe(3 * MAX_ENDPOINTS);
    expect(JSON.stringify(endpoints).length).toBeLessThan(16_000);
  });

  test('of fallbacks and writes that were run again, too', async () => {
    const metrics = new RequestMetrics();
    for (let i = 0; i < 1_000; i++) {
      metrics.fallback('behind', `/orders/${i}`);
      metrics.retried(`/orders/${i}`);
    }
    for (const name of ['fallbacks', 'retried_writes']) {
      const metric = metrics.registry.getSingleMetric(`verdigris_router_${name}_total`);
      const { values = [] } = (await metric?.get()) ?? {};
      expect(values).toHaveLength(MAX_ENDPOINTS + 1);
      const others = values.find(({ labels }) => labels['endpoint'] === OTHER_ENDPOINTS);
      expect(others?.value).toBe(1_000 - MAX_ENDPOINTS);
    }
  });

  test('a router that told nothing before is not asked about what it counted then', () => {
    const metrics = new RequestMetrics();
    metrics.record('green', 'read', '/a', 'error', 1);
    const older = { ...pushed(metrics), endpoints: undefined };
    expect(windowBetween(sample(older as unknown as RouterMetrics), sample(pushed(metrics))).endpoints).toEqual({});
  });

  test('mirrored reads by endpoint arrive as they were counted, by the heartbeat and by the page alike', async () => {
    const metrics = new RequestMetrics();
    metrics.showRoute({ epoch: 1, generation: 1, greenReadPercent: 1, writesOn: 'blue' } as Route);
    metrics.mirrored('/a', 'same');
    const before = pushed(metrics);
    for (const outcome of ['same', 'different', 'failed', 'unsettled', 'skipped'] as const) {
      metrics.mirrored('/a', outcome);
      metrics.mirrored('/b', outcome);
    }
    const now = pushed(metrics);
    expect(windowBetween(sample(before), sample(now)).mirrored).toEqual({
      ...{ compared: 6, different: 4 },
      endpoints: { '/a': { compared: 3, different: 2 }, '/b': { compared: 3, different: 2 } },
    });
    const page = readRouterPage(parseExposition(await metrics.registry.metrics()));
    expect(page?.metrics.mirroredReads?.endpoints).toEqual(now.mirroredReads?.endpoints);
  });

  test('mirrored reads of a router that does not tell endpoints count in the sum alone', () => {
    const metrics = new RequestMetrics();
    metrics.mirrored('/a', 'different');
    const [{ mirroredReads, ...rest }, now] = [pushed(metrics), pushed(metrics)];
    const older: unknown = { ...rest, mirroredReads: { ...mirroredReads, endpoints: undefined } };
    if (!isRouterMetrics(older)) throw new Error('a snapshot of the version before can be read');
    metrics.mirrored('/a', 'different');
    const upgraded = windowBetween(sample(older), sample(pushed(metrics)));
    expect(upgraded.mirrored).toEqual({ compared: 1, different: 1, endpoints: {} });
    expect(windowBetween(sample(older), sample(older)).mirrored).toMatchObject({ endpoints: {} });
    const broken = { ...now.mirroredReads, endpoints: { '/a': { compared: -1, different: 0 } } };
    expect(isRouterMetrics({ ...now, mirroredReads: broken })).toBe(false);
  });

  test('mirrored reads of endpoints beyond the most are counted together', () => {
    const metrics = new RequestMetrics();
    for (let i = 0; i < 3 * MAX_ENDPOINTS; i++) metrics.mirrored(`/user/${i}`, 'different');
    const { endpoints = {} } = pushed(metrics).mirroredReads ?? {};
    expect(Object.keys(endpoints)).toHaveLength(MAX_ENDPOINTS + 1);
    expect(endpoints[OTHER_ENDPOINTS]).toEqual({ compared: 2 * MAX_ENDPOINTS, different: 2 * MAX_ENDPOINTS });
  });

  test('durations are written short, and read as they were', () => {
    const latency = LATENCY_BUCKETS_MS.map((_, i) => (i > 3 && i < 7 ? i : 0)).concat(0);
    expect(packLatency(latency)).toEqual([4, 4, 5, 6]);
    expect(unpackLatency([4, 4, 5, 6])).toEqual(latency);
    expect(unpackLatency(packLatency(latency.map(() => 0)))).toEqual(latency.map(() => 0));
    const last = latency.map((_, i) => (i === latency.length - 1 ? 7 : 0));
    expect(unpackLatency(packLatency(last))).toEqual(last);
  });
});
