import { lintAgainstCatalog } from '../../plan/lint.js';
import { toCatalogSummary } from '../catalog-summary.js';
import type { SideCheck } from './check.js';

/** The plan against blue's tables: unknown tables and columns, types that can't hold the values. */
export const planLint: SideCheck = {
  name: 'plan',
  sides: ['blue'],
  run: async ({ plan, tables }) => {
    const connections = new Set([plan.blue.connection, plan.green.connection]);
    const findings = await lintAgainstCatalog(plan, toCatalogSummary(await tables()), connections);
    return findings
      .filter(({ rule }) => !SAID_ELSEWHERE.has(rule))
      .map(({ rule, severity, place, message, why, instead }) => ({
        severity,
        object: place,
        message: `${rule}: ${message}: ${why}`,
        remedy: `Write instead: ${instead}`,
      }));
  },
};

/** The check replica-identity says the same, for partitions too; connections are open when this runs. */
const SAID_ELSEWHERE = new Set(['table-without-key', 'unknown-connection']);
