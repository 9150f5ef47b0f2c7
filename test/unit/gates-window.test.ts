import { expect, test } from 'vitest';
import { isRouterMetrics, type RouterSnapshot, type RouterSnapshots } from '../../src/gates/router-snapshot.js';
import { sampleOf } from '../../src/gates/router-source.js';
import { windowBetween } from '../../src/gates/window.js';
import { LATENCY_BUCKETS_MS, type RouterMetrics } from '../../src/router/metrics-snapshot.js';

function side(requests: number, errors = 0) {
  return { requests, errors, latency: [requests, ...LATENCY_BUCKETS_MS.map(() => 0)] };
}

function metrics(greenReads: number, greenErrors = 0, blueReads = 100): RouterMetrics {
  return {
    reads: { blue: side(blueReads), green: side(greenReads, greenErrors) },
    writes: { blue: side(10), green: side(0) },
    fallbacks: { behind: greenErrors, error: 0 },
    retriedWrites: 0,
  };
}

function snapshot(instance: string, of: RouterMetrics, generation = 1, epoch = 7): RouterSnapshot {
  return { instance, epoch, generation, ageSeconds: 0.5, metrics: of };
}

function sample(at: string, live: RouterSnapshot[], stale: RouterSnapshot[] = []): RouterSnapshots {
  return { at: `2026-11-01T00:00:${at}Z`, live, stale, unreadable: [] };
}

test('a window is what every instance counted in between', () => {
  const window = windowBetween(
    sample('00', [snapshot('a', metrics(100)), snapshot('b', metrics(10, 1))]),
    sample('30', [snapshot('a', metrics(150, 2)), snapshot('b', metrics(20, 1))]),
  );
  expect(window.seconds).toBe(30);
  expect(window.green).toMatchObject({ requests: 60, errors: 2 });
  expect(window.green.latency[0]).toBe(60);
  expect(window.blue.requests).toBe(0);
  expect(window.blueBefore.requests).toBe(200);
  expect(window.fallbacks.behind).toBe(2);
});

test('an instance that is new, or was restarted under its old name, counts from nothing', () => {
  const window = windowBetween(
    sample('00', [snapshot('a', metrics(100))]),
    sample('30', [snapshot('a', metrics(5)), snapshot('c', metrics(7))]),
  );
  expect(window.green.requests).toBe(12);
});

test('what an instance counted before it ended is not lost, and it is named', () => {
  const window = windowBetween(
    sample('00', [snapshot('a', metrics(100)), snapshot('b', metrics(100))]),
    sample('30', [snapshot('a', metrics(110))], [snapshot('b', metrics(130))]),
  );
  expect(window.green.requests).toBe(40);
  expect(window).toMatchObject({ liveInstances: 1, staleInstances: ['b'] });
});

test('an instance that was stale already adds nothing', () => {
  const window = windowBetween(
    sample('00', [], [snapshot('b', metrics(130))]),
    sample('30', [], [snapshot('b', metrics(130))]),
  );
  expect(window.green.requests).toBe(0);
});

test('a route is confirmed when every live router has applied it', () => {
  const routers = sampleOf(
    sample(
      '00',
      [snapshot('a', metrics(0), 4), snapshot('b', metrics(0), 3), snapshot('c', metrics(0), 9, 6)],
      [snapshot('d', metrics(0), 1)],
    ),
  );
  expect(routers.unconfirmed(7, 4)).toEqual(['b', 'c']);
  expect(routers.unconfirmed(7, 3)).toEqual(['c']);
  expect(routers.lowestGeneration).toBe(3);
  expect(routers.allConfirmed(7, 3)).toBe(false);
  expect(sampleOf(sample('00', [snapshot('a', metrics(0), 4)])).allConfirmed(7, 4)).toBe(true);
  expect(sampleOf(sample('00', [])).allConfirmed(7, 4)).toBe(false);
});

test('a sample that was stored as JSON can be subtracted from', () => {
  const stored = JSON.parse(JSON.stringify(sampleOf(sample('00', [snapshot('a', metrics(3))])))) as RouterSnapshots;
  expect(windowBetween(stored, sample('10', [snapshot('a', metrics(8))])).green.requests).toBe(5);
});

test('metrics of another form are recognised', () => {
  expect(isRouterMetrics(metrics(1))).toBe(true);
  for (const other of [
    null,
    {},
    { ...metrics(1), fallbacks: {} },
    { ...metrics(1), retriedWrites: -1 },
    { ...metrics(1), reads: { blue: side(1), green: { requests: 1, errors: 0, latency: [1] } } },
  ]) {
    expect(isRouterMetrics(other)).toBe(false);
  }
});
