import type { ApplicationStanding } from './application.js';
import { backfillTargets, type BackfillPart, type BackfillStanding } from './backfill.js';
import type { DataResult } from './result.js';
import type { Run, Standing } from './rounds.js';
import { median } from './statistics.js';
import { targetsOf, type Target } from './targets.js';
import type { VerificationPart, VerificationPhase } from './verify.js';

/** The whole result as Markdown: readable in a terminal, and ready for the documentation. */
export function report(result: DataResult): string {
  const { copy, change, backfill, application, verification } = result;
  return [
    ...machineLines(result),
    ...(copy === undefined
      ? []
      : ['## Copy without a schema change', standingsTable(copy.standings), whereTimeGoes(copy.runs)]),
    ...(change === undefined
      ? []
      : [
          "## The seed's whole schema change",
          standingsTable(change.standings),
          byHandLine(change.runs),
          whereTimeGoes(change.runs),
        ]),
    ...(backfill === undefined ? [] : ['## Backfill of a live table', ...backfillLines(backfill)]),
    ...(application === undefined
      ? []
      : ['## The application on blue during the copy', applicationTable(application.standings)]),
    ...(verification === undefined ? [] : ['## Verification', ...phaseLines(verification), methodsTable(verification)]),
    '## Targets',
    targetsTable(targetsOf(result)),
  ]
    .filter((part) => part !== '')
    .join('\n\n');
}

/** The same of the backfill alone. */
export function backfillReport(backfill: BackfillPart): string {
  return [...backfillLines(backfill), targetsTable(backfillTargets(backfill))]
    .filter((part) => part !== '')
    .join('\n\n');
}

function machineLines({ machine, options, startedAt, command, blueBytes }: DataResult): string[] {
  return [
    `\`${command}\`, ${startedAt}`,
    `${options.rows.toLocaleString('en')} rows (${mebibytes(blueBytes)} on blue), ${options.rounds} rounds in alternating order, medians. ` +
      `${machine.cpu}, ${machine.cores} cores, ${gibibytes(machine.memoryBytes)} of memory; ${machine.system}; Node ${machine.node}; ` +
      `PostgreSQL ${machine.blue} to ${machine.green}` +
      `${machine.pgcopydb === null ? '' : `; pgcopydb ${machine.pgcopydb}`}${machine.pgDump === null ? '' : `; pg_dump ${machine.pgDump}`}.`,
  ];
}

function standingsTable(standings: readonly Standing[]): string {
  return table(
    ['', 'time', 'Verdigris takes', 'table', 'heap', 'database', 'peak memory'],
    standings.map((one) =>
      one.seconds === null
        ? [one.contestant, `not measured: ${one.missing ?? ''}`]
        : [
            one.contestant + (one.missing === undefined ? '' : ` (${one.runs} runs; then: ${one.missing})`),
            seconds(one.seconds),
            one.verdigrisTo === null || one === standings[0] ? '' : `${one.verdigrisTo.toFixed(2)} of it`,
            mebibytes(one.tableBytes),
            mebibytes(one.heapBytes),
            mebibytes(one.databaseBytes),
            mebibytes(one.peakMemoryBytes),
          ],
    ),
  );
}

/** The median round of Verdigris, activity by activity. */
function whereTimeGoes(runs: readonly Run[]): string {
  const own = runs.filter(({ contestant }) => contestant === 'Verdigris');
  const middle = median(own.map((run) => run.seconds));
  const [run] = [...own].sort((a, b) => Math.abs(a.seconds - (middle ?? 0)) - Math.abs(b.seconds - (middle ?? 0)));
  if (run?.migration === undefined) return '';
  const { phases, activities, secondsWithoutPreflight, memory } = run.migration;
  const shown = Object.entries(phases).map(([phase, time]) => `${phase} ${seconds(time)}`);
  return [
    `Where a run of Verdigris spends its ${seconds(run.seconds)} (${seconds(secondsWithoutPreflight)} without preflight): ${shown.join(', ')}. ` +
      `The worker alone: ${megabytes(memory?.own ?? null)} at its peak, ${megabytes(memory?.atStart ?? null)} when it was ready.`,
    table(
      ['activity', 'count', 'from', 'to', 'sum'],
      activities.map((one) => [
        one.activity,
        String(one.count),
        seconds(one.fromSeconds),
        seconds(one.toSeconds),
        seconds(one.seconds),
      ]),
    ),
  ].join('\n\n');
}

function byHandLine(runs: readonly Run[]): string {
  const times = runs.map(({ byHand }) => byHand).filter((one) => one !== undefined);
  if (times.length === 0) return '';
  const update = median(times.map(({ updateSeconds }) => updateSeconds));
  const index = median(times.map(({ indexSeconds }) => indexSeconds));
  return `By hand: columns and batched UPDATE ${seconds(update)}, five indexes ${seconds(index)}; the rest is pgcopydb, NOT NULL and ANALYZE.`;
}

function backfillLines(backfill: BackfillPart): string[] {
  return [backfillTable(backfill.standings), growthLine(backfill), ...backfill.leftOut];
}

function targetsTable(targets: readonly Target[]): string {
  const verdict = (met: boolean | null): string => (met === null ? '-' : met ? 'met' : 'missed');
  return table(
    ['target', 'measured', ''],
    targets.map(({ target, met, measured }) => [target, measured, verdict(met)]),
  );
}

function backfillTable(standings: readonly BackfillStanding[]): string {
  return table(
    ['', 'time', 'rows/s', 'writer: p99 before', 'p99 during', 'failed writes', 'rows left NULL', 'NOT NULL', 'table'],
    standings.map((one) => [
      one.contestant,
      seconds(one.seconds),
      whole(one.rowsPerSecond),
      milliseconds(one.p99Before),
      milliseconds(one.p99During),
      whole(one.failedWrites),
      whole(one.rowsLeft),
      one.notNull ? 'yes' : 'no',
      mebibytes(one.tableBytes),
    ]),
  );
}

function growthLine({ growth }: BackfillPart): string {
  if (growth.length === 0) return '';
  const sizes = [...new Set(growth.map(({ rows }) => rows))];
  const rates = sizes.map((size) => {
    const own = growth.filter(({ rows }) => rows === size).map(({ rowsPerSecond }) => rowsPerSecond);
    return `${whole(median(own))} rows/s at ${whole(size)} rows`;
  });
  return `Verdigris without a writer: ${rates.join(', ')}.`;
}

function applicationTable(standings: readonly ApplicationStanding[]): string {
  return table(
    ['', 'time', 'p99 before', 'p99 during', 'p99: ratio', 'p50: ratio', 'longest', 'failed writes'],
    standings.map((one) =>
      one.seconds === null
        ? [one.contestant, `not measured: ${one.missing ?? ''}`]
        : [
            one.contestant,
            seconds(one.seconds),
            milliseconds(one.p99Before),
            milliseconds(one.p99During),
            one.p99Ratio?.toFixed(2) ?? '',
            one.p50Ratio?.toFixed(2) ?? '',
            milliseconds(one.maxMs),
            whole(one.failed),
          ],
    ),
  );
}

function phaseLines({ phase, phaseWithChange }: VerificationPart): string[] {
  const measured = ({ rows, seconds: time, rowsPerSecond, runs }: VerificationPhase): string =>
    runs === 0
      ? 'not measured, no run of Verdigris came so far.'
      : `${whole(rows)} rows in ${seconds(time)}, ${whole(rowsPerSecond)} rows/s.`;
  return [
    `As a phase of a run, with the rests of the plan's default: ${measured(phase)}`,
    `The same with the seed's change, two computed columns compared with their expressions: ${measured(phaseWithChange)}`,
  ];
}

function methodsTable({ methods, rowsOfMethods }: VerificationPart): string {
  if (methods.length === 0) return '';
  return table(
    [`${whole(rowsOfMethods)} rows on both sides`, 'rows compared/s', 'to a hash of the text', 'CPU of a million'],
    methods.map(({ method, rowsPerSecond, ratio, cpuSecondsPerMillion }) => [
      method,
      whole(rowsPerSecond),
      ratio.toFixed(2),
      cpuSecondsPerMillion === null ? '' : `${cpuSecondsPerMillion.toFixed(2)} s`,
    ]),
  );
}

/** A Markdown table whose columns are aligned as well. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const all = [head, ...rows.map((row) => head.map((_, i) => row[i] ?? ''))];
  const widths = head.map((_, i) => Math.max(3, ...all.map((row) => (row[i] ?? '').length)));
  const lines = all.map((row) => `| ${row.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join(' | ')} |`);
  const rule = `| ${widths.map((width) => '-'.repeat(width)).join(' | ')} |`;
  return [lines[0], rule, ...lines.slice(1)].join('\n');
}

function seconds(value: number | null): string {
  return value === null ? '' : `${value.toFixed(1)} s`;
}

function milliseconds(value: number | null): string {
  return value === null ? '' : `${value.toFixed(1)} ms`;
}

function mebibytes(bytes: number | null): string {
  return bytes === null ? '' : `${Math.round(bytes / 2 ** 20).toLocaleString('en')} MiB`;
}

/** Rounded up: what is above a limit is never shown as being at it. */
function megabytes(bytes: number | null): string {
  return bytes === null ? '' : `${Math.ceil(bytes / 1e6).toLocaleString('en')} MB`;
}

function gibibytes(bytes: number): string {
  return `${(bytes / 2 ** 30).toFixed(0)} GiB`;
}

function whole(value: number | null): string {
  return value === null ? '' : Math.round(value).toLocaleString('en');
}
