import { Command } from 'commander';
import { GREENS } from './green.js';
import { RATES } from './simulate.js';
import { countOption, jsonOption, listOption } from '../data/options.js';

export interface GatesOptions {
  /** Simulated runs of each kind of green at each rate. */
  readonly runs: number;
  readonly seed: number;
  /** Kinds of green; all by default. */
  readonly only?: readonly string[];
  /** Reads a second; all by default. */
  readonly rates?: readonly string[];
  readonly json?: string;
}

const ONE_AT_LEAST = { none: false };

/**
 * Reads the arguments after the benchmark's name.
 *
 * @throws CommanderError for help (exit code 0) and for what it can't read.
 */
export function gatesOptions(args: readonly string[]): GatesOptions {
  return new Command('npm run bench -- gates')
    .description(
      'Simulates stages of healthy and of bad greens, and shows what the gates make of them, beside other rules',
    )
    .addOption(countOption('--runs <n>', 'runs of each kind of green at each rate', 1_000))
    .addOption(countOption('--seed <n>', 'the same seed gives the same runs', 1))
    .addOption(listOption('--only <kinds>', `only these greens, by commas: ${GREENS.join(', ')}`, GREENS, ONE_AT_LEAST))
    .addOption(
      listOption(
        '--rates <rates>',
        `only these reads a second, by commas: ${RATES.join(', ')}`,
        RATES.map(String),
        ONE_AT_LEAST,
      ),
    )
    .addOption(jsonOption('write everything that was counted to this file as JSON'))
    .exitOverride()
    .parse([...args], { from: 'user' })
    .opts<GatesOptions>();
}
