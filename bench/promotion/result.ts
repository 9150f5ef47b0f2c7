import type { Side } from '../../src/side.js';
import type { Machine } from '../data/machine.js';
import type { Audit } from './audit.js';
import type { Move } from './move.js';
import type { Contestant, PromotionOptions } from './options.js';
import type { Second } from './seconds.js';

/** A move, with what the application saw of it. */
export interface MeasuredMove extends Move {
  /** The slowest write of the move's second, and of everything from the first preparation until the old side follows. */
  readonly slowestMs: number;
  readonly slowestOfWholeMs: number;
  /** The slowest write of the move's second beyond that of an ordinary second (their median). */
  readonly aboveOrdinaryMs: number;
  /** The slowest write of each 50 ms, from 250 ms before the new side was opened to a second after it. */
  readonly profile: readonly number[];
}

/** What was measured with one contestant. */
export interface Measured {
  readonly contestant: Contestant;
  readonly moves: readonly MeasuredMove[];
  readonly ordinary: readonly Second[];
  /** Median of the slowest writes of ordinary seconds. */
  readonly ordinarySlowestMs: number | null;
  readonly p50: number | null;
  readonly p99: number | null;
  readonly audit: Audit;
  readonly errors: Readonly<Record<string, number>>;
  readonly retried: number;
  readonly primaryAtEnd: Side;
}

export interface LeftOut {
  readonly contestant: Contestant;
  readonly why: string;
}

/** Everything that one run of the benchmark has measured; what --json writes. */
export interface PromotionResult {
  readonly benchmark: 'promotion';
  /** ISO 8601. */
  readonly startedAt: string;
  readonly command: string;
  readonly options: PromotionOptions;
  readonly machine: Machine;
  readonly serverSettings: Readonly<Record<string, string>>;
  readonly measured: readonly Measured[];
  readonly leftOut: readonly LeftOut[];
}
