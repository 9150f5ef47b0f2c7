import type { Side } from '../../side.js';

/** Something that a person should know before a run begins. */
export interface PreflightFinding {
  /** `error`: the run does not begin. `warning`: it begins, and somebody should look. `info`: for the record. */
  readonly severity: 'error' | 'warning' | 'info';
  /** Name of the check; docs/preflight.md has a row of the same name. */
  readonly check: string;
  readonly side: Side | 'both';
  /** What it is about: a table, a setting, a role, a process. */
  readonly object: string;
  readonly message: string;
  /** What to do about it. */
  readonly remedy: string;
}

export interface PreflightReport {
  /** Errors first. */
  readonly findings: readonly PreflightFinding[];
}

/** Whether the run may begin. */
export function isReady(report: PreflightReport): boolean {
  return report.findings.every(({ severity }) => severity !== 'error');
}

/** At most so many names in one message: the report stays readable, and below the limits of a workflow's history. */
const NAMES_SHOWN = 8;

/** `a, b and 3 more` */
export function listed(names: readonly string[]): string {
  const shown = names.slice(0, NAMES_SHOWN).join(', ');
  return names.length > NAMES_SHOWN ? `${shown} and ${names.length - NAMES_SHOWN} more` : shown;
}
