import { describe, expect, it } from 'vitest';
import { AS_A_RUN, IN_PLACE, type BackfillContender } from '../../bench/backfill/contenders.js';
import { benchmarkNamed } from '../../bench/benchmarks.js';
import { summed } from '../../bench/data/activity-times.js';
import { standingOf, type ApplicationRun } from '../../bench/data/application.js';
import { backfillPart, backfillTargets } from '../../bench/data/backfill.js';
import { wrongIn } from '../../bench/data/correctness.js';
import { dataOptions, defaultRounds, exitCodeOf, PARTS, PEERS } from '../../bench/data/options.js';
import { benchPlan, seedSteps } from '../../bench/data/plan.js';
import { backfillReport, table } from '../../bench/data/report.js';
import type { DataResult } from '../../bench/data/result.js';
import { standingsOf, type Run } from '../../bench/data/rounds.js';
import { median, orderOfRound, ratio } from '../../bench/data/statistics.js';
import { targetsOf } from '../../bench/data/targets.js';
import { phaseOf } from '../../bench/data/verify.js';
import { parsePlan } from '../../src/plan/parse.js';

function exitCode(...args: string[]): number | undefined {
  try {
    dataOptions(args);
  } catch (error) {
    return exitCodeOf(error);
  }
  return undefined;
}

describe('the command line of the benchmark', () => {
  it('knows its benchmarks by name, and nothing that only an object inherits', () => {
    expect(benchmarkNamed('data')).toBeDefined();
    expect(benchmarkNamed('toString')).toBeUndefined();
    expect(benchmarkNamed(undefined)).toBeUndefined();
  });

  it('measures 20 million rows, everything and everybody unless asked otherwise', () => {
    expect(dataOptions([])).toEqual({
      ...{ rows: 20_000_000, rounds: 2, only: PARTS, peers: PEERS, green: 15, jobs: 4, maxRate: '20MB' },
    });
  });

  it('takes short numbers, and as many rounds as the rows allow', () => {
    expect(dataOptions(['--rows', '2M'])).toMatchObject({ rows: 2_000_000, rounds: 3 });
    expect(dataOptions(['--rows', '500k', '--rounds', '5'])).toMatchObject({ rows: 500_000, rounds: 5 });
    expect([defaultRounds(5_000_000), defaultRounds(5_000_001)]).toEqual([3, 2]);
  });

  it('picks parts and peers in their own order; none leaves the peers out', () => {
    expect(dataOptions(['--only', 'verify, copy', '--peers', 'none'])).toMatchObject({
      ...{ only: ['copy', 'verify'], peers: [] },
    });
  });

  it('refuses what it does not know', () => {
    for (const args of [
      ['--only', 'speed'],
      ['--peers', 'rsync'],
      ['--rows', '0'],
      ['--rows', '2m'],
      ['--green', '9'],
      ['--only', 'none'],
      ['--max-rate', '20'],
      ['--json', '/nowhere/at/all.json'],
    ]) {
      expect(exitCode(...args), args.join(' ')).toBe(1);
    }
  });
});

describe('the plan of the benchmark', () => {
  it('is a valid plan, with all steps of the published one', () => {
    const steps = seedSteps();
    expect(steps).toHaveLength(9);
    const plan = parsePlan(benchPlan({ name: 'x', bootstrap: { method: 'copy' }, migrations: steps }));
    expect(plan).toMatchObject({ plan: { traffic: { approval: { before: ['traffic', 'promote'] } } } });
  });
});

describe('medians and ratios', () => {
  it('say nothing where nothing was measured', () => {
    expect(median([])).toBeNull();
    expect([ratio(null, 1), ratio(1, null), ratio(1, 0)]).toEqual([null, null, null]);
  });

  it('are right for odd and even numbers of rounds', () => {
    expect(median([9, 1, 2])).toBe(2);
    expect(median([9, 1, 2, 4])).toBe(3);
    expect(ratio(1, 4)).toBe(0.25);
  });

  it('change who comes first, and after whom, from round to round', () => {
    const orders = (names: string): string[] =>
      Array.from({ length: 2 * names.length }, (_, round) => orderOfRound([...names], round).join(''));
    expect(orders('ab')).toEqual(['ab', 'ba', 'ba', 'ab']);
    expect(orders('abc')).toEqual(['abc', 'cba', 'bca', 'acb', 'cab', 'bac']);
    expect(orderOfRound([], 1)).toEqual([]);
  });
});

function run(contestant: string, seconds: number, peakMemoryBytes: number | null, tableBytes = 1): Run {
  const size = { databaseBytes: 3, heapBytes: 2, tableBytes, indexes: 3, rows: 10 };
  const own = peakMemoryBytes ?? 0;
  const migration = {
    ...{ seconds, secondsWithoutPreflight: seconds, phases: {}, activities: [] },
    memory: { family: own, own, atStart: own },
  };
  return { contestant, round: 1, load: 0, seconds, peakMemoryBytes, size, migration };
}

describe('the standings', () => {
  it('compare with Verdigris by medians, keep the highest peak of memory, and name whoever is missing', () => {
    const runs = [run('Verdigris', 4, 10), run('Verdigris', 6, 30), run('pgcopydb clone', 10, null)];
    const [own, clone, absent] = standingsOf(
      ['Verdigris', 'pgcopydb clone', 'tablesync'],
      runs,
      new Map([['tablesync', 'not there']]),
    );
    expect(own).toMatchObject({ seconds: 5, peakMemoryBytes: 30, runs: 2, tableBytes: 1 });
    expect(clone).toMatchObject({ seconds: 10, verdigrisTo: 0.5, peakMemoryBytes: null });
    expect(absent).toMatchObject({ seconds: null, verdigrisTo: null, runs: 0, missing: 'not there' });
  });

  it("take each round's own quiet time for the application's ratio", () => {
    const rounds: ApplicationRun[] = [
      [2, 4],
      [10, 10],
      [4, 6],
    ].map(([before = 0, during = 0], round) => ({
      ...{ contestant: 'auto', round, seconds: 1 },
      before: { transactions: 1, failed: 0, perSecond: 500, p50: 1, p99: before, maxMs: before },
      during: { transactions: 1, failed: 1, perSecond: 500, p50: 1, p99: during, maxMs: during },
    }));
    expect(standingOf('auto', rounds, undefined)).toMatchObject({ p99Ratio: 1.5, p50Ratio: 1, maxMs: 10, failed: 3 });
  });

  it('sum the activities of a type, and span them', () => {
    const spans = [
      { activity: 'copyParcel', from: 2_000, to: 4_000 },
      { activity: 'planCopy', from: 1_000, to: 2_000 },
      { activity: 'copyParcel', from: 3_000, to: 6_000 },
    ];
    expect(summed(spans, 1_000)).toEqual([
      { activity: 'planCopy', count: 1, fromSeconds: 0, toSeconds: 1, seconds: 1 },
      { activity: 'copyParcel', count: 2, fromSeconds: 1, toSeconds: 5, seconds: 5 },
    ]);
  });
});

describe('the targets', () => {
  const part = (
    runs: readonly Run[],
    ...names: string[]
  ): { standings: ReturnType<typeof standingsOf>; runs: typeof runs } => ({
    ...{ standings: standingsOf(names, runs, new Map()), runs },
  });
  const base: DataResult = {
    ...{ benchmark: 'data', startedAt: '', command: '', options: dataOptions([]), serverSettings: {}, blueBytes: 0 },
    machine: {
      ...{ cpu: '', cores: 2, memoryBytes: 0, freeDiskBytes: 0, system: '', node: '', blue: '', green: '' },
      ...{ pgcopydb: null, pgDump: null },
    },
  };

  it('are neither met nor missed by what was not measured', () => {
    expect(targetsOf(base).map(({ met }) => met)).toEqual([null, null, null, null, null, null, null]);
  });

  it('are missed by equal size, half a second too much and too much memory', () => {
    const targets = targetsOf({
      ...base,
      copy: part([run('Verdigris', 10.5, 400 * 2 ** 20), run('pgcopydb clone', 10, 1)], 'Verdigris', 'pgcopydb clone'),
      change: part([run('Verdigris', 5, 1), run('pgcopydb + by hand', 10, 1)], 'Verdigris', 'pgcopydb + by hand'),
    });
    expect(targets.map(({ met }) => met)).toEqual([false, true, false, null, null, null, false]);
  });

  it.each([
    { bytes: 299_999_999, met: true, measured: '300 MB' },
    { bytes: 300_000_000, met: false, measured: '300 MB' },
    { bytes: 289 * 2 ** 20, met: false, measured: '304 MB' },
  ])("of the worker's memory are in MB, not in MiB: $bytes bytes", ({ bytes, met, measured }) => {
    const [target] = targetsOf({ ...base, copy: part([run('Verdigris', 1, bytes)], 'Verdigris') }).slice(-1);
    expect(target).toMatchObject({ met, measured });
  });

  it.each([
    { cpuSecondsPerMillion: 0.91, met: true, measured: '1,098,901 rows compared' },
    // A row of blue and its row of green are one row that is verified.
    { cpuSecondsPerMillion: 1.6, met: false, measured: '625,000 rows compared' },
  ])('of the verification count rows compared: $measured', ({ cpuSecondsPerMillion, met, measured }) => {
    const phase = phaseOf([]);
    const methods = [{ method: 'all', rowsPerSecond: 1, cpuSecondsPerMillion, ratio: 1 }];
    const verification = { phase, phaseWithChange: phase, methods, rowsOfMethods: 1_000 };
    const [target] = targetsOf({ ...base, verification }).filter((one) => one.target.startsWith('verification'));
    expect(target).toMatchObject({ met, measured });
  });

  const latency = { transactions: 1, p50: 1, p99: 5, max: 5, failed: 0 };
  const live = (contender: BackfillContender, rowsPerSecond: number, p99: number) => ({
    ...{ contender, rows: 10, seconds: 1, rowsPerSecond, before: latency, during: { ...latency, p99 } },
    ...{ missing: 0, notNull: true, bytes: 1 },
  });
  const filled = backfillPart({
    live: [live(AS_A_RUN, 200, 4), live(IN_PLACE, 160, 12), live('pgroll', 100, 8)],
    growth: [
      { rows: 1, rowsPerSecond: 100 },
      { rows: 5, rowsPerSecond: 80 },
    ],
    ...{ leftOut: [], failed: [] },
  });

  it('of the backfill are those of what a run does, and of the harder case in lines of its own', () => {
    expect(backfillTargets(filled)).toMatchObject([
      { target: "backfill: at least twice pgroll's rate", measured: '2.00 times its rate', met: true },
      {
        target: 'the same rate with the application on the table that is filled',
        ...{ measured: '1.60 times its rate', met: false },
      },
      { target: "backfill: the writer's p99 below that beside pgroll", measured: '0.50 of it', met: true },
      {
        target: 'the same p99 with the application on the table that is filled',
        ...{ measured: '1.50 of it', met: false },
      },
      { target: 'backfill: no failed write', met: true },
      { target: 'backfill: the rate at all sizes within 15 %', met: false },
    ]);
    const report = backfillReport(filled);
    for (const { contestant } of filled.standings) expect(report).toContain(`| ${contestant} `);
    expect(report).toMatch(/\| the same rate with the application .*\| 1\.60 times its rate .*\| missed \|/);
    expect(wrongIn({ ...base, backfill: filled })).toEqual([]);
  });

  it('of the backfill are not met by the harder case where a run was not measured', () => {
    const standings = filled.standings.filter(({ contestant }) => contestant !== AS_A_RUN);
    const met = backfillTargets({ ...filled, standings }).map((target) => target.met);
    expect(met).toEqual([null, false, null, false, null, false]);
  });

  it('of the backfill excuse no mistake in either case, nor a run that failed', () => {
    const standings = filled.standings.map((one) => ({ ...one, failedWrites: 3, rowsLeft: 1, notNull: false }));
    const failed = [`${AS_A_RUN}: green differs from blue in some of its 10 rows`];
    // pgroll's mistakes are told in the table.
    expect(wrongIn({ ...base, backfill: { ...filled, standings, failed } })).toEqual([
      `backfill, ${AS_A_RUN}: green differs from blue in some of its 10 rows`,
      ...[AS_A_RUN, IN_PLACE].flatMap((who) => [
        `backfill, ${who}: 3 failed writes`,
        `backfill, ${who}: 1 rows without a value`,
        `backfill, ${who}: the column is nullable at the end`,
      ]),
    ]);
  });

  it('that are missed are no failure of the command; rows that differ are', () => {
    const slow = part(
      [run('Verdigris', 10.5, 400 * 2 ** 20), run('pgcopydb clone', 10, 1)],
      'Verdigris',
      'pgcopydb clone',
    );
    expect(wrongIn({ ...base, copy: slow })).toEqual([]);
    const missing = new Map([
      ['Verdigris', '2 rows differ after copy-1'],
      ['pgcopydb clone', 'not installed'],
    ]);
    const copy = { standings: standingsOf(['Verdigris', 'pgcopydb clone'], [], missing), runs: [] };
    expect(wrongIn({ ...base, copy })).toEqual(['copy: 2 rows differ after copy-1']);
    // pgcopydb's failure is told in the table.
    const why = new Map([
      ['Verdigris, defaults', 'the run was rolled back'],
      ['pgcopydb', 'not installed'],
    ]);
    const application = { standings: [...why.keys()].map((name) => standingOf(name, [], why.get(name))), runs: [] };
    const phase = phaseOf([]);
    const failed = ['the sides are not equal'];
    const verification = { phase, phaseWithChange: phase, methods: [], rowsOfMethods: 10, failed };
    expect(wrongIn({ ...base, application, verification })).toEqual([
      'verification: the sides are not equal',
      'application, Verdigris, defaults: the run was rolled back',
    ]);
  });
});

describe('the table', () => {
  it('is Markdown whose columns are aligned', () => {
    expect(table(['name', 'n'], [['a', '1'], ['long name']])).toBe(
      ['| name      | n   |', '| --------- | --- |', '| a         | 1   |', '| long name |     |'].join('\n'),
    );
  });
});
