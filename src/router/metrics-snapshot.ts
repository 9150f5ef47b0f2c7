import type { Side } from '../side.js';

/*
 * What a router counts and writes into verdigris.router with its heartbeat; what the gates read. Counters grow from
 * the start of the router's process and never shrink, so two snapshots of one instance subtract to a window.
 */

/** Upper bounds of the latency buckets, in milliseconds; the last bucket takes everything above. */
export const LATENCY_BUCKETS_MS = [
  0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 25, 35, 50, 75, 100, 150, 200, 300, 500, 1_000, 2_000, 5_000, 10_000,
] as const;

export interface SideCounters {
  /** Requests that this side answered, well or with an error of its own. */
  readonly requests: number;
  /** Requests that failed on this side, whether the caller saw it or not. Errors that the application's own statement
   *  causes on any side (SQLSTATE classes 22, 23, P0) are not counted. */
  readonly errors: number;
  /** Count for each bucket of LATENCY_BUCKETS_MS and one more for the rest; not cumulative. */
  readonly latency: readonly number[];
}

/**
 * The same of one endpoint. `latency` is written short, since there are many of them: the number of the first bucket that
 * has any, then the counts up to the last one that has any. Absent from a source that does not tell.
 */
export interface EndpointCounters {
  readonly requests: number;
  readonly errors: number;
  readonly latency?: readonly number[];
}

/**
 * So many endpoints are told apart, those that a process has met first; further ones are counted together as
 * OTHER_ENDPOINTS. Each costs space in the process, in its heartbeat and in Prometheus.
 */
export const MAX_ENDPOINTS = 100;
export const OTHER_ENDPOINTS = 'other';

/** Counts by bucket as EndpointCounters has them. */
export function packLatency(latency: readonly number[]): number[] {
  const first = latency.findIndex((count) => count > 0);
  if (first === -1) return [];
  return [first, ...latency.slice(first, latency.findLastIndex((count) => count > 0) + 1)];
}

/** The other way round. */
export function unpackLatency([first = 0, ...counts]: readonly number[]): number[] {
  return Array.from({ length: LATENCY_BUCKETS_MS.length + 1 }, (_, bucket) => counts[bucket - first] ?? 0);
}

/** A mirrored read that green answered differently, or not. Names, never values. */
export interface MirrorExample {
  readonly endpoint: string;
  /** The statement's name, or a hash of its text. */
  readonly statement: string;
  /** What differs: green lacks columns, has another number of rows, other rows, or another order. */
  readonly kind?: 'columns' | 'count' | 'rows' | 'order';
  /** Of another order, the keys that show it; empty where what was asked for may leave both, which counts as the same. */
  readonly columns?: readonly string[];
  readonly rows?: Readonly<Record<Side, number>>;
  /** SQLSTATE of green's error. */
  readonly code?: string;
}

/** Mirrored reads: how many answers were compared, and how many of them differed, a read that failed on green alone among them. */
export interface MirroredCounts {
  readonly compared: number;
  readonly different: number;
}

export interface RouterMetrics {
  /** Reads by the side that was tried. */
  readonly reads: Readonly<Record<Side, SideCounters>>;
  /** Writes and transactions that may write, by the side that took them. */
  readonly writes: Readonly<Record<Side, SideCounters>>;
  /** Reads by endpoint and side. Absent from routers that don't tell. */
  readonly endpoints?: Readonly<Record<string, Readonly<Record<Side, EndpointCounters>>>>;
  /** Reads of users of green's cohort that blue had to answer, by reason. */
  readonly fallbacks: Readonly<{ behind: number; error: number }>;
  /** Writes that met the fence and were run again on the other side. */
  readonly retriedWrites: number;
  /** Reads of blue's that were run on green too and compared. Absent from routers that know no mirrored reads. */
  readonly mirroredReads?: Readonly<
    Record<'same' | 'different' | 'failed' | 'unsettled' | 'skipped', number> & {
      examples: readonly MirrorExample[];
      /** By endpoint. Absent from routers that don't tell. */
      endpoints?: Readonly<Record<string, MirroredCounts>>;
    }
  >;
  /** Sides that this router has had no connection to for a while. Absent when it reaches both. */
  readonly lacks?: readonly Side[];
  /** What the application calls the process, which may have several routers and providers. Absent where it gives no name. */
  readonly name?: string;
  /** The last word of a router that was closed. */
  readonly ended?: true;
}
