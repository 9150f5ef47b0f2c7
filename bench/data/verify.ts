import { measureVerification, type VerifyRate } from '../verify-rate.js';
import type { Bench } from './bench.js';
import { rejectedWhen } from './rejected-when.js';
import type { Run } from './rounds.js';
import { median } from './statistics.js';

/** More rows say nothing more of a rate, and each method reads them several times. */
const MOST_ROWS = 5_000_000;

/** Medians of the phase "verify" of several migrations. */
export interface VerificationPhase {
  readonly rows: number | null;
  readonly seconds: number | null;
  readonly rowsPerSecond: number | null;
  readonly runs: number;
}

/** How fast rows are proven to be equal. */
export interface VerificationPart {
  /** The phase of the migrations of the part "copy": rows of blue compared a second, with the plan's rests in it. */
  readonly phase: VerificationPhase;
  /** The same of the part "change", whose plan has computed columns, each compared with its expression. */
  readonly phaseWithChange: VerificationPhase;
  /** The comparison alone, without rests, on servers of its own. */
  readonly methods: readonly VerifyRate[];
  readonly rowsOfMethods: number;
  /** What went wrong there, such as rows that differ. Default: nothing */
  readonly failed?: readonly string[];
}

/** Verification as a phase of the runs that there were, and by itself. */
export async function measureVerificationPart(
  bench: Bench,
  runs: { readonly copy: readonly Run[]; readonly change: readonly Run[] },
): Promise<VerificationPart> {
  const rows = Math.min(bench.options.rows, MOST_ROWS);
  bench.say(`verification: ${rows.toLocaleString('en')} rows on both sides, ${bench.options.rounds} rounds`);
  let methods: readonly VerifyRate[] = [];
  const failed: string[] = [];
  try {
    methods = await Promise.race([measureVerification(rows, bench.options.rounds), rejectedWhen(bench.signal)]);
  } catch (error) {
    if (bench.signal.aborted) throw error;
    failed.push(error instanceof Error ? error.message : String(error));
    bench.say(`verification: not measured: ${failed.join()}`);
  }
  const phases = { phase: phaseOf(runs.copy), phaseWithChange: phaseOf(runs.change) };
  return { ...phases, methods, rowsOfMethods: rows, ...(failed.length === 0 ? {} : { failed }) };
}

/** Pure: medians of the phase. */
export function phaseOf(runs: readonly Run[]): VerificationPhase {
  const seen = runs.map(({ migration }) => migration?.verification).filter((one) => one !== undefined);
  return {
    rows: median(seen.map(({ rows }) => rows)),
    seconds: median(seen.map(({ seconds }) => seconds)),
    rowsPerSecond: median(seen.map(({ rows, seconds }) => rows / seconds)),
    runs: seen.length,
  };
}

/**
 * Rows compared a second and core, of the comparison of all rows: the processors of both sides count, and a row of blue with
 * its row of green is one row. Null where the machine does not tell the time on its processors.
 */
export function rowsPerCore({ methods }: VerificationPart): number | null {
  const used = methods.find(({ method }) => method === 'all')?.cpuSecondsPerMillion ?? null;
  return used === null || used === 0 ? null : 1e6 / used;
}
