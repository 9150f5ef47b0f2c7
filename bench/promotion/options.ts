import { Command, Option } from 'commander';
import { countOption, jsonOption, listOption } from '../data/options.js';

/** Who moves the writes, and whose client sees it. */
export const CONTESTANTS = ['router', 'pgbouncer', 'manual'] as const;
export type Contestant = (typeof CONTESTANTS)[number];

export interface PromotionOptions {
  /** How often writes go to green; each time they come back too. */
  readonly moves: number;
  /** Transactions a second of the application. */
  readonly tps: number;
  /** Seconds between two moves, in which the application is measured undisturbed. */
  readonly rest: number;
  readonly only: readonly Contestant[];
  /** Major version of green; blue is 15. */
  readonly green: 15 | 18;
  readonly json?: string;
}

/**
 * Reads the arguments after the benchmark's name.
 *
 * @throws CommanderError for help (exit code 0) and for what it can't read.
 */
export function promotionOptions(args: readonly string[]): PromotionOptions {
  const options = new Command('npm run bench -- promotion')
    .description('Measures what an application notices when its writes move to green and back, again and again')
    .addOption(countOption('--moves <n>', 'promotions, each with a rollback after it', 20))
    .addOption(countOption('--tps <n>', 'transactions a second, of five statements on three tables', 1_000))
    .addOption(countOption('--rest <seconds>', 'seconds between two moves', 4))
    .addOption(listOption('--only <contestants>', 'who is measured, separated by commas', CONTESTANTS, { none: false }))
    .addOption(new Option('--green <version>', 'major version of green').choices(['15', '18']).default('18'))
    .addOption(jsonOption('write everything that was measured to this file as JSON'))
    .exitOverride()
    .parse([...args], { from: 'user' })
    .opts<Omit<PromotionOptions, 'green'> & { green: '15' | '18' }>();
  return { ...options, green: options.green === '15' ? 15 : 18 };
}
