import {
  LATENCY_BUCKETS_MS,
  unpackLatency,
  type EndpointCounters,
  type MirroredCounts,
  type RouterMetrics,
  type SideCounters,
} from '../router/metrics-snapshot.js';
import { LIVE_SECONDS, type RouterSnapshots } from './router-snapshot.js';

/** Reads of one side. */
export type SideWindow = SideCounters;

/** Reads of one endpoint. Without durations where a router does not tell them: `latency` is all zeros then. */
export interface EndpointWindow {
  readonly blue: SideWindow;
  readonly green: SideWindow;
  readonly blueBefore: SideWindow;
}

/** Reads of blue's that were run on green too. */
export interface MirroredWindow extends MirroredCounts {
  /** By endpoint, from routers that tell. */
  readonly endpoints?: Readonly<Record<string, MirroredCounts>>;
}

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
  readonly mirrored: MirroredWindow;
  /** By endpoint, from routers that tell. */
  readonly endpoints: Readonly<Record<string, EndpointWindow>>;
  /** Routers that report. With none of them nothing can be said. */
  readonly liveInstances: number;
  /** Names of routers that reported in the window and no longer do: ended, or cut off. */
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
  const seconds = (Date.parse(to.at) - Date.parse(from.at)) / 1_000;
  return {
    seconds,
    blue: sum(deltas.map((delta) => delta.blue)),
    green: sum(deltas.map((delta) => delta.green)),
    blueBefore: sum([...from.live, ...from.stale].map((snapshot) => snapshot.metrics.reads.blue)),
    fallbacks: {
      behind: total(deltas.map((delta) => delta.fallbacks.behind)),
      error: total(deltas.map((delta) => delta.fallbacks.error)),
    },
    mirrored: {
      ...sumMirrored(deltas.map((delta) => delta.mirrored)),
      endpoints: sumMirroredEndpoints(deltas.map(({ mirrored: { endpoints = {} } }) => endpoints)),
    },
    endpoints: sumEndpoints(deltas.map((delta) => delta.endpoints)),
    liveInstances: to.live.length,
    staleInstances: to.stale
      .filter(({ ageSeconds }) => ageSeconds <= seconds + LIVE_SECONDS)
      .map(({ instance }) => instance),
    unreadableInstances: to.unreadable,
    unreachable: to.unreachable ?? [],
  };
}

/** What became of the reads of green's users, by instance that reports. */
export interface InstanceReads {
  readonly instance: string;
  /** Reads that green answered. */
  readonly answered: number;
  /** Reads that blue answered since green was out of reach, less those that failed on green: these are its errors. */
  readonly lost: number;
}

/** The same as windowBetween, of green's users alone and by instance. */
export function greenByInstance(from: RouterSnapshots, to: RouterSnapshots): InstanceReads[] {
  const before = new Map([...from.live, ...from.stale].map((snapshot) => [snapshot.instance, snapshot]));
  return to.live.map(({ instance, metrics }) => {
    const known = before.get(instance)?.metrics;
    const then = known === undefined || hasFallen(metrics, known) ? undefined : known;
    const green = difference(metrics.reads.green, then?.reads.green);
    const fallbacks = metrics.fallbacks.error - (then?.fallbacks.error ?? 0);
    return { instance, answered: green.requests - green.errors, lost: fallbacks - green.errors };
  });
}

type Endpoints = Readonly<Record<string, EndpointWindow>>;

interface Delta {
  readonly blue: SideWindow;
  readonly green: SideWindow;
  readonly fallbacks: GateWindow['fallbacks'];
  readonly mirrored: GateWindow['mirrored'];
  readonly endpoints: Endpoints;
}

function subtract(now: RouterMetrics, earlier: RouterMetrics | undefined): Delta {
  const before = earlier === undefined || hasFallen(now, earlier) ? undefined : earlier;
  return {
    blue: difference(now.reads.blue, before?.reads.blue),
    green: difference(now.reads.green, before?.reads.green),
    fallbacks: {
      behind: now.fallbacks.behind - (before?.fallbacks.behind ?? 0),
      error: now.fallbacks.error - (before?.fallbacks.error ?? 0),
    },
    mirrored: { ...mirroredSince(mirroredOf(now), mirroredOf(before)), endpoints: mirroredEndpointsSince(now, before) },
    endpoints: endpointsSince(now, before),
  };
}

/** A mirrored read that failed on green alone is as wrong as one with other rows. */
function mirroredOf(metrics: RouterMetrics | undefined): MirroredCounts {
  const { same = 0, different = 0, failed = 0 } = metrics?.mirroredReads ?? {};
  return { compared: same + different + failed, different: different + failed };
}

function mirroredSince(now: MirroredCounts, then: MirroredCounts = NONE_MIRRORED): MirroredCounts {
  return { compared: now.compared - then.compared, different: now.different - then.different };
}

const NONE_MIRRORED: MirroredCounts = { compared: 0, different: 0 };

/** Nothing where the router did not tell before. */
function mirroredEndpointsSince(
  now: RouterMetrics,
  before: RouterMetrics | undefined,
): Readonly<Record<string, MirroredCounts>> {
  const then = before?.mirroredReads?.endpoints;
  if (before?.mirroredReads !== undefined && then === undefined) return {};
  return Object.fromEntries(
    Object.entries(now.mirroredReads?.endpoints ?? {}).map(([name, counts]) => [
      name,
      mirroredSince(counts, then?.[name]),
    ]),
  );
}

function sumMirrored(all: readonly MirroredCounts[]): MirroredCounts {
  return { compared: total(all.map((one) => one.compared)), different: total(all.map((one) => one.different)) };
}

function sumMirroredEndpoints(
  all: readonly Readonly<Record<string, MirroredCounts>>[],
): Readonly<Record<string, MirroredCounts>> {
  const names = [...new Set(all.flatMap((one) => Object.keys(one)))].sort();
  return Object.fromEntries(names.map((name) => [name, sumMirrored(all.flatMap((one) => one[name] ?? []))]));
}

/** Whether these can't be later counters of the same process. */
export function hasFallen(now: RouterMetrics, before: RouterMetrics): boolean {
  const later = flat(now);
  return flat(before).some((value, index) => value > (later[index] ?? 0));
}

function flat(metrics: RouterMetrics): number[] {
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

/** Nothing where the router did not tell before: what it counted then is not of this window. */
function endpointsSince(now: RouterMetrics, before: RouterMetrics | undefined): Endpoints {
  if (before !== undefined && before.endpoints === undefined) return {};
  const all = Object.entries(now.endpoints ?? {}).map(([name, counters]) => {
    const then = before?.endpoints?.[name];
    const [blueNow, blueThen] = [sideOf(counters.blue), sideOf(then?.blue)];
    const window: EndpointWindow = {
      blue: difference(blueNow, blueThen),
      green: difference(sideOf(counters.green), sideOf(then?.green)),
      blueBefore: blueThen,
    };
    return [name, window] as const;
  });
  return Object.fromEntries(all);
}

function sideOf(counters: EndpointCounters | undefined): SideWindow {
  const { requests = 0, errors = 0, latency = [] } = counters ?? {};
  return { requests, errors, latency: unpackLatency(latency) };
}

function sumEndpoints(all: readonly Endpoints[]): Endpoints {
  const names = [...new Set(all.flatMap((one) => Object.keys(one)))].sort();
  const side = (name: string, of: keyof EndpointWindow): SideWindow => sum(all.flatMap((one) => one[name]?.[of] ?? []));
  return Object.fromEntries(
    names.map((name) => [
      name,
      { blue: side(name, 'blue'), green: side(name, 'green'), blueBefore: side(name, 'blueBefore') },
    ]),
  );
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
