import { setTimeout as sleep } from 'node:timers/promises';
import { keepBlueApart } from './apart.js';
import { NotMeasured, type Bench } from './bench.js';
import { cloneWithPgcopydb, pgcopydb } from './contestants.js';
import { BENCH_DATABASE, removeAddedRows, usersFor } from './data-set.js';
import { runMigration } from './migration.js';
import { benchPlan, type BenchPlan } from './plan.js';
import { freshStart, withClient } from './servers.js';
import { median, orderOfRound, ratio } from './statistics.js';
import { startWriter } from './writer.js';
import type { WriterWindow } from './writer-messages.js';

/** Transactions a second of the application on blue. */
export const WRITES_PER_SECOND = 500;
/** Plans are prepared and pages are read in the first seconds. */
const WARM_UP_MS = 5_000;
/** 7,500 transactions: 75 of them are above the p99. */
const BEFORE_MS = 15_000;

export interface ApplicationRun {
  readonly contestant: string;
  readonly round: number;
  readonly seconds: number;
  readonly before: WriterWindow;
  readonly during: WriterWindow;
}

export interface ApplicationStanding {
  readonly contestant: string;
  readonly seconds: number | null;
  readonly p99Before: number | null;
  readonly p99During: number | null;
  /** The median of each round's p99 during the copy to its p99 before. */
  readonly p99Ratio: number | null;
  readonly p50Ratio: number | null;
  readonly maxMs: number | null;
  readonly failed: number;
  readonly runs: number;
  readonly missing?: string;
}

/** The same, with blue and the application on processors that they share with nobody. */
export const BLUE_APART = 'Verdigris, defaults, blue apart';

interface Disturber {
  readonly name: string;
  /** Blue and the application have processors of their own. */
  readonly apart?: boolean;
  /** Copies blue; says when the copying begins and when it has ended, and how many seconds were between. */
  copy(bench: Bench, round: number, told: { begins: () => Promise<void>; ends: () => Promise<void> }): Promise<number>;
}

/** What the application on blue notices of a bootstrap: its latencies before and during, in each round. */
export async function measureApplication(
  bench: Bench,
): Promise<{ standings: readonly ApplicationStanding[]; runs: readonly ApplicationRun[] }> {
  const { options } = bench;
  const disturbers: readonly Disturber[] = [
    bootstrap('Verdigris, defaults', 'auto', { method: 'copy' }),
    { ...bootstrap(BLUE_APART, 'apart', { method: 'copy' }), apart: true },
    bootstrap('Verdigris, pace full', 'full', { method: 'copy', pace: 'full' }),
    bootstrap(`Verdigris, maxRate ${options.maxRate}`, 'rate', { method: 'copy', maxRate: options.maxRate }),
    ...(options.peers.includes('pgcopydb') ? [clone] : []),
  ];
  const runs: ApplicationRun[] = [];
  const missing = new Map<string, string>();
  for (let round = 1; round <= options.rounds; round++) {
    for (const disturber of orderOfRound(disturbers, round - 1)) {
      const { name } = disturber;
      if (missing.has(name)) continue;
      bench.signal.throwIfAborted();
      try {
        const run = await measureOnce(bench, disturber, round);
        runs.push(run);
        bench.say(
          `application, round ${round}: ${name} ${run.seconds.toFixed(1)} s, p99 ${ms(run.before.p99)} before, ${ms(run.during.p99)} during`,
        );
      } catch (error) {
        if (bench.signal.aborted) throw error;
        missing.set(name, error instanceof Error ? error.message : String(error));
        bench.say(`application, round ${round}: ${name} is left out: ${missing.get(name)}`);
      }
    }
  }
  return { runs, standings: disturbers.map(({ name }) => standingOf(name, runs, missing.get(name))) };
}

async function measureOnce(bench: Bench, disturber: Disturber, round: number): Promise<ApplicationRun> {
  const { servers, options } = bench;
  const uri = servers.blue.uri(BENCH_DATABASE);
  await freshStart(servers);
  const writer = await bench.lifeCycle.start(`Writer, ${WRITES_PER_SECOND} transactions a second`, () =>
    startWriter({
      uri,
      transactionsPerSecond: WRITES_PER_SECOND,
      rows: options.rows,
      users: usersFor(options.rows),
    }),
  );
  let together: (() => void) | undefined;
  try {
    if (disturber.apart === true) together = keepBlueApart();
    await sleep(WARM_UP_MS, undefined, { signal: bench.signal });
    await writer.nextWindow();
    await sleep(BEFORE_MS, undefined, { signal: bench.signal });
    const before = await writer.nextWindow();
    let during: WriterWindow | undefined;
    const seconds = await disturber.copy(bench, round, {
      begins: async () => void (await writer.nextWindow()),
      ends: async () => void (during = await writer.nextWindow()),
    });
    if (during === undefined) throw new NotMeasured('the copy has not ended');
    return { contestant: disturber.name, round, seconds, before, during };
  } finally {
    together?.();
    await writer.stop();
    await freshStart(servers);
    await withClient(uri, (client) => removeAddedRows(client, options.rows));
  }
}

function bootstrap(name: string, word: string, method: BenchPlan['bootstrap']): Disturber {
  return {
    name,
    copy: async (bench, round, { begins, ends }) => {
      const plan = benchPlan({ name: `application-${word}-${round}`, bootstrap: method });
      let since = performance.now();
      let seconds = 0;
      await runMigration(bench, plan, {
        until: 'verify',
        onPhase: async (phase) => {
          if (phase === 'replicate') {
            since = performance.now();
            await begins();
          }
          if (phase === 'verify') {
            seconds = (performance.now() - since) / 1_000;
            await ends();
          }
        },
      });
      return seconds;
    },
  };
}

const clone: Disturber = {
  name: pgcopydb.name,
  copy: async (bench, _round, { begins, ends }) => {
    await begins();
    const { seconds } = await cloneWithPgcopydb(bench);
    await ends();
    return seconds;
  },
};

/** Pure: what the rounds say of one contestant. */
export function standingOf(
  contestant: string,
  runs: readonly ApplicationRun[],
  why: string | undefined,
): ApplicationStanding {
  const own = runs.filter((run) => run.contestant === contestant);
  const medianOf = (value: (run: ApplicationRun) => number | null): number | null =>
    median(own.map(value).filter((number) => number !== null));
  return {
    contestant,
    seconds: medianOf(({ seconds }) => seconds),
    p99Before: medianOf(({ before }) => before.p99),
    p99During: medianOf(({ during }) => during.p99),
    p99Ratio: medianOf(({ before, during }) => ratio(during.p99, before.p99)),
    p50Ratio: medianOf(({ before, during }) => ratio(during.p50, before.p50)),
    maxMs: own.length === 0 ? null : Math.max(...own.map(({ during }) => during.maxMs)),
    failed: own.reduce((sum, { during }) => sum + during.failed, 0),
    runs: own.length,
    ...(why === undefined ? {} : { missing: why }),
  };
}

function ms(value: number | null): string {
  return value === null ? '?' : `${value.toFixed(1)} ms`;
}
