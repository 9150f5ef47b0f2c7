import { Context } from '@temporalio/activity';
import { VerdigrisError } from '../src/errors.js';
import { formatFinding, hasErrors, type Finding } from '../src/plan/finding.js';
import { checkFlagdFile } from '../src/flags/preflight.js';
import { lintPlan } from '../src/plan/lint.js';
import { parsePlan } from '../src/plan/parse.js';
import type { Plan } from '../src/plan/schema.js';
import { checkWindows } from '../src/plan/window-preflight.js';
import { checkGateSources } from '../src/gates/preflight.js';
import { checkHaproxies } from '../src/haproxy/preflight.js';
import { checkNotify } from '../src/notify/preflight.js';
import { checkPgBouncers } from '../src/pgbouncer/preflight.js';
import { summarized } from '../src/postgres/preflight/finding.js';
import { preflight, type PreflightFinding } from '../src/postgres/preflight/preflight.js';
import { checkTrafficWebhooks } from '../src/webhooks/preflight.js';
import { workflowIdOf } from '../src/workflow-names.js';
import type { RunRef } from '../workflows/lib/run-ref.js';
import { alive, perform, tellThatItWaits, type ActivityDependencies } from './context.js';
import { passing } from './passing-findings.js';
import { temporalClock } from './temporal-clock.js';

/** Activities of phase 1: they look, and change nothing. */
export function preflightActivities(dependencies: ActivityDependencies) {
  return {
    /** Checks the plan as `verdigris plan lint` does: whoever starts a run by hand may not have done it. */
    lintPlan: (input: unknown): Promise<{ plan: Plan; warnings: string[] }> =>
      alive(dependencies, async () => {
        const parsed = parsePlan(input);
        if ('findings' in parsed) throw refused('PlanInvalid', parsed.findings);
        const findings = await lintPlan(parsed.plan);
        if (hasErrors(findings)) throw refused('PlanRefused', findings);
        const warnings = findings.map((f) => `${f.place}: ${f.message} (${f.rule})`);
        return { plan: parsed.plan, warnings: [...warnings, ...otherWorkflowId(parsed.plan.name)] };
      }),

    /**
     * Every check on both sides; all findings at once.
     *
     * @param isAgain the run was ready before and has waited since, and maybe nobody is there now: what may pass by itself is
     *   waited for. Older workflows don't say it
     */
    preflight: (ref: RunRef, isAgain = false): Promise<{ warnings: string[] }> =>
      perform(
        dependencies,
        ref,
        async ({ databases, run, report, signal }) => {
          report({ checking: 'both databases' });
          const { findings: ofDatabases } = await preflight({ ...databases, plan: ref.plan, runId: run.runId });
          const findings = [
            ...ofDatabases,
            ...(ref.plan.windows === undefined ? [] : checkWindows(ref.plan, (await temporalClock())())),
            ...(await checkPgBouncers(ref.plan, databases, dependencies.environment)),
            ...(await checkHaproxies(ref.plan, databases, dependencies.environment)),
            ...(await checkGateSources(ref.plan, dependencies.environment, signal)),
            ...(await checkFlagdFile(ref.plan)),
            ...checkTrafficWebhooks(ref.plan, dependencies.environment),
            ...checkNotify(ref.plan, dependencies.environment),
          ];
          const told = (severity: PreflightFinding['severity']): PreflightFinding[] =>
            summarized(findings.filter((finding) => finding.severity === severity));
          const errors = told('error');
          const [first, ...others] = isAgain ? passing(errors) : [];
          if (first !== undefined) {
            const more = others.length === 0 ? '' : `, and ${others.length} more`;
            tellThatItWaits('both databases', dependencies.redact(`${describe(first)}${more}; ${first.remedy}`));
            throw notReadyNow(errors);
          }
          if (errors.length > 0) throw preflightFailed(errors);
          return { warnings: told('warning').map((f) => `${describe(f)} ${f.remedy}`) };
        },
        // Nothing is touched yet: whoever has started the run hears at once of a name or a password that is wrong.
        (error) => (isAgain ? error.tryingAgain() : error.asLastWord()),
      ),
  };
}

/**
 * Under another id two runs of one migration could live, and nobody who asks Temporal whether the run lives would hear
 * of this one.
 */
function otherWorkflowId(name: string): string[] {
  const wanted = workflowIdOf(name);
  const { workflowId } = Context.current().info.workflowExecution ?? {};
  if (workflowId === wanted) return [];
  return [
    `the run was started as workflow "${workflowId ?? ''}" and not as "${wanted}": the commands \`status\`, \`approve\` and the like don't find it by the plan's name, and the doctor can't tell whether it lives; answer it with the Temporal CLI, or roll back and start it with --workflow-id ${wanted}`,
  ];
}

function refused(type: 'PlanInvalid' | 'PlanRefused', findings: readonly Finding[]): VerdigrisError {
  const errors = findings.filter((finding) => finding.severity === 'error');
  return new VerdigrisError({
    type,
    message: `the plan is refused, nothing was touched:\n${errors.map(formatFinding).join('\n')}`,
    nextStep: 'mend the plan, check it with `verdigris plan lint FILE`, start again',
    details: { findings: errors.map(({ rule, place, message, instead }) => ({ rule, place, message, instead })) },
  });
}

function preflightFailed(errors: readonly PreflightFinding[]): VerdigrisError {
  return new VerdigrisError({
    type: 'PreflightFailed',
    message: `the databases are not ready, nothing was touched:\n${list(errors)}`,
    nextStep:
      errors.length === 1
        ? `${errors[0]?.remedy ?? ''}; then start again`
        : 'follow the remedy of each, then start again',
    details: { findings: errors },
  });
}

function notReadyNow(errors: readonly PreflightFinding[]): VerdigrisError {
  return new VerdigrisError({
    type: 'PreflightFailed',
    message: `the databases are not ready right now, nothing was touched:\n${list(errors)}`,
    nextStep: 'nothing, where it passes by itself: it is looked at again; otherwise follow the remedy of each',
    retryable: true,
    details: { findings: errors },
  });
}

function list(errors: readonly PreflightFinding[]): string {
  return errors.map((f) => `- ${describe(f)}\n  ${f.remedy}`).join('\n');
}

function describe({ side, object, check, message }: PreflightFinding): string {
  return `${side}: ${object}: ${message} (${check})`;
}
