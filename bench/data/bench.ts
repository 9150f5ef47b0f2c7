import type { LifeCycle } from '../../src/embedded/life-cycle.js';
import type { EmbeddedTemporal } from '../../src/embedded/temporal-server.js';
import type { DataOptions } from './options.js';
import type { Servers } from './servers.js';

/** What every part of the benchmark works with. */
export interface Bench {
  readonly options: DataOptions;
  readonly servers: Servers;
  readonly temporal: EmbeddedTemporal;
  readonly lifeCycle: LifeCycle;
  /** A folder for files of the runs; removed at the end. */
  readonly folder: string;
  /** Aborted when the benchmark is asked to stop. */
  readonly signal: AbortSignal;
  readonly say: (line: string) => void;
}

/** Why a contestant was not measured: a line of the table, not a failure of the benchmark. */
export class NotMeasured extends Error {
  override readonly name = 'NotMeasured';
}
