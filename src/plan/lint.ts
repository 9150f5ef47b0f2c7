import type { CatalogSummary } from '../postgres/catalog-summary.js';
import { readFacts } from './facts.js';
import type { Finding } from './finding.js';
import { toFindings } from './rule.js';
import { CATALOG_RULES, RULES } from './rules/index.js';
import { unknownConnection } from './rules/connections.js';
import type { Plan } from './schema.js';

/*
 * The lint: what would lock, rewrite, lose data or make rollback impossible is refused before anything is touched. It
 * runs in the command line, and again as the first step of the workflow.
 */

/**
 * Judges a plan by itself, without a database. Errors first in the order of the rules; no finding means that the plan
 * may be tried against blue's catalog.
 */
export async function lintPlan(plan: Plan): Promise<Finding[]> {
  const facts = await readFacts(plan, true);
  return sorted(RULES.flatMap((rule) => toFindings(rule, rule.check(facts))));
}

/**
 * Judges a plan against blue's tables and the names of the connections that the worker knows. What `lintPlan` finds is
 * not said again.
 */
export async function lintAgainstCatalog(
  plan: Plan,
  catalog: CatalogSummary,
  connections: ReadonlySet<string>,
): Promise<Finding[]> {
  const facts = await readFacts(plan, false);
  const findings: Finding[] = [];
  for (const rule of CATALOG_RULES) findings.push(...toFindings(rule, await rule.check(facts, catalog, connections)));
  return sorted(findings);
}

/** Judges the names of the connections alone: what can be said before a database is reached. */
export async function lintConnections(plan: Plan, connections: ReadonlySet<string>): Promise<Finding[]> {
  const reports = await unknownConnection.check(await readFacts(plan, false), { tables: [] }, connections);
  return toFindings(unknownConnection, reports);
}

function sorted(findings: readonly Finding[]): Finding[] {
  return [
    ...findings.filter(({ severity }) => severity === 'error'),
    ...findings.filter(({ severity }) => severity === 'warning'),
  ];
}
