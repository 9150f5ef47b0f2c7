import { describe, expect, it } from 'vitest';
import { LatencyHistogram } from '../../src/embedded/shop/latency-histogram.js';
import { Measurements, WriteDowntime } from '../../src/embedded/shop/measurements.js';

describe('the latency histogram', () => {
  it('gives quantiles that are right within 2 %, and never too small', () => {
    const histogram = new LatencyHistogram();
    for (let ms = 1; ms <= 1_000; ms++) histogram.record(ms);
    const { p50, p95, p99 } = histogram.quantiles();
    for (const [measured, exact] of [
      [p50, 500],
      [p95, 950],
      [p99, 990],
    ] as const) {
      expect(measured).toBeGreaterThanOrEqual(exact);
      expect(measured).toBeLessThanOrEqual(exact * 1.021);
    }
  });

  it('says nothing where nothing was measured', () => {
    expect(new LatencyHistogram().quantiles()).toEqual({ p50: null, p95: null, p99: null });
  });
});

describe('downtime', () => {
  it('is 0 as long as no write fails, however long writes take', () => {
    const downtime = new WriteDowntime();
    downtime.record(0, 900, true);
    downtime.record(10, 5_000, true);
    expect(downtime.totalMs()).toBe(0);
  });

  it('does not count the time in which other writes succeeded beside one that fails late', () => {
    const downtime = new WriteDowntime();
    for (let at = 0; at < 10_000; at += 10) downtime.record(at, at + 5, true);
    downtime.record(0, 10_000, false);
    downtime.record(10_001, 10_002, true);
    expect(downtime.totalMs()).toBe(10_000 - 9_995);
  });

  it('is the time in which every write failed, over all such times', () => {
    const downtime = new WriteDowntime();
    downtime.record(0, 5, true);
    downtime.record(10, 20, false);
    downtime.record(12, 40, false);
    downtime.record(41, 42, true);
    downtime.record(100, 103, false);
    expect(downtime.totalMs()).toBe(30 + 3);
  });
});

describe('what the application measures', () => {
  it('counts failures in the part of the run in which they happen', () => {
    const measurements = new Measurements();
    const request = { kind: 'read', side: 'blue', startedAt: 0, finishedAt: 1 } as const;
    measurements.record(request);
    measurements.enter('during');
    measurements.record(request);
    measurements.record({ ...request, side: null, failure: '57P01' });
    expect(measurements.statistics()).toMatchObject({
      requests: 3,
      failedRequests: 1,
      failures: { '57P01': 1 },
      errorRate: { before: 0, during: 0.5, after: null },
      reads: { blue: 2, green: 0 },
    });
  });

  it('finds the longest write between two moments, and forgets none of the last hours', () => {
    const measurements = new Measurements();
    const now = Date.now();
    measurements.record({ kind: 'write', side: 'blue', startedAt: 0, finishedAt: 12 });
    measurements.record({ kind: 'write', side: 'green', startedAt: 0, finishedAt: 7 });
    measurements.record({ kind: 'read', side: 'green', startedAt: 0, finishedAt: 99 });
    expect(measurements.longestWriteBetween(now - 1_000, now + 1_000)).toBe(12);
    expect(measurements.longestWriteBetween(now - 60_000, now - 30_000)).toBe(0);
  });
});
