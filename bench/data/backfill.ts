import { AS_A_RUN, IN_PLACE } from '../backfill/contenders.js';
import { benchBackfill, type BackfillBenchmark, type BackfillRun, type GrowthRun } from '../backfill/measure.js';
import { WRITES_PER_SECOND } from './application.js';
import type { Bench } from './bench.js';
import { rejectedWhen } from './rejected-when.js';
import { median, ratio } from './statistics.js';
import type { Target } from './targets.js';

/** Where the binary of pgroll is: it is not something that this project installs. */
export const PGROLL_VARIABLE = 'PGROLL_BIN';

/** Sizes at which the rate has to be the same. */
const SIZES = [1_000_000, 5_000_000, 20_000_000];
/** Verdigris' default of `backfill.parallel`. */
const LANES = 2;

/** What the rounds say of one contestant in the backfill of a live table. */
export interface BackfillStanding {
  readonly contestant: string;
  readonly seconds: number | null;
  readonly rowsPerSecond: number | null;
  /** The application's latencies in milliseconds. */
  readonly p99Before: number | null;
  readonly p99During: number | null;
  readonly failedWrites: number | null;
  /** Rows of the start that it left without a value. */
  readonly rowsLeft: number | null;
  /** Whether the column was NOT NULL at the end of each run. */
  readonly notNull: boolean;
  readonly tableBytes: number | null;
  readonly missing?: string;
}

export interface BackfillPart {
  readonly standings: readonly BackfillStanding[];
  readonly runs: readonly BackfillRun[];
  /** The rate without a writer at growing sizes. */
  readonly growth: readonly GrowthRun[];
  readonly leftOut: readonly string[];
  /** Runs of Verdigris that have failed: who, and why. */
  readonly failed: readonly string[];
}

/** Filling a new column of a live table, on servers of its own. */
export async function measureBackfill(bench: Bench): Promise<BackfillPart> {
  const { rows, rounds, peers } = bench.options;
  const pgroll = process.env[PGROLL_VARIABLE];
  const measured = benchBackfill({
    rows,
    rounds,
    lanes: LANES,
    sizes: [...new Set([...SIZES, rows])].filter((size) => size <= rows).sort((a, b) => a - b),
    writesPerSecond: WRITES_PER_SECOND,
    pgroll: peers.includes('pgroll') ? pgroll : undefined,
    signal: bench.signal,
    log: (line) => bench.say(`backfill: ${line}`),
  });
  try {
    // It has its own servers, which end with this process.
    return backfillPart(await Promise.race([measured, rejectedWhen(bench.signal)]));
  } catch (error) {
    if (bench.signal.aborted) throw error;
    const why = error instanceof Error ? error.message : String(error);
    bench.say(`backfill: ${why}`);
    return { standings: [], runs: [], growth: [], leftOut: [`Not measured: ${why}`], failed: [why] };
  }
}

/** Pure: medians of each contestant. */
export function backfillPart({ live, growth, leftOut, failed }: BackfillBenchmark): BackfillPart {
  const contestants = [...new Set(live.map(({ contender }) => contender))];
  return {
    standings: contestants.map((contestant) => {
      const own = live.filter(({ contender }) => contender === contestant);
      return {
        contestant,
        seconds: median(own.map(({ seconds }) => seconds)),
        rowsPerSecond: median(own.map(({ rowsPerSecond }) => rowsPerSecond)),
        p99Before: median(own.map(({ before }) => before.p99)),
        p99During: median(own.map(({ during }) => during.p99)),
        failedWrites: own.reduce((sum, { during }) => sum + during.failed, 0),
        rowsLeft: Math.max(...own.map(({ missing }) => missing)),
        notNull: own.every(({ notNull }) => notNull),
        tableBytes: median(own.map(({ bytes }) => bytes)),
      };
    }),
    runs: live,
    growth,
    leftOut,
    failed,
  };
}

/**
 * Pure: what the project promises of the backfill: of what a run does. The harder case is held against the same limits,
 * in lines of its own.
 */
export function backfillTargets({ standings, growth }: BackfillPart): readonly Target[] {
  const of = (name: string): BackfillStanding | undefined => standings.find(({ contestant }) => contestant === name);
  const [own, harder, pgroll] = [of(AS_A_RUN), of(IN_PLACE), of('pgroll')];
  const failed = own?.failedWrites ?? null;
  const spread = spreadOf(growth);
  return [
    rateTarget("backfill: at least twice pgroll's rate", own, pgroll),
    rateTarget('the same rate with the application on the table that is filled', harder, pgroll),
    p99Target("backfill: the writer's p99 below that beside pgroll", own, pgroll),
    p99Target('the same p99 with the application on the table that is filled', harder, pgroll),
    {
      target: 'backfill: no failed write',
      met: failed === null ? null : failed === 0,
      measured: failed === null ? 'not measured' : `${failed} failed`,
    },
    {
      target: 'backfill: the rate at all sizes within 15 %',
      met: spread === null ? null : spread <= 0.15,
      measured: spread === null ? 'not measured' : `${(spread * 100).toFixed(0)} % between the slowest and the fastest`,
    },
  ];
}

function rateTarget(target: string, one: BackfillStanding | undefined, pgroll: BackfillStanding | undefined): Target {
  const faster = ratio(one?.rowsPerSecond ?? null, pgroll?.rowsPerSecond ?? null);
  return {
    target,
    met: faster === null ? null : faster >= 2,
    measured: faster === null ? 'not measured' : `${faster.toFixed(2)} times its rate`,
  };
}

function p99Target(target: string, one: BackfillStanding | undefined, pgroll: BackfillStanding | undefined): Target {
  const p99 = ratio(one?.p99During ?? null, pgroll?.p99During ?? null);
  return {
    target,
    met: p99 === null ? null : p99 < 1,
    measured: p99 === null ? 'not measured' : `${p99.toFixed(2)} of it`,
  };
}

/** How much slower the slowest size is than the fastest, by medians; null of one size. */
function spreadOf(growth: readonly GrowthRun[]): number | null {
  const sizes = [...new Set(growth.map(({ rows }) => rows))];
  const rates = sizes.map((size) =>
    median(growth.filter(({ rows }) => rows === size).map(({ rowsPerSecond }) => rowsPerSecond)),
  );
  const known = rates.filter((rate) => rate !== null);
  return known.length < 2 ? null : 1 - Math.min(...known) / Math.max(...known);
}
