import { closeSync, openSync } from 'node:fs';
import { cpus } from 'node:os';
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import { parseSize } from '../../src/postgres/lag.js';

/** The parts of the benchmark, in the order in which they run. */
export const PARTS = ['copy', 'change', 'backfill', 'application', 'verify'] as const;
export type Part = (typeof PARTS)[number];

/** Where another tool is measured beside Verdigris. */
export const PEERS = ['pgcopydb', 'pg_dump', 'tablesync', 'by-hand', 'pgroll'] as const;
export type Peer = (typeof PEERS)[number];

export interface DataOptions {
  readonly rows: number;
  readonly rounds: number;
  readonly only: readonly Part[];
  readonly peers: readonly Peer[];
  /** Major version of green; blue is 15. */
  readonly green: 15 | 18;
  /** Where green's files are: on a disk of its own it takes nothing from blue's. Default: beside blue's. */
  readonly greenFolder?: string;
  /** Pieces that each contestant works on at once. */
  readonly jobs: number;
  /** The limit of the throttled copy in the part "application". */
  readonly maxRate: string;
  readonly json?: string;
}

/** Above so many rows a round takes minutes. */
const MANY_ROWS = 5_000_000;

/** Three rounds give a median; with many rows two runs already say what varies. */
export function defaultRounds(rows: number): number {
  return rows <= MANY_ROWS ? 3 : 2;
}

/**
 * Reads the arguments after the benchmark's name.
 *
 * @throws CommanderError for help (exit code 0) and for what it can't read.
 */
export function dataOptions(args: readonly string[]): DataOptions {
  const { rows, rounds, ...rest } = new Command('npm run bench -- data')
    .description('Measures how rows get to green: Verdigris and other tools, in one run, on this machine')
    .addOption(countOption('--rows <n>', 'rows of the large table, such as 2000000, 2M or 500k', 20_000_000))
    .addOption(countOption('--rounds <n>', 'how often each is measured (default: 3 up to 5M rows, else 2)'))
    .addOption(listOption('--only <parts>', 'parts to run, separated by commas', PARTS, { none: false }))
    .addOption(
      listOption('--peers <tools>', 'tools to measure beside Verdigris, separated by commas, or "none"', PEERS),
    )
    .addOption(new Option('--green <version>', 'major version of green').choices(['15', '18']).default('15'))
    .option(
      '--green-folder <folder>',
      "where green's files are, such as a folder on another disk (default: beside blue's)",
    )
    .addOption(countOption('--jobs <n>', 'pieces that each contestant works on at once', 4))
    .addOption(
      new Option('--max-rate <size>', 'bytes a second of the throttled copy in the part "application"')
        .default('20MB')
        .argParser(parseRate),
    )
    .addOption(jsonOption('write everything that was measured to this file as JSON'))
    .exitOverride()
    .parse([...args], { from: 'user' })
    .opts<Omit<DataOptions, 'rounds' | 'green'> & { rounds?: number; green: '15' | '18' }>();
  return { ...rest, rows, rounds: rounds ?? defaultRounds(rows), green: rest.green === '18' ? 18 : 15 };
}

/** Whether the error is commander's way to say that help was shown: nothing went wrong. */
export function exitCodeOf(error: unknown): number | undefined {
  return error instanceof CommanderError ? error.exitCode : undefined;
}

/** Cores that the operating system lets us see. */
export function cores(): number {
  return cpus().length;
}

/** An option that takes a number. */
export function countOption(flags: string, description: string, value?: number): Option {
  const option = new Option(flags, description).argParser(parseCount);
  return value === undefined ? option : option.default(value);
}

/** A whole number above 0; `k` and `M` are thousands and millions. */
export function parseCount(text: string): number {
  const [, digits, unit] = /^([0-9]+)([kM]?)$/.exec(text) ?? [];
  const number = Number(digits) * (unit === 'M' ? 1_000_000 : unit === 'k' ? 1_000 : 1);
  if (!Number.isSafeInteger(number) || number < 1) throw new InvalidArgumentError('Give a whole number above 0.');
  return number;
}

/** An option that takes names out of a list. */
export function listOption<T extends string>(
  flags: string,
  description: string,
  known: readonly T[],
  { none = true }: { readonly none?: boolean } = {},
): Option {
  const parse = (text: string): readonly T[] => parseList(text, known, none);
  return new Option(flags, description).default(known, 'all').argParser(parse);
}

/**
 * The file that the result is written to. It is opened at once: what can't be written would be found after hours of
 * measuring, and everything lost.
 */
export function jsonOption(description: string): Option {
  return new Option('--json <file>', description).argParser((file: string): string => {
    try {
      closeSync(openSync(file, 'a'));
    } catch (error) {
      throw new InvalidArgumentError(`It can't be written: ${error instanceof Error ? error.message : String(error)}.`);
    }
    return file;
  });
}

function parseRate(text: string): string {
  try {
    parseSize(text);
  } catch {
    throw new InvalidArgumentError('Give a size, such as 20MB.');
  }
  return text;
}

/** Names out of a list, in the list's order; `none` is the empty choice where there may be one. */
export function parseList<T extends string>(text: string, known: readonly T[], none = true): readonly T[] {
  if (none && text === 'none') return [];
  const asked = text.split(',').map((name) => name.trim());
  const unknown = asked.filter((name) => !known.some((one) => one === name));
  if (unknown.length > 0) throw new InvalidArgumentError(`There is no ${unknown.join(', ')}: ${known.join(', ')}.`);
  return known.filter((name) => asked.includes(name));
}
