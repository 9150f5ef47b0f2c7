import type { Direction } from '../../side.js';
import type { Progress } from '../migrate/step-context.js';
import type { Databases } from '../session.js';

/** What a bootstrap method is given. */
export interface BootstrapContext {
  readonly databases: Databases;
  readonly migration: string;
  readonly direction: Direction;
  /** How many streams the feed has. */
  readonly streams: number;
  /** Retained WAL on blue above which it is given up, bytes. */
  readonly maxRetainedWal: number;
  readonly signal: AbortSignal;
  readonly report: (progress: BootstrapProgress | Progress) => void;
}

export interface BootstrapProgress {
  readonly tables: number;
  readonly tablesReady: number;
}

export interface BootstrapResult {
  readonly tables: number;
}

/**
 * How green gets its first copy of the rows. When `run` returns, green has them all and follows blue. Publication and
 * slot are there before it is called; running it again after a crash goes on or begins anew, without doubling a row.
 */
export interface Bootstrap {
  readonly method: string;
  run(context: BootstrapContext): Promise<BootstrapResult>;
}
