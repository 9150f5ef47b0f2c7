import { VerdigrisError } from '../errors.js';
import { hasErrors } from '../plan/finding.js';
import { lintPlan } from '../plan/lint.js';
import type { Plan } from '../plan/schema.js';
import { checkWindows } from '../plan/window-preflight.js';
import { standbyDryRun } from '../postgres/bootstrap/standby/dry-run.js';
import { isReady, type PreflightFinding } from '../postgres/preflight/finding.js';
import { checkGateSources } from '../gates/preflight.js';
import { checkHaproxies } from '../haproxy/preflight.js';
import { checkPgBouncers } from '../pgbouncer/preflight.js';
import { preflight } from '../postgres/preflight/preflight.js';
import { databasesOf } from '../worker/connections.js';
import { tellFindings } from './plan-commands.js';
import { readPlan } from './read-plan.js';
import { CommandError, EXIT, type ExitCode, type Terminal } from './terminal.js';

export interface PreflightFlags {
  /** Findings and steps as JSON, for machines. */
  readonly json?: boolean;
}

/**
 * `verdigris preflight FILE`: what the first phase of a run would find, and what the bootstrap would do, without a
 * worker and without touching anything. 0 when a run could begin, 1 when it would be refused.
 */
export async function preflightCommand(terminal: Terminal, file: string, flags: PreflightFlags): Promise<ExitCode> {
  const { parsed } = await readPlan(file);
  const lint = 'findings' in parsed ? parsed.findings : await lintPlan(parsed.plan);
  if ('findings' in parsed || hasErrors(lint)) {
    tellFindings(terminal, file, lint);
    return EXIT.refused;
  }
  const { plan } = parsed;
  const databases = connections(plan);
  const { findings } = await preflight({ ...databases, plan, runId: 'preflight command' });
  const report = {
    findings: [
      ...findings,
      ...checkWindows(plan, Date.now()),
      ...(await checkPgBouncers(plan, databases, process.env)),
      ...(await checkHaproxies(plan, databases, process.env)),
      ...(await checkGateSources(plan, process.env)),
    ],
  };
  const notLookedAt = leftToWorker(plan);
  const steps = plan.bootstrap.method === 'standby' ? standbyDryRun(plan) : [];
  if (flags.json === true)
    terminal.out(JSON.stringify({ ready: isReady(report), ...report, steps, notLookedAt }, null, 2));
  else {
    for (const finding of report.findings) terminal.out(`${formatPreflight(finding)}\n`);
    if (steps.length > 0) terminal.out(`${formatSteps(plan)}\n`);
    terminal.out(
      isReady(report)
        ? `${file}: a run could begin. Nothing was touched`
        : `${file}: a run would be refused. Nothing was touched. The checks: docs/preflight.md`,
    );
    if (notLookedAt.length > 0) {
      terminal.out(`not looked at here, but when a run begins, where its worker is: ${notLookedAt.join(', ')}`);
    }
  }
  return isReady(report) ? EXIT.done : EXIT.refused;
}

/** What of the plan only the worker can be asked about: its file, its secrets, its way to others. */
function leftToWorker({ traffic, notify = [] }: Plan): string[] {
  return [
    ...(traffic.flagd === undefined ? [] : [`flagd's file ${traffic.flagd.path}`]),
    ...(traffic.webhooks ?? []).map(({ connection }) => `webhook ${connection}`),
    ...notify.map(({ connection }) => `notifications to ${connection}`),
  ];
}

function connections(plan: Plan): ReturnType<typeof databasesOf> {
  try {
    return databasesOf(plan, process.env);
  } catch (error) {
    if (!(error instanceof VerdigrisError)) throw error;
    throw new CommandError(error.what, `${error.nextStep} (here it is this shell that needs it)`, EXIT.unusable, error);
  }
}

function formatPreflight({ severity, side, object, check, message, remedy }: PreflightFinding): string {
  return `${severity} ${side}: ${object}: ${message} (${check})\n  ${remedy}`;
}

function formatSteps(plan: Plan): string {
  return [
    'The bootstrap "standby" would do, in this order:',
    ...standbyDryRun(plan).map(
      ({ side, what, undo }, i) =>
        `  ${i + 1}. on ${side}: ${what}\n     ${undo === null ? "CAN'T BE UNDONE: after a rollback green must be made anew (pg_basebackup or pg_rewind)" : `rollback: ${undo}`}`,
    ),
    'Up to the promotion a rollback leaves green the standby that it is.',
  ].join('\n');
}
