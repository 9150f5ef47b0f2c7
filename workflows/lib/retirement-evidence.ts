import type { Plan } from '../../src/plan/schema.js';

/**
 * What somebody who approves the retirement should know of the application's code: the columns that nothing fills from then
 * on, one line; empty without any. By the plan alone: a column of blue's may have a default, so that is said with it.
 */
export function retirementEvidence(plan: Plan | null): string[] {
  const computed = new Set<string>();
  const filled = new Set<string>();
  for (const migration of plan?.migrations ?? []) {
    if ('addColumn' in migration) {
      const { table, column, up, default: byDefault, notNull } = migration.addColumn;
      if (up === undefined || byDefault !== undefined) continue;
      computed.add(`${table}.${column}`);
      if (notNull) filled.add(`${table}.${column}`);
    } else if ('changeType' in migration) {
      const { table, newColumn, notNull } = migration.changeType;
      computed.add(`${table}.${newColumn}`);
      if (notNull) filled.add(`${table}.${newColumn}`);
    } else if ('setNotNull' in migration) {
      const { table, column, up } = migration.setNotNull;
      if (up !== undefined || computed.has(`${table}.${column}`)) filled.add(`${table}.${column}`);
    }
  }
  if (filled.size === 0) return [];
  return [
    `triggers: they go with the retirement; code that leaves out ${[...filled].join(', ')} (NOT NULL) is refused from then on, unless the column has a default`,
  ];
}
