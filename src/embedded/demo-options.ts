import { Command, InvalidArgumentError, Option } from 'commander';
import { DURATION_PATTERN } from '../plan/duration.js';

/** Where the demo asks for a rollback: in a phase, just before the promotion, or after it. */
export const ROLLBACK_PHASES = ['replicate', 'migrate', 'verify', 'traffic', 'promote', 'standby'] as const;
export type RollbackPhase = (typeof ROLLBACK_PHASES)[number];

export interface DemoOptions {
  readonly rows: number;
  /** Requests a second. Default: 1,000, or as many as the machine can take beside everything else. */
  readonly rate?: number;
  readonly stage: string;
  readonly standby: string;
  readonly rollback?: RollbackPhase;
  readonly json?: string;
  readonly keep?: boolean;
}

/** Reads the command line; prints the help or a complaint and exits where commander does. */
export function demoOptions(argv: readonly string[]): DemoOptions {
  return new Command('npm run demo --')
    .description('Moves a shop under live load from PostgreSQL 15 to 18, and prints what the application saw of it')
    .addOption(count('--rows <n>', 'orders, and as many transactions, in the shop', 200_000))
    .addOption(
      count('--rate <n>', 'requests a second; 30 % of them write (default: 1000, less where the machine is slow)'),
    )
    .addOption(duration('--stage <duration>', 'how long each stage of the traffic shift lasts at least', '5s'))
    .addOption(duration('--standby <duration>', 'how long blue is kept current after the promotion', '10s'))
    .addOption(new Option('--rollback <phase>', 'ask for a rollback in this phase').choices(ROLLBACK_PHASES))
    .option('--json <file>', 'write the result to this file as JSON')
    .option('--keep', 'leave everything running at the end, until Ctrl-C')
    .parse([...argv])
    .opts<DemoOptions>();
}

export interface DevOptions {
  readonly rows: number;
  readonly rate: number;
  readonly stage: string;
  readonly standby: string;
}

/** The same for `npm run dev`. */
export function devOptions(argv: readonly string[]): DevOptions {
  return new Command('npm run dev --')
    .description('Starts Temporal with its Web UI, both databases, a worker and the shop under load, until Ctrl-C')
    .addOption(count('--rows <n>', 'orders, and as many transactions, in the shop', 200_000))
    .addOption(count('--rate <n>', 'requests a second; 30 % of them write', 100))
    .addOption(duration('--stage <duration>', 'how long each stage of the traffic shift lasts at least', '30s'))
    .addOption(duration('--standby <duration>', 'how long blue is kept current after the promotion', '10m'))
    .parse([...argv])
    .opts<DevOptions>();
}

function count(flags: string, description: string, value?: number): Option {
  return new Option(flags, description).default(value).argParser((text) => {
    const number = Number(text);
    if (!Number.isSafeInteger(number) || number < 1) throw new InvalidArgumentError('Give a whole number above 0.');
    return number;
  });
}

function duration(flags: string, description: string, value: string): Option {
  return new Option(flags, description).default(value).argParser((text) => {
    if (!DURATION_PATTERN.test(text)) throw new InvalidArgumentError('Give a number and a unit, such as 5s or 2m.');
    return text;
  });
}
