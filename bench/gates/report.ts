import { ABOUT, GREENS } from './green.js';
import type { Tally } from './tally.js';

/** The tables of docs/benchmarks.md: the healthy green, then the bad ones. */
export function report(tallies: readonly Tally[]): string {
  const healthy = tallies.filter(({ green }) => green === 'healthy');
  const bad = GREENS.flatMap((green) => tallies.filter((one) => one.green === green && green !== 'healthy'));
  return [table(HEALTHY, healthy.map(healthyRow)), table(BAD, bad.map(badRow))].join('\n\n');
}

const HEALTHY = [
  'a healthy green, reads/s',
  'rule',
  '>false alarm',
  '>held',
  '>advanced',
  '>through all stages after, median',
];
const BAD = [
  ...['a bad green', '>reads/s', 'rule', '>false pass', '>held', '>caught', '>decided after: median, p95, longest'],
  '>reads touched until then, of all (worst run)',
];

function healthyRow({ readsPerSecond, rule, runs, ends, seconds }: Tally): string[] {
  return [
    String(readsPerSecond),
    rule,
    share(ends['rolled back'], runs),
    share(ends.held, runs),
    share(ends.advanced, runs),
    duration(seconds.median),
  ];
}

function badRow({ green, readsPerSecond, rule, runs, ends, seconds, ...harmed }: Tally): string[] {
  return [
    ABOUT[green],
    String(readsPerSecond),
    rule,
    share(ends.advanced, runs),
    share(ends.held, runs),
    share(ends['rolled back'], runs),
    [seconds.median, seconds.p95, seconds.longest].map(duration).join(', '),
    `${percent(harmed.harmedShare)} (${percent(harmed.mostHarmedShare)})`,
  ];
}

/** Columns whose name begins with `>` hold numbers. */
function table(columns: readonly string[], rows: readonly string[][]): string {
  const names = columns.map((name) => name.replace('>', ''));
  const rules = columns.map((name) => (name.startsWith('>') ? '--:' : '---'));
  return [names, rules, ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}

function share(n: number, of: number): string {
  return `${((100 * n) / Math.max(1, of)).toFixed(1)} %`;
}

function percent(part: number): string {
  return `${(100 * part).toFixed(3)} %`;
}

function duration(seconds: number): string {
  if (seconds < 120) return `${seconds} s`;
  return seconds < 7_200 ? `${(seconds / 60).toFixed(1)} min` : `${(seconds / 3_600).toFixed(1)} h`;
}
