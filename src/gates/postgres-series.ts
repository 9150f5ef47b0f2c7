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
  /** Transactions so far, whoever made them: on green also those that replication applies. */
  readonly transactions: number;
  /** Ids that the server has given to transactions so far, in all of its databases: one that only reads has none. */
  readonly assignedIds: number;
  /** Transactions that the slots of the run have decoded so far; 0 on a side without one. */
  readonly decoded: number;
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

/**
 * Transactions a second of others on both sides between two moments, never below 0; undefined when they are too close for
 * a rate.
 */
export function volumeBetween(from: PostgresSamples, to: PostgresSamples, leastSeconds: number): number | undefined {
  const secondsOf = (side: Side): number => (to[side].atMs - from[side].atMs) / 1_000;
  const grown = (side: Side, counter: Counter): number => growth(from[side][counter], to[side][counter]);
  if (Math.min(secondsOf('blue'), secondsOf('green')) < leastSeconds) return undefined;
  const onGreen = grown('green', 'transactions');
  /*
   * No server counts what was applied. Whatever was has an id on green, where the application only reads: but so have writes
   * in green's other databases. And blue has decoded it: but each slot counts every transaction that writes, also one of
   * tables that it does not carry. So each is too many at times, and the least of them is what is nearest.
   */
  const applied = Math.min(onGreen, grown('green', 'assignedIds'), grown('blue', 'decoded'));
  return grown('blue', 'transactions') / secondsOf('blue') + (onGreen - applied) / secondsOf('green');
}

type Counter = 'transactions' | 'assignedIds' | 'decoded';

/** A server that was restarted, or whose statistics were reset, counts from nothing. */
function growth(from: number, to: number): number {
  return to < from ? to : to - from;
}
