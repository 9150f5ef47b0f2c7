import { BENCHMARKS, benchmarkNamed } from './benchmarks.js';

/* `npm run bench -- <name> [options]`: runs one benchmark; `npm run bench -- <name> --help` lists its options. */

const [name, ...rest] = process.argv.slice(2);
const benchmark = benchmarkNamed(name);
if (benchmark === undefined) {
  const known = Object.entries(BENCHMARKS).map(([known, { about }]) => `  ${known.padEnd(12)} ${about}`);
  const asked = name === undefined || name.startsWith('-') ? 'Name a benchmark.' : `There is no benchmark "${name}".`;
  console.error(`${asked} There are:\n${known.join('\n')}\n\nnpm run bench -- <name> --help lists the options.`);
  process.exit(2);
}
process.exit(await (await benchmark.load())(rest));
