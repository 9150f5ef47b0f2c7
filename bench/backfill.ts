import { writeFileSync } from 'node:fs';
import { Command, Option } from 'commander';
import { benchBackfill } from './backfill/measure.js';
import { WRITES_PER_SECOND } from './data/application.js';
import { backfillPart, PGROLL_VARIABLE } from './data/backfill.js';
import { wrongInBackfill } from './data/correctness.js';
import { countOption, parseCount } from './data/options.js';
import { backfillReport } from './data/report.js';

/*
 * The part `backfill` of `npm run bench -- data` by itself: see backfill/measure.ts. Exit code 1 when Verdigris did
 * something wrong; never for a speed.
 *
 *   npx tsx bench/backfill.ts --rows 1M --rounds 3 --sizes none
 *   npx tsx bench/backfill.ts --no-writer --rounds 1 --sizes 1M,5M,20M
 */

/** Sizes such as `1M,5M`; `none` is the empty choice. */
function sizesOption(): Option {
  return new Option('--sizes <list>', 'rows of the tables that are filled without a writer, or "none"')
    .default([1_000_000, 5_000_000], '1M,5M')
    .argParser((text: string) => (text === 'none' ? [] : text.split(',').map(parseCount)));
}

const { writer, json, ...options } = new Command('npx tsx bench/backfill.ts')
  .description('Measures the filling of a new column of a live table, and without a writer at growing sizes')
  .addOption(countOption('--rows <n>', 'rows of the table with the writer', 2_000_000))
  .addOption(countOption('--rounds <n>', 'how often each is measured', 2))
  .addOption(countOption('--lanes <n>', "the plan's backfill.parallel", 2))
  .addOption(sizesOption())
  .option('--no-writer', 'measure the growing sizes only')
  .option('--json <file>', 'write everything that was measured to this file as JSON')
  .parse()
  .opts<{ rows: number; rounds: number; lanes: number; sizes: number[]; writer: boolean; json?: string }>();
const result = await benchBackfill({
  ...options,
  live: writer,
  writesPerSecond: WRITES_PER_SECOND,
  pgroll: process.env[PGROLL_VARIABLE],
  log: (line) => {
    console.log(line);
  },
});
if (json !== undefined) writeFileSync(json, `${JSON.stringify(result, undefined, 2)}\n`);
const part = backfillPart(result);
console.log(`\n${backfillReport(part)}`);
for (const line of wrongInBackfill(part)) {
  console.error(`WRONG: ${line}`);
  process.exitCode = 1;
}
