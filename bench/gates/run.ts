import { writeFileSync } from 'node:fs';
import { CommanderError } from 'commander';
import { gatesOptions } from './options.js';
import { report } from './report.js';
import { simulate } from './simulate.js';

/** The benchmark `gates`. @returns the exit code */
export function gatesBenchmark(args: readonly string[]): Promise<number> {
  let options;
  try {
    options = gatesOptions(args);
  } catch (error) {
    if (error instanceof CommanderError) return Promise.resolve(error.exitCode);
    throw error;
  }
  const { runs, seed, json } = options;
  const startedAt = new Date().toISOString();
  const tallies = simulate(runs, seed, (what) => console.error(what));
  console.log(report(tallies));
  if (json !== undefined) {
    const command = `npm run bench -- gates ${args.join(' ')}`.trim();
    writeFileSync(json, `${JSON.stringify({ benchmark: 'gates', startedAt, command, options, tallies }, null, 2)}\n`);
  }
  const wrong = tallies.filter(
    ({ rule, green, ends }) =>
      rule === 'Verdigris' && (green === 'healthy' ? ends['rolled back'] > 0.002 * runs : ends.advanced > 0),
  );
  for (const { green, readsPerSecond, ends } of wrong) {
    console.error(`a ${green} green at ${readsPerSecond} reads a second: ${JSON.stringify(ends)}`);
  }
  return Promise.resolve(wrong.length === 0 ? 0 : 1);
}
