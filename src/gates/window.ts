import { LATENCY_BUCKETS_MS, type RouterMetrics, type SideCounters } from '../router/metrics-snapshot.js';
import type { RouterSnapshots } from './router-snapshot.js';

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
  /** Routers that report. With none of them nothing can be said. */
  readonly liveInstances: number;
  /** Names of routers that no longer report: ended, or cut off. */
  readonly staleInstances: readonly string[];
  /** Names of routers whose metrics can't be read: of another version. */
  readonly unreadableInstances: readonly string[];
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
    blue: sum(deltas.map((delta) => delta.reads.blue)),
    green: sum(deltas.map((delta) => delta.reads.green)),
    blueBefore: sum([...from.live, ...from.stale].map((snapshot) => snapshot.metrics.reads.blue)),
    fallbacks: {
      behind: total(deltas.map((delta) => delta.fallbacks.behind)),
      error: total(deltas.map((delta) => delta.fallbacks.error)),
    },
    liveInstances: to.live.length,
    staleInstances: to.stale.map((snapshot) => snapshot.instance),
    unreadableInstances: to.unreadable,
  };
}

type Delta = Pick<RouterMetrics, 'reads' | 'fallbacks'>;

function subtract(now: RouterMetrics, before: RouterMetrics | undefined): Delta {
  if (before === undefined || hasFallen(now, before)) return now;
  return {
    reads: {
      blue: difference(now.reads.blue, before.reads.blue),
      green: difference(now.reads.green, before.reads.green),
    },
    fallbacks: {
      behind: now.fallbacks.behind - before.fallbacks.behind,
      error: now.fallbacks.error - before.fallbacks.error,
    },
  };
}

function hasFallen(now: RouterMetrics, before: RouterMetrics): boolean {
  const later = flat(now);
  return flat(before).some((value, index) => value > (later[index] ?? 0));
}

function flat(metrics: RouterMetrics): number[] {
  const sides = [metrics.reads.blue, metrics.reads.green, metrics.writes.blue, metrics.writes.green];
  return [
    ...sides.flatMap((side) => [side.requests, side.errors, ...side.latency]),
    metrics.fallbacks.behind,
    metrics.fallbacks.error,
    metrics.retriedWrites,
  ];
}

function difference(now: SideCounters, before: SideCounters): SideWindow {
  return {
    requests: now.requests - before.requests,
    errors: now.errors - before.errors,
    latency: now.latency.map((count, bucket) => count - (before.latency[bucket] ?? 0)),
  };
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
