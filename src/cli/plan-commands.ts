import { formatFinding, hasErrors } from '../plan/finding.js';
import type { Finding } from '../plan/finding.js';
import { planJsonSchema } from '../plan/json-schema.js';
import { lintConnections, lintPlan } from '../plan/lint.js';
import { knownConnections } from '../worker/connections.js';
import { readPlan } from './read-plan.js';
import type { ExitCode, Terminal } from './terminal.js';
import { EXIT } from './terminal.js';

export interface LintOptions {
  /** Findings as JSON, for machines. */
  readonly json?: boolean;
  /** Also ask whether this environment knows the plan's connections. */
  readonly connections?: boolean;
}

/** `verdigris plan lint FILE`: 0 when the plan may be run, 1 when it is refused. Warnings alone do not refuse it. */
export async function lintCommand(terminal: Terminal, file: string, options: LintOptions): Promise<ExitCode> {
  const { parsed } = await readPlan(file);
  const findings =
    'findings' in parsed
      ? parsed.findings
      : [
          ...(await lintPlan(parsed.plan)),
          ...(options.connections === true
            ? await lintConnections(parsed.plan, new Set(knownConnections(process.env)))
            : []),
        ];
  if (options.json === true) terminal.out(JSON.stringify(findings, null, 2));
  else tellFindings(terminal, file, findings);
  return hasErrors(findings) ? EXIT.refused : EXIT.done;
}

/** Findings for people, with a last line that says what they add up to. */
export function tellFindings(terminal: Terminal, file: string, findings: readonly Finding[]): void {
  for (const finding of findings) terminal.out(`${formatFinding(finding)}\n`);
  const errors = findings.filter(({ severity }) => severity === 'error').length;
  const warnings = findings.length - errors;
  const parts = [
    ...(errors === 0 ? [] : [count(errors, 'error')]),
    ...(warnings === 0 ? [] : [count(warnings, 'warning')]),
  ];
  terminal.out(
    parts.length === 0
      ? `${file}: no findings`
      : `${file}: ${parts.join(', ')}${errors === 0 ? '' : '; the plan is refused'}. The rules: docs/lint-rules.md`,
  );
}

function count(n: number, what: string): string {
  return `${n} ${what}${n === 1 ? '' : 's'}`;
}

/** `verdigris plan schema`: the JSON Schema of plans. */
export function schemaCommand(terminal: Terminal): ExitCode {
  terminal.out(JSON.stringify(planJsonSchema(), null, 2));
  return EXIT.done;
}

/** `verdigris plan show FILE`: the plan with every default filled in, as the run will see it. */
export async function showCommand(terminal: Terminal, file: string): Promise<ExitCode> {
  const { parsed } = await readPlan(file);
  if ('findings' in parsed) {
    tellFindings(terminal, file, parsed.findings);
    return EXIT.refused;
  }
  terminal.out(JSON.stringify(parsed.plan, null, 2));
  return EXIT.done;
}
