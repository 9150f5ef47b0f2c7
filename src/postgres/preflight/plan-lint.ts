import { lintAgainstCatalog } from '../../plan/lint.js';
import { toCatalogSummary } from '../catalog-summary.js';
import { readPartitionKeys } from '../partition-keys.js';
import { readUniqueIndexes } from '../unique-indexes.js';
import type { SideCheck } from './check.js';

/** The plan against blue's tables: unknown tables and columns, types that can't hold the values. */
export const planLint: SideCheck = {
  name: 'plan',
  sides: ['blue'],
  run: async ({ session, plan, tables }) => {
    const connections = new Set([plan.blue.connection, plan.green.connection]);
    const catalog = toCatalogSummary(
      await tables(),
      await readPartitionKeys(session),
      await readUniqueIndexes(session),
    );
    const findings = await lintAgainstCatalog(plan, catalog, connections);
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
