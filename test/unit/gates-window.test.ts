import { describe, expect, test } from 'vitest';
import { livesAfter } from '../../src/gates/page-lives.js';
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

describe('a metrics page whose process is restarted in a stage', () => {
  const opened = sample('00', [snapshot('a', metrics(100, 1)), snapshot('b', metrics(10))]);
  const looks = (pages: readonly RouterSnapshot[][]): RouterSnapshots =>
    pages.reduce((last, live, i) => livesAfter(last, sample(String(10 + i), live)), opened);

  test('has counted what it had before, errors too, however much it counts afterwards', () => {
    const [b, before] = [snapshot('b', metrics(10)), snapshot('a', metrics(105, 6))];
    const restarted = looks([
      [before, b],
      [snapshot('a', metrics(2, 0, 0)), b],
      [snapshot('a', metrics(7, 1, 0)), b],
    ]);
    expect(windowBetween(opened, restarted)).toMatchObject({ green: { requests: 12, errors: 6 }, liveInstances: 2 });
    // It has outgrown what it was at the opening.
    const later = livesAfter(restarted, sample('50', [snapshot('a', metrics(700, 1, 0)), b]));
    expect(windowBetween(opened, later)).toMatchObject({ green: { requests: 705, errors: 6 } });
    expect(later.stale).toMatchObject([{ instance: 'a', metrics: { ended: true } }]);
    // A worker that takes over has it from what is kept.
    const kept = JSON.parse(JSON.stringify(later)) as RouterSnapshots;
    const again = livesAfter(kept, sample('51', [snapshot('a', metrics(3, 0, 0)), b]));
    expect(windowBetween(opened, again).green).toMatchObject({ requests: 708, errors: 6 });
    expect(windowBetween(later, again).green).toMatchObject({ requests: 3, errors: 0 });
    expect(again.live.map(({ instance }) => instance)).toEqual(['a (restarted 2x)', 'b']);
  });

  test('keeps what it has said last while it is away', () => {
    const b = snapshot('b', metrics(10));
    const away = looks([[snapshot('a', metrics(105, 1)), b], [snapshot('a', metrics(2, 0, 0)), b], [b]]);
    expect(windowBetween(opened, away).green.requests).toBe(7);
    expect(away.stale.map(({ instance, metrics: { ended } }) => [instance, ended])).toEqual([
      ['a (restarted 1x)', undefined],
      ['a', true],
    ]);
    const back = livesAfter(away, sample('50', [snapshot('a', metrics(4, 0, 0)), b]));
    expect(windowBetween(opened, back).green.requests).toBe(9);
  });

  test('is no restart where a part of several processes has gone: the others were counted already', () => {
    const [before, after] = [snapshot('a', metrics(9_000, 1)), snapshot('a', metrics(8_000, 1))];
    const cluster = looks([[before], [after]]);
    expect(windowBetween(opened, cluster).green.requests).toBe(7_900);
    expect(cluster.live.map(({ instance }) => instance)).toEqual(['a']);
  });

  test('again and again shows nothing: several processes may be behind one address', () => {
    const inTurns = Array.from({ length: 48 }, (_, i) => [snapshot('a', metrics(i % 2 === 0 ? 50 : 5_000))]);
    expect(looks(inTurns.slice(0, 10)).unreachable).toEqual([]);
    expect(looks(inTurns).unreachable).toEqual([
      expect.stringMatching(
        /^the counters of a have fallen more than 20 times within 1 h: .* several are behind one address$/,
      ),
    ]);
  });

  test('every few hours of a long stage keeps it from nothing, nor do many restarts that are over', () => {
    const at = (minutes: number): string => new Date(Date.parse(opened.at) + minutes * 60_000).toISOString();
    const look = (last: RouterSnapshots, minutes: number, greenReads: number): RouterSnapshots =>
      livesAfter(last, { ...sample('00', [snapshot('a', metrics(greenReads, 0, 0))]), at: at(minutes) });
    const restartedEvery = (minutes: number, times: number, from = opened): RouterSnapshots =>
      Array.from({ length: times }).reduce<RouterSnapshots>((last, _, i) => {
        const kept = JSON.parse(JSON.stringify(last)) as RouterSnapshots;
        return look(look(kept, i * minutes, 500), i * minutes + 1, 5);
      }, from);
    const week = restartedEvery(240, 42);
    expect(week.unreachable).toEqual([]);
    expect(week.live).toMatchObject([{ instance: 'a (restarted 42x)', restartedAt: [at(41 * 240 + 1)] }]);
    const crashing = restartedEvery(2, 30);
    expect(crashing.unreachable).toHaveLength(1);
    expect(crashing.live[0]?.restartedAt).toHaveLength(21);
    expect(look(crashing, 120, 7)).toMatchObject({ unreachable: [], live: [{ instance: 'a (restarted 30x)' }] });
  });
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
