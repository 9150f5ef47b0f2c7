import type { Run } from './rounds.js';
import { median } from './statistics.js';

/** How fast rows are proven to be equal, in the runs of Verdigris. */
export interface VerificationRate {
  readonly rows: number | null;
  readonly seconds: number | null;
  readonly rowsPerSecond: number | null;
  /** By the machine's cores: blue, green and the worker share them all. */
  readonly rowsPerSecondAndCore: number | null;
  readonly runs: number;
}

/** Every row of blue was compared with green's, all columns; the rest that the plan's default leaves is in the time. */
export function verificationRate(runs: readonly Run[], cores: number): VerificationRate {
  const seen = runs.map(({ migration }) => migration?.verification).filter((one) => one !== undefined);
  const rowsPerSecond = median(seen.map(({ rows, seconds }) => rows / seconds));
  return {
    rows: median(seen.map(({ rows }) => rows)),
    seconds: median(seen.map(({ seconds }) => seconds)),
    rowsPerSecond,
    rowsPerSecondAndCore: rowsPerSecond === null ? null : rowsPerSecond / cores,
    runs: seen.length,
  };
}
