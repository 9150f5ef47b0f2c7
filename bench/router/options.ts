import { Command, InvalidArgumentError } from 'commander';
import { countOption, jsonOption } from '../data/options.js';
import { WORKLOADS, type Workload } from './targets.js';

export interface RouterBenchOptions {
  /** Length of a round. */
  readonly seconds: number;
  /** Pairs of rounds. */
  readonly rounds: number;
  readonly callers: number;
  readonly connections: number;
  readonly only?: Workload;
  readonly json?: string;
}

/**
 * Reads the arguments after the benchmark's name.
 *
 * @throws CommanderError for help (exit code 0) and for what it can't read.
 */
export function routerOptions(args: readonly string[]): RouterBenchOptions {
  const options = new Command('npm run bench -- router')
    .description('Measures what the router costs beside a plain pg.Pool, by turns, on one server')
    .option('--seconds <n>', 'length of a round', parseSeconds, 0.2)
    .addOption(countOption('--rounds <n>', 'pairs of rounds', 80))
    .addOption(countOption('--callers <n>', 'callers at once', 8))
    .addOption(countOption('--connections <n>', 'connections of each pool (default: as many as callers)'))
    .option('--only <workload>', `only this one: ${WORKLOADS.join(', ')}`, parseWorkload)
    .addOption(jsonOption('write the result to this file as JSON'))
    .exitOverride()
    .parse([...args], { from: 'user' })
    .opts<Omit<RouterBenchOptions, 'connections'> & { connections?: number }>();
  return { ...options, connections: options.connections ?? options.callers };
}

function parseSeconds(text: string): number {
  const seconds = Number(text);
  if (!(seconds > 0)) throw new InvalidArgumentError('Give a number above 0.');
  return seconds;
}

function parseWorkload(text: string): Workload {
  const found = WORKLOADS.find((name) => name === text);
  if (found === undefined) throw new InvalidArgumentError(`Give one of ${WORKLOADS.join(', ')}.`);
  return found;
}
