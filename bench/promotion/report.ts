import { table } from '../data/report.js';
import type { Measured, MeasuredMove, PromotionResult } from './result.js';
import { quantile } from './seconds.js';
import { targetsOf } from './targets.js';

/** The whole result as Markdown: readable in a terminal, and ready for the documentation. */
export function report(result: PromotionResult): string {
  const { measured, leftOut } = result;
  return [
    ...head(result),
    '## The hold, by the clock of whoever moves',
    table(
      ['', 'moves', 'p50', 'p99', 'p100', 'tries', 'the old side follows after: p50', 'p100'],
      measured.flatMap(holdRows),
    ),
    '## What the application saw',
    table(
      ['', 'slowest write of its second: p50', 'p100', 'ordinary second', 'above it: p100', 'of the whole move: p100'],
      measured.flatMap(seenRows),
    ),
    table(
      ['', 'transactions', 'failed', 'run again', 'lost', 'doubled', 'failed, but there', 'blue and green'],
      measured.map(auditRow),
    ),
    '## Where the hold goes: p50 / p100, ms',
    ...measured.map(stepsTable),
    ...measured.map(errorLines).filter((line) => line !== ''),
    ...leftOut.map(({ contestant, why }) => `${contestant}: not measured: ${why}`),
    '## Targets',
    table(
      ['target', 'measured', ''],
      targetsOf(result).map(({ target, met, measured: seen }) => [
        target,
        seen,
        met === null ? '-' : met ? 'met' : 'missed',
      ]),
    ),
  ].join('\n\n');
}

function head({ machine, options, startedAt, command }: PromotionResult): string[] {
  return [
    `\`${command}\`, ${startedAt}`,
    `${options.moves} promotions and as many rollbacks in turn at ${options.tps.toLocaleString('en')} transactions a second, open loop. ` +
      `${machine.cpu}, ${machine.cores} cores, ${(machine.memoryBytes / 2 ** 30).toFixed(0)} GiB of memory; ${machine.system}; ` +
      `Node ${machine.node}; PostgreSQL ${machine.blue} and ${machine.green}, the application and whoever moves on the same cores.`,
  ];
}

function directions({ contestant, moves }: Measured): { name: string; own: readonly MeasuredMove[] }[] {
  return [
    { name: `${contestant}: promotions`, own: moves.filter(({ from }) => from === 'blue') },
    { name: `${contestant}: rollbacks`, own: moves.filter(({ from }) => from === 'green') },
  ];
}

function holdRows(measured: Measured): string[][] {
  return directions(measured).map(({ name, own }) => {
    const holds = own.map(({ holdMs }) => holdMs);
    const followed = own.map((move) => move.followed - move.opened);
    const tries = own.reduce((sum, move) => sum + move.tries, 0);
    return [
      ...[name, String(own.length), ms(quantile(holds, 0.5)), ms(quantile(holds, 0.99)), ms(quantile(holds, 1))],
      ...[String(tries), ms(quantile(followed, 0.5)), ms(quantile(followed, 1))],
    ];
  });
}

function seenRows(measured: Measured): string[][] {
  return directions(measured).map(({ name, own }) => {
    const slowest = own.map(({ slowestMs }) => slowestMs);
    return [
      ...[name, ms(quantile(slowest, 0.5)), ms(quantile(slowest, 1)), ms(measured.ordinarySlowestMs)],
      ms(
        quantile(
          own.map(({ aboveOrdinaryMs }) => aboveOrdinaryMs),
          1,
        ),
      ),
      ms(
        quantile(
          own.map(({ slowestOfWholeMs }) => slowestOfWholeMs),
          1,
        ),
      ),
    ];
  });
}

function auditRow({ contestant, audit, retried }: Measured): string[] {
  const equal = audit.isEqual ? 'equal row by row' : 'NOT EQUAL';
  return [
    ...[contestant, audit.acknowledged.toLocaleString('en'), String(audit.failed + audit.unanswered), String(retried)],
    ...[String(audit.lost), String(audit.doubled), String(audit.failedButThere)],
    audit.isBalanced ? equal : `${equal}, sums do NOT agree`,
  ];
}

function stepsTable(measured: Measured): string {
  const names = [...new Set(measured.moves.flatMap(({ steps }) => Object.keys(steps)))];
  return table(
    ['', ...names],
    directions(measured).map(({ name, own }) => [
      name,
      ...names.map((step) => {
        const times = own.flatMap(({ steps }) => steps[step] ?? []);
        return `${number(quantile(times, 0.5))} / ${number(quantile(times, 1))}`;
      }),
    ]),
  );
}

/** What failed requests were told, most frequent first. */
function errorLines({ contestant, errors }: Measured): string {
  const sorted = Object.entries(errors).sort(([, a], [, b]) => b - a);
  if (sorted.length === 0) return '';
  return `${contestant}: failed requests: ${sorted
    .slice(0, 8)
    .map(([what, times]) => `${times} x ${what}`)
    .join('; ')}`;
}

function ms(value: number | null): string {
  return value === null ? '' : `${value.toFixed(1)} ms`;
}

function number(value: number | null): string {
  return value === null ? '' : value.toFixed(1);
}
