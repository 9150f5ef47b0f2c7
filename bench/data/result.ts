import type { ApplicationRun, ApplicationStanding } from './application.js';
import type { BackfillPart } from './backfill.js';
import type { Machine } from './machine.js';
import type { DataOptions } from './options.js';
import type { Rounds } from './rounds.js';
import type { VerificationPart } from './verify.js';

/** Everything that one run of the benchmark has measured; what --json writes. A part that did not run is absent. */
export interface DataResult {
  readonly benchmark: 'data';
  /** ISO 8601. */
  readonly startedAt: string;
  readonly command: string;
  readonly options: DataOptions;
  readonly machine: Machine;
  readonly serverSettings: Readonly<Record<string, string>>;
  /** What the data takes on blue. */
  readonly blueBytes: number;
  readonly copy?: Rounds;
  readonly change?: Rounds;
  readonly backfill?: BackfillPart;
  readonly application?: {
    readonly standings: readonly ApplicationStanding[];
    readonly runs: readonly ApplicationRun[];
  };
  readonly verification?: VerificationPart;
}
