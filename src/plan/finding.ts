/** Something in a plan that Verdigris refuses (`error`) or that a person should know before the run (`warning`). */
export interface Finding {
  /** Stable name of the rule; docs/lint-rules.md has a section of the same name. */
  readonly rule: string;
  readonly severity: 'error' | 'warning';
  /** Where in the plan: `migrations[2].sql.up`. */
  readonly place: string;
  /** What is wrong there, in one sentence. */
  readonly message: string;
  /** What would happen if the plan were run as it is. */
  readonly why: string;
  /** What to write instead. */
  readonly instead: string;
}

/** Whether the plan may be run: warnings don't stop it. */
export function hasErrors(findings: readonly Finding[]): boolean {
  return findings.some((finding) => finding.severity === 'error');
}

/** A finding for people, five lines. */
export function formatFinding(finding: Finding): string {
  return [
    `${finding.severity}: ${finding.rule}`,
    `  place    ${finding.place}`,
    `  what     ${finding.message}`,
    `  why      ${finding.why}`,
    `  instead  ${finding.instead}`,
  ].join('\n');
}

/** A place in a plan: `placeOf(['migrations', 2, 'sql', 'up'])` is `migrations[2].sql.up`. */
export function placeOf(path: readonly PropertyKey[]): string {
  if (path.length === 0) return 'plan';
  return path
    .map((key, i) => (typeof key === 'number' ? `[${key}]` : i === 0 ? String(key) : `.${String(key)}`))
    .join('');
}
