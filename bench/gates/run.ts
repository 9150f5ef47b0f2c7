import { writeFileSync } from 'node:fs';
import { CommanderError } from 'commander';
import { GREENS } from './green.js';
import { gatesOptions } from './options.js';
import { simulateAll, type Chunk } from './parallel.js';
import { report } from './report.js';
import { RATES, type RunOfRule } from './simulate.js';
import { tallies, type Tally } from './tally.js';

/** Runs that a process simulates at a time. */
const CHUNK = 50;

/** The benchmark `gates`. @returns the exit code */
export async function gatesBenchmark(args: readonly string[]): Promise<number> {
  let options;
  try {
    options = gatesOptions(args);
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode;
    throw error;
  }
  const { runs, seed, json } = options;
  const startedAt = new Date().toISOString();
  const cases = GREENS.flatMap((green) => RATES.map((readsPerSecond) => ({ green, readsPerSecond })));
  const chosen = cases.filter(
    ({ green, readsPerSecond }) =>
      (options.only === undefined || options.only.includes(green)) &&
      (options.rates === undefined || options.rates.includes(String(readsPerSecond))),
  );
  const found = await simulated(chosen, runs, seed);
  console.log(report(found));
  if (json !== undefined) {
    const command = `npm run bench -- gates ${args.join(' ')}`.trim();
    writeFileSync(
      json,
      `${JSON.stringify({ benchmark: 'gates', startedAt, command, options, tallies: found }, null, 2)}\n`,
    );
  }
  const wrong = found.filter(
    ({ rule, green, ends }) =>
      rule === 'Verdigris' && (green === 'healthy' ? ends['rolled back'] > 0 : ends.advanced > 0),
  );
  for (const { green, readsPerSecond, ends } of wrong) {
    console.error(`a ${green} green at ${readsPerSecond} reads a second: ${JSON.stringify(ends)}`);
  }
  return wrong.length === 0 ? 0 : 1;
}

async function simulated(
  cases: readonly Pick<Chunk, 'green' | 'readsPerSecond'>[],
  runs: number,
  seed: number,
): Promise<Tally[]> {
  const chunks = cases.flatMap((one) =>
    Array.from({ length: Math.ceil(runs / CHUNK) }, (_, i) => ({
      ...{ ...one, seed, first: i * CHUNK, end: Math.min(runs, (i + 1) * CHUNK) },
    })),
  );
  const done = new Map<string, RunOfRule[]>();
  let left = chunks.length;
  await simulateAll(chunks, ({ chunk, runs: ended }) => {
    done.set(nameOf(chunk), [...(done.get(nameOf(chunk)) ?? []), ...ended]);
    left -= 1;
    if (left % 20 === 0) console.error(`${Math.round(100 * (1 - left / chunks.length))} %`);
  });
  return cases.flatMap((one) => tallies(one.green, one.readsPerSecond, done.get(nameOf(one)) ?? []));
}

function nameOf({ green, readsPerSecond }: Pick<Chunk, 'green' | 'readsPerSecond'>): string {
  return `${green} ${readsPerSecond}`;
}
