import type { Evidence } from './evidence.js';
import type { MigrationRun } from './migration-run.js';
import type { MigrationStatus } from './status.js';

/** The result of the workflow: how it ended, and on what evidence. */
export interface MigrationReport extends MigrationStatus {
  readonly evidence: readonly Evidence[];
}

export function reportOf(run: MigrationRun): MigrationReport {
  return { ...run.status, evidence: [...run.evidence] };
}
