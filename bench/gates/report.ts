import { ABOUT, GREENS } from './green.js';
import type { Tally } from './simulate.js';

/** The table of docs/gates.md. */
export function report(tallies: readonly Tally[]): string {
  const lines = [
    '| green | reads/s | rule | false alarm | false pass | held | caught | decided after, median (longest) | traffic harmed, at most |',
    '| --- | --: | --- | --: | --: | --: | --: | --: | --: |',
  ];
  for (const green of GREENS) {
    for (const tally of tallies.filter((one) => one.green === green)) {
      const { ends, runs } = tally;
      const isHealthy = green === 'healthy';
      const share = (n: number): string => `${((100 * n) / runs).toFixed(1)} %`;
      lines.push(
        `| ${[
          ABOUT[green],
          tally.readsPerSecond,
          tally.rule,
          isHealthy ? share(ends['rolled back']) : '',
          isHealthy ? '' : share(ends.advanced),
          share(ends.held),
          isHealthy ? '' : share(ends['rolled back']),
          `${minutes(tally.medianSeconds)} (${minutes(tally.longestSeconds)})`,
          isHealthy ? '' : `${(100 * tally.mostHarmed).toFixed(3)} %`,
        ].join(' | ')} |`,
      );
    }
  }
  return lines.join('\n');
}

function minutes(seconds: number): string {
  return seconds < 120 ? `${seconds} s` : `${(seconds / 60).toFixed(1)} min`;
}
