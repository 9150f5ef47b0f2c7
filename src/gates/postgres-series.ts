import type { Side } from '../side.js';

/** What one server says of itself at one moment. Plain data. */
export interface PostgresSample {
  /** By the server's clock, ms since 1970. */
  readonly atMs: number;
  /** The role, quoted, that does not see what sessions of others do; left out where it sees everything. */
  readonly blindRole?: string;
  /** For how long each of the application's sessions has been waiting for a lock, s; the longest first. */
  readonly lockWaits: readonly number[];
  /** Who waits longest, and for whom, for people; empty when nobody waits. */
  readonly whoWaits: string;
  /** Age of the oldest open transaction of a client, s; 0 where there is none. */
  readonly oldestTransactionSeconds: number;
  /** Transactions of the application so far: those that replication applies on green are left out. */
  readonly transactions: number;
  /** Conflicts and errors of our subscriptions so far; 0 on a side without one. */
  readonly conflicts: number;
  /** WAL that the slots of the run hold back, bytes; 0 on a side without one. */
  readonly retainedWalBytes: number;
}

export type PostgresSamples = Readonly<Record<Side, PostgresSample>>;

/** Both servers over a stage. */
export interface PostgresSeries {
  /** When the stage opened. */
  readonly atOpening: PostgresSamples;
  /** Since the gates are watched, oldest first; the last one is of now. */
  readonly samples: readonly PostgresSamples[];
  /** Transactions a second of both sides before the first reads moved; undefined where it was not measured. */
  readonly volumeBefore: number | undefined;
  /** When that was, by blue's clock, ms since 1970; left out where it is not known: then it is older than the stage. */
  readonly volumeBeforeAtMs?: number | undefined;
}

/** Transactions a second of both sides between two moments; undefined when they are too close for a rate. */
export function volumeBetween(from: PostgresSamples, to: PostgresSamples, leastSeconds: number): number | undefined {
  let rate = 0;
  for (const side of ['blue', 'green'] as const) {
    const seconds = (to[side].atMs - from[side].atMs) / 1_000;
    if (seconds < leastSeconds) return undefined;
    const made = to[side].transactions - from[side].transactions;
    // A server that was restarted, or whose statistics were reset, counts from nothing.
    rate += (made < 0 ? to[side].transactions : made) / seconds;
  }
  return rate;
}
