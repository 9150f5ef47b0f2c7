import type { CatalogSummary } from '../../postgres/catalog-summary.js';
import { parseTablePattern } from '../../postgres/catalog-pattern.js';
import type { PlanFacts } from '../facts.js';
import { nearest } from '../nearest.js';
import { objectKey, relationKey } from '../raw-sql.js';
import type { CatalogRule } from '../rule.js';
import { upStatements } from '../statement.js';
import { readTableName } from '../steps.js';
import type { TableName } from '../table-name.js';
import { formatTableName } from '../table-name.js';
import { columnUses } from './computed.js';

/** Rules that compare the plan's names with blue's tables. */

type CatalogTable = CatalogSummary['tables'][number];

export const unknownTable: CatalogRule = {
  name: 'unknown-table',
  severity: 'error',
  why: 'there is nothing to move or to change',
  *check(facts, catalog) {
    const { plan, steps, created } = facts;
    for (const [i, text] of plan.tables.include.entries()) {
      const pattern = readPattern(text);
      if (pattern === undefined || catalog.tables.some((table) => pattern.matches(table))) continue;
      yield {
        place: `tables.include[${i}]`,
        message: `no table on blue is called "${text}"`,
        instead: insteadOf(readTableName(text), catalog),
      };
    }
    const references = plan.migrations.flatMap((migration, i) => {
      const key = 'addConstraint' in migration ? migration.addConstraint.foreignKey : undefined;
      const place = `migrations[${i}].addConstraint.foreignKey.references`;
      return key === undefined ? [] : [{ place, table: readTableName(key.references.table) }];
    });
    for (const { place, table } of [...steps, ...references]) {
      if (table === undefined || find(catalog, table) !== undefined) continue;
      if (created.has(objectKey(table.schema, table.name))) continue;
      yield {
        place: `${place}.table`,
        message: `there is no table ${formatTableName(table)} on blue`,
        instead: insteadOf(table, catalog),
      };
    }
  },
};

function readPattern(text: string): ReturnType<typeof parseTablePattern> | undefined {
  try {
    return parseTablePattern(text);
  } catch {
    return undefined;
  }
}

function insteadOf(table: TableName | undefined, { tables }: CatalogSummary): string {
  const near = table === undefined ? undefined : tableMeant(table, tables);
  if (near !== undefined) return `write ${JSON.stringify(formatTableName(near))}`;
  if (tables.length === 0) return 'see that blue is the right database: no table was found there';
  const some = tables.slice(0, 10).map(formatTableName).join(', ');
  return `the tables are ${some}${tables.length > 10 ? ', …' : ''}`;
}

/** The same name in another schema (a forgotten schema is the likeliest mistake), else a near name in this one. */
function tableMeant(table: TableName, tables: readonly CatalogTable[]): CatalogTable | undefined {
  const elsewhere = tables.find(({ name }) => name === table.name);
  if (elsewhere !== undefined) return elsewhere;
  const beside = tables.filter(({ schema }) => schema === table.schema);
  const near = nearest(
    table.name,
    beside.map(({ name }) => name),
  );
  return beside.find(({ name }) => name === near);
}

function find(catalog: CatalogSummary, table: TableName): CatalogTable | undefined {
  return catalog.tables.find(({ schema, name }) => schema === table.schema && name === table.name);
}

export const unknownColumn: CatalogRule = {
  name: 'unknown-column',
  severity: 'error',
  why: 'PostgreSQL would refuse the step in the middle of the run',
  *check(facts, catalog) {
    for (const { key, place, column, readBy } of columnUses(facts)) {
      const table = catalog.tables.find((candidate) => formatTableName(candidate) === key);
      if (table === undefined) continue;
      // Whether a column of the plan is added in time is what used-before-added asks.
      const known = [...table.columns.map(({ name }) => name), ...columnsOfPlan(facts, key)];
      if (known.includes(column)) continue;
      // A row as one value: what only green computes may read it.
      if (column === table.name && readBy !== undefined) {
        if (readBy !== 'up' && readBy !== 'down') continue;
        yield {
          place,
          message: `"${column}" is the whole row of ${key}, which has the columns of the plan on green and not on blue`,
          instead: `name the columns that "${readBy}" needs`,
        };
        continue;
      }
      const near = nearest(column, known);
      yield {
        place,
        message: `${key} has no column "${column}"`,
        instead:
          near === undefined
            ? `the columns are ${known.join(', ')}`
            : near.toLowerCase() === column
              ? `SQL reads names without quotes in lower case: write ${JSON.stringify(`"${near}"`)}`
              : `write ${near}`,
      };
    }
  },
};

/** Columns that the plan itself adds to a table, raw SQL included. */
function columnsOfPlan(facts: PlanFacts, key: string): string[] {
  const added = facts.steps.flatMap((step) => (step.key === key && step.adds !== undefined ? [step.adds] : []));
  const raw = upStatements(facts).flatMap(({ node }) => {
    if (!('AlterTableStmt' in node) || relationKey(node.AlterTableStmt.relation) !== key) return [];
    return (node.AlterTableStmt.cmds ?? []).flatMap((cmd) => {
      const def = 'AlterTableCmd' in cmd ? cmd.AlterTableCmd.def : undefined;
      return def !== undefined && 'ColumnDef' in def ? [def.ColumnDef.colname ?? ''] : [];
    });
  });
  return [...added, ...raw];
}

export const columnExists: CatalogRule = {
  name: 'column-exists',
  severity: 'error',
  why: 'replication would fill it with the values of blue, and "up" would overwrite them',
  *check({ steps }, catalog) {
    for (const { place, key, adds } of steps) {
      const table = catalog.tables.find((candidate) => formatTableName(candidate) === key);
      if (adds === undefined || table?.columns.every(({ name }) => name !== adds) !== false) continue;
      yield {
        place: `${place}.${place.endsWith('changeType') ? 'newColumn' : 'column'}`,
        message: `${key} has a column "${adds}" already`,
        instead: 'give the new column another name; to change the type of the one that is there, use changeType',
      };
    }
  },
};
