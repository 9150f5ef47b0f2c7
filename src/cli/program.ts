import { Command, InvalidArgumentError, Option } from 'commander';
import type { MessageName } from '../../workflows/lib/status.js';
import { linkCommand, serveCommand } from './approvals-commands.js';
import type { LinkFlags, ServeFlags } from './approvals-commands.js';
import { doctorCommand } from './doctor-command.js';
import type { DoctorFlags } from './doctor-command.js';
import { messageCommand } from './message-command.js';
import type { MessageFlags } from './message-command.js';
import { DURATION_PATTERN } from '../plan/duration.js';
import { lintCommand, schemaCommand, showCommand } from './plan-commands.js';
import type { LintOptions } from './plan-commands.js';
import { ownVersion } from './own-version.js';
import { planBehindNames } from './plan-behind-names.js';
import { preflightCommand } from './preflight-command.js';
import type { PreflightFlags } from './preflight-command.js';
import { startCommand } from './start-command.js';
import type { StartFlags } from './start-command.js';
import { statusCommand, watchCommand } from './status-command.js';
import type { StatusFlags } from './status-command.js';
import type { ExitCode, Terminal } from './terminal.js';

/** The command line. `ended` is told how the command ended; errors are thrown. */
export function program(terminal: Terminal, ended: (code: ExitCode) => void): Command {
  const verdigris = new Command('verdigris')
    .description('Moves a live PostgreSQL database to a new server with a new schema, with zero downtime')
    .version(ownVersion(), '--version', 'say which version this is')
    .configureOutput({
      writeOut: (text) => terminal.out(text.trimEnd()),
      writeErr: (text) => terminal.note(text.trimEnd()),
    })
    .showHelpAfterError()
    .exitOverride();

  const plan = verdigris.command('plan').description('Work with plans');
  plan
    .command('lint <file>')
    .description('Refuse what would lock, rewrite, lose data or make rollback impossible (- reads standard input)')
    .option('--json', 'findings as JSON')
    .option(
      '--connections',
      'also ask whether VERDIGRIS_CONNECTION_<NAME> is set here for every connection of the plan',
    )
    .action(async (file: string, flags: LintOptions) => ended(await lintCommand(terminal, file, flags)));
  plan
    .command('schema')
    .description('Print the JSON Schema of plans')
    .action(() => ended(schemaCommand(terminal)));
  plan
    .command('show <file>')
    .description('Print the plan with every default filled in')
    .action(async (file: string) => ended(await showCommand(terminal, file)));

  verdigris
    .command('preflight <file>')
    .description('Ask both databases what could stop a run, and show what the bootstrap would do; touches nothing')
    .option('--json', 'findings and steps as JSON')
    .action(async (file: string, flags: PreflightFlags) => ended(await preflightCommand(terminal, file, flags)));

  withServer(verdigris.command('start <file>'))
    .description('Lint the plan and start its workflow')
    .option('--print', 'print the equal `temporal workflow start` and run nothing')
    .option('--task-queue <name>', 'task queue of the workers (default: VERDIGRIS_TASK_QUEUE, verdigris)')
    .action(async (file: string, flags: StartFlags) => ended(await startCommand(terminal, file, flags)));
  withServer(verdigris.command('status <name>'), true)
    .description('Where the run is, what it waits for, and the command that answers it')
    .option('--json', 'the whole status as JSON')
    .action(async (name: string, flags: StatusFlags) => ended(await statusCommand(terminal, name, flags)));
  withServer(verdigris.command('watch <name>'), true)
    .description('Print every change of the status until the run ends')
    .option('--json', 'a status in JSON for each change; {"now": "..."} while no worker answers')
    .action(async (name: string, flags: StatusFlags) => ended(await watchCommand(terminal, name, flags)));

  withMessage(verdigris.command('approve <name> <gate>'))
    .description('Let the run go on: gate is traffic, stage-<percent> or the percent alone, promote or retire')
    .option(
      '--request <id>',
      'the question that is answered, as the status shows it; refused when another one is asked',
    )
    .action(async (name: string, gate: string, flags: MessageFlags) =>
      ended(await messageCommand(terminal, 'approve', name, flags, gate)),
    );
  const approvals = verdigris.command('approvals').description('Approval by signed links (docs/approvals.md)');
  withServer(approvals.command('serve'), true)
    .description('Answer approval links: GET shows what is asked, POST approves')
    .option('--host <address>', 'address to listen on; put TLS before it', '127.0.0.1')
    .addOption(new Option('--port <number>', 'port to listen on').default(8790).argParser(port))
    .action(async (flags: ServeFlags) => ended(await serveCommand(terminal, flags)));
  withServer(approvals.command('link <name>'), true)
    .description('Print a link that approves what the run asks now')
    .option('--for <who>', 'whom it is made out to')
    .addOption(new Option('--valid-for <duration>', 'such as 1h (default: validFor of the plan)').argParser(duration))
    .option('--url <base>', 'where the links are answered (default: VERDIGRIS_APPROVAL_URL)')
    .action(async (name: string, flags: LinkFlags) => ended(await linkCommand(terminal, name, flags)));
  for (const [message, description] of Object.entries(MESSAGES) as [Exclude<MessageName, 'approve'>, string][]) {
    const command = withMessage(verdigris.command(`${message} <name>`)).description(description);
    if (message === 'rollback') {
      command.option('--accept-loss', 'go back although blue does not have everything that was written on green');
    }
    command.action(async (name: string, flags: MessageFlags) =>
      ended(await messageCommand(terminal, message, name, flags)),
    );
  }
  withServer(verdigris.command('doctor [plan]'))
    .description('What Verdigris has in the two databases, what is wrong, and what to do (docs/doctor.md)')
    .option('--blue <name>', 'connection of blue, instead of a plan')
    .option('--green <name>', 'connection of green, instead of a plan')
    .option(
      '--pgbouncer <name...>',
      'connections of admin consoles to look at, beside those of the plan; more names, or the option again',
    )
    .option('--who-is-primary', 'answer from the two databases alone; exit code 0 only when it is certain')
    .option('--clean', 'remove what a run that is over has left; says what it would do unless --yes')
    .option('--open', 'finish a decision that is half done: open the side that it named; with --yes')
    .option('--close', 'close a side that was overtaken, where both take writes; with --yes')
    .option('--yes', 'do it')
    .option('--green-is-gone <migration>', 'with --open: green is lost for good; open blue and lose what it has not')
    .option('--release-blue <migration>', 'with --clean: also open blue, although writes are on green')
    .option('--release-green <migration>', 'with --clean: also open green, although writes are on blue')
    .option('--drop-copy <migration>', "with --clean: also drop the run's copy on green, rows included")
    .option('--drop-triggers <migration>', 'with --clean: also drop up/down triggers that fill NOT NULL columns')
    .option('--run-is-over <migration>', 'the run is over and its workers are stopped, whatever Temporal can say')
    .option('--json', 'everything as JSON')
    .action(async (plan: string | undefined, flags: DoctorFlags) => {
      const { file, names } = planBehindNames(plan, flags.pgbouncer);
      ended(await doctorCommand(terminal, file, names.length === 0 ? flags : { ...flags, pgbouncer: names }));
    });
  return verdigris;
}

const MESSAGES: Readonly<Record<Exclude<MessageName, 'approve'>, string>> = {
  pause: 'Stop the work where it can go on later',
  resume: 'Go on after a pause, or after a hold once what the status names is mended',
  rollback: 'Bring all traffic back to blue and undo the run',
  retire: 'End the standby window now; in a rollback that waits: give it up and stay on green',
};

function withServer(command: Command, timeout = false): Command {
  command
    .option(
      '--address <host:port>',
      'address of the Temporal server (default: TEMPORAL_ADDRESS, the profile, localhost:7233)',
    )
    .option('--namespace <name>', 'namespace (default: TEMPORAL_NAMESPACE, the profile, default)')
    .option('--profile <name>', 'profile of the temporal CLI');
  if (timeout)
    command.addOption(new Option('--timeout <seconds>', 'wait so long for a worker').default(10).argParser(seconds));
  return command;
}

function withMessage(command: Command): Command {
  return withServer(command, true)
    .requiredOption('--by <who>', 'who sends this (required)')
    .requiredOption('--reason <why>', 'why (required)');
}

function port(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 0 || value > 65_535) throw new InvalidArgumentError('write a port');
  return value;
}

function duration(text: string): string {
  if (!DURATION_PATTERN.test(text)) throw new InvalidArgumentError('write a number and a unit, such as 30m or 24h');
  return text;
}

function seconds(text: string): number {
  const value = Number(text);
  if (!Number.isFinite(value) || value <= 0) throw new InvalidArgumentError('write a number of seconds above 0');
  return value;
}
