import type { CatalogSummary } from '../postgres/catalog-summary.js';
import type { Finding } from './finding.js';
import type { PlanFacts } from './facts.js';

/** What a rule says about one place: the rest of a finding is the rule's own. */
export interface Report {
  readonly place: string;
  readonly message: string;
  readonly instead: string;
}

/** One rule of the lint. Its name is stable: people look it up in docs/lint-rules.md. */
export interface Rule {
  readonly name: string;
  readonly severity: Finding['severity'];
  /** What would happen if a plan that breaks the rule were run. */
  readonly why: string;
  check(facts: PlanFacts): Iterable<Report>;
}

/** A rule that needs to know blue's tables. */
export interface CatalogRule extends Omit<Rule, 'check'> {
  check(
    facts: PlanFacts,
    catalog: CatalogSummary,
    connections: ReadonlySet<string>,
  ): Iterable<Report> | Promise<Iterable<Report>>;
}

/** The findings of a rule, from its reports. */
export function toFindings(rule: Omit<Rule, 'check'>, reports: Iterable<Report>): Finding[] {
  return [...reports].map(({ place, message, instead }) => ({
    rule: rule.name,
    severity: rule.severity,
    place,
    message,
    why: rule.why,
    instead,
  }));
}
