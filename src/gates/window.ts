import { LATENCY_BUCKETS_MS, type SideCounters } from '../router/metrics-snapshot.js';
import type { Side } from '../side.js';
import type { CountedMetrics, EndpointCounters, RequestCount, RouterSnapshots } from './router-snapshot.js';

/** Reads of one side. */
export type SideWindow = SideCounters;

/** What happened between two samples, in all routers together. Only reads: no write goes to green while gates decide. */
export interface GateWindow {
  readonly seconds: number;
  readonly blue: SideWindow;
  readonly green: SideWindow;
  /** Blue's reads before the window, since the routers started: what green is compared with when the stage leaves blue
   *  none. */
  readonly blueBefore: SideWindow;
  readonly fallbacks: Readonly<{ behind: number; error: number }>;
  /** Reads of blue's that were run on green too: how many answers were compared, and how many of them differed. */
  readonly mirrored: Readonly<{ compared: number; different: number }>;
  /** Requests and errors by endpoint, from routers that tell. */
  readonly endpoints: Readonly<Record<string, EndpointCounters>>;
  /** Routers that report. With none of them nothing can be said. */
  readonly liveInstances: number;
  /** Names of routers that no longer report: ended, or cut off. */
  readonly staleInstances: readonly string[];
  /** Names of routers whose metrics can't be read: of another version. */
  readonly unreadableInstances: readonly string[];
  /** Metrics pages of the plan that don't answer: what their routers see is not known, so nothing passes. */
  readonly unreachable: readonly string[];
}

/**
 * What the routers counted from one sample to a later one. An instance that started in between counts from nothing, and
 * so does one whose counters fell: it was restarted under its old name.
 */
export function windowBetween(from: RouterSnapshots, to: RouterSnapshots): GateWindow {
  const before = new Map([...from.live, ...from.stale].map((snapshot) => [snapshot.instance, snapshot]));
  const deltas = [...to.live, ...to.stale].map((snapshot) =>
    subtract(snapshot.metrics, before.get(snapshot.instance)?.metrics),
  );
  return {
    seconds: (Date.parse(to.at) - Date.parse(from.at)) / 1_000,
    blue: sum(deltas.map((delta) => delta.blue)),
    green: sum(deltas.map((delta) => delta.green)),
    blueBefore: sum([...from.live, ...from.stale].map((snapshot) => snapshot.metrics.reads.blue)),
    fallbacks: {
      behind: total(deltas.map((delta) => delta.fallbacks.behind)),
      error: total(deltas.map((delta) => delta.fallbacks.error)),
    },
    mirrored: {
      compared: total(deltas.map((delta) => delta.mirrored.compared)),
      different: total(deltas.map((delta) => delta.mirrored.different)),
    },
    endpoints: sumEndpoints(deltas.map((delta) => delta.endpoints)),
    liveInstances: to.live.length,
    staleInstances: to.stale.map((snapshot) => snapshot.instance),
    unreadableInstances: to.unreadable,
    unreachable: to.unreachable ?? [],
  };
}

type Endpoints = Readonly<Record<string, EndpointCounters>>;

interface Delta {
  readonly blue: SideWindow;
  readonly green: SideWindow;
  readonly fallbacks: GateWindow['fallbacks'];
  readonly mirrored: GateWindow['mirrored'];
  readonly endpoints: Endpoints;
}

function subtract(now: CountedMetrics, earlier: CountedMetrics | undefined): Delta {
  const before = earlier === undefined || hasFallen(now, earlier) ? undefined : earlier;
  const then = mirroredOf(before);
  const mirrored = mirroredOf(now);
  return {
    blue: difference(now.reads.blue, before?.reads.blue),
    green: difference(now.reads.green, before?.reads.green),
    fallbacks: {
      behind: now.fallbacks.behind - (before?.fallbacks.behind ?? 0),
      error: now.fallbacks.error - (before?.fallbacks.error ?? 0),
    },
    mirrored: { compared: mirrored.compared - then.compared, different: mirrored.different - then.different },
    endpoints: endpointDifference(now.endpoints ?? {}, before?.endpoints ?? {}),
  };
}

/** A mirrored read that failed on green alone is as wrong as one with other rows. */
function mirroredOf(metrics: CountedMetrics | undefined): GateWindow['mirrored'] {
  const { same = 0, different = 0, failed = 0 } = metrics?.mirroredReads ?? {};
  return { compared: same + different + failed, different: different + failed };
}

function hasFallen(now: CountedMetrics, before: CountedMetrics): boolean {
  const later = flat(now);
  return flat(before).some((value, index) => value > (later[index] ?? 0));
}

function flat(metrics: CountedMetrics): number[] {
  const sides = [metrics.reads.blue, metrics.reads.green, metrics.writes.blue, metrics.writes.green];
  const { compared, different } = mirroredOf(metrics);
  return [
    ...sides.flatMap((side) => [side.requests, side.errors, ...side.latency]),
    metrics.fallbacks.behind,
    metrics.fallbacks.error,
    metrics.retriedWrites,
    compared,
    different,
  ];
}

function difference(now: SideCounters, before: SideCounters | undefined): SideWindow {
  return {
    requests: now.requests - (before?.requests ?? 0),
    errors: now.errors - (before?.errors ?? 0),
    latency: now.latency.map((count, bucket) => count - (before?.latency[bucket] ?? 0)),
  };
}

function endpointDifference(now: Endpoints, before: Endpoints): Endpoints {
  return mapEndpoints(now, (counters, name) => {
    const side = (of: Side): RequestCount => ({
      requests: Math.max(0, counters[of].requests - (before[name]?.[of].requests ?? 0)),
      errors: Math.max(0, counters[of].errors - (before[name]?.[of].errors ?? 0)),
    });
    return { blue: side('blue'), green: side('green') };
  });
}

function sumEndpoints(all: readonly Endpoints[]): Endpoints {
  const names = [...new Set(all.flatMap((one) => Object.keys(one)))].sort();
  const side = (name: string, of: Side): RequestCount => ({
    requests: total(all.map((one) => one[name]?.[of].requests ?? 0)),
    errors: total(all.map((one) => one[name]?.[of].errors ?? 0)),
  });
  return Object.fromEntries(names.map((name) => [name, { blue: side(name, 'blue'), green: side(name, 'green') }]));
}

function mapEndpoints(
  endpoints: Endpoints,
  change: (counters: EndpointCounters, name: string) => EndpointCounters,
): Endpoints {
  return Object.fromEntries(Object.entries(endpoints).map(([name, counters]) => [name, change(counters, name)]));
}

function sum(sides: readonly SideCounters[]): SideWindow {
  return {
    requests: total(sides.map((side) => side.requests)),
    errors: total(sides.map((side) => side.errors)),
    latency: Array.from({ length: LATENCY_BUCKETS_MS.length + 1 }, (_, bucket) =>
      total(sides.map((side) => side.latency[bucket] ?? 0)),
    ),
  };
}

function total(numbers: readonly number[]): number {
  return numbers.reduce((a, b) => a + b, 0);
}
