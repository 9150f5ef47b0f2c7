/** Why a stage or a phase went on, held or failed: kept with the run and answered by the query `evidence`. */
export interface Evidence {
  /** ISO 8601. */
  readonly at: string;
  /** `stage 10 %`, `approval promote`, `verify`. */
  readonly where: string;
  /** `errorRate`, `p99`, `lag`, `prometheus: failed checkouts`, ... */
  readonly metric: string;
  readonly outcome: 'pass' | 'fail' | 'inconclusive' | 'error';
  /** One sentence with the numbers: counts, bounds, limits. */
  readonly because: string;
  /** Seconds of traffic that the decision rests on. */
  readonly windowSeconds: number;
  readonly green: { readonly requests: number; readonly errors: number; readonly quantileMs?: number };
  readonly blue: { readonly requests: number; readonly errors: number; readonly quantileMs?: number };
  /** What a failure of this gate does. */
  readonly onFail?: 'rollback' | 'pause';
  /** The gate is only shown: it neither holds nor ends anything. */
  readonly dryRun?: true;
  /** What Prometheus was asked. */
  readonly query?: string;
}

/** Whether a gate has failed that counts: one that is a dry run ends nothing. */
export function hasFailed({ outcome, dryRun }: Evidence): boolean {
  return outcome === 'fail' && dryRun !== true;
}
