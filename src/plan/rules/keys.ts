import type { CatalogSummary } from '../../postgres/catalog-summary.js';
import type { PlanFacts } from '../facts.js';
import type { CatalogRule, Report, Rule } from '../rule.js';
import type { TableStep } from '../steps.js';
import { formatTableName } from '../table-name.js';

/** Rules on the keys that a plan adds: unique constraints and primary keys. */

interface KeyStep extends TableStep {
  readonly kind: 'unique' | 'primaryKey';
  readonly columns: readonly string[];
}

function keySteps({ plan, steps }: PlanFacts): KeyStep[] {
  return steps.flatMap((step): KeyStep[] => {
    const migration = plan.migrations[step.index];
    if (migration === undefined || !('addConstraint' in migration)) return [];
    const { unique, primaryKey } = migration.addConstraint;
    if (unique !== undefined) return [{ ...step, kind: 'unique', columns: unique }];
    return primaryKey === undefined ? [] : [{ ...step, kind: 'primaryKey', columns: primaryKey }];
  });
}

const ONE_PRIMARY_KEY = {
  name: 'second-primary-key',
  severity: 'error',
  why: 'a table has one primary key, and PostgreSQL would refuse another in the middle of the run',
} as const;

const UNIQUE_INSTEAD =
  'write "unique" instead of "primaryKey"; which key is the primary one can be changed when blue is retired';

/** The part of `second-primary-key` that needs no catalog: two in one plan. */
export const secondPrimaryKeyInPlan: Rule = {
  ...ONE_PRIMARY_KEY,
  *check(facts) {
    const first = new Map<string, string>();
    for (const { key, kind, place } of keySteps(facts)) {
      if (kind !== 'primaryKey') continue;
      const before = first.get(key);
      if (before === undefined) first.set(key, place);
      else {
        yield {
          place: `${place}.primaryKey`,
          message: `${key} gets its primary key from ${before}`,
          instead: UNIQUE_INSTEAD,
        };
      }
    }
  },
};

export const secondPrimaryKey: CatalogRule = {
  ...ONE_PRIMARY_KEY,
  *check(facts, catalog) {
    for (const { key, kind, place } of keySteps(facts)) {
      const table = tableOf(catalog, key);
      // With an index of its own as replica identity nobody has said whether there is a primary key besides.
      if (kind !== 'primaryKey' || table === undefined || table.key === null || table.replicaIdentity === 'i') continue;
      yield {
        place: `${place}.primaryKey`,
        message: `${key} has a primary key already, (${table.key.join(', ')})`,
        instead: UNIQUE_INSTEAD,
      };
    }
  },
};

export const keyOnPartitionedTable: CatalogRule = {
  name: 'key-on-partitioned-table',
  severity: 'error',
  why: 'PostgreSQL does not take an index that is there for a constraint of a partitioned table: it would build one on all partitions under a lock that stops everybody',
  *check(facts, catalog) {
    for (const { key, kind, place, columns } of keySteps(facts)) {
      if (tableOf(catalog, key)?.partitioned !== true) continue;
      yield {
        place: `${place}.${kind}`,
        message: `${key} is partitioned`,
        instead: `write { "createIndex": { …, "columns": ${JSON.stringify(columns)}, "unique": true } } with the columns that the table is partitioned by among them`,
      };
    }
  },
};

export const primaryKeyNullable: CatalogRule = {
  name: 'primary-key-nullable',
  severity: 'error',
  why: 'the columns of a primary key become NOT NULL on green: a row that has NULL there on blue stops the run, or the replication when it comes later',
  *check(facts, catalog): Generator<Report> {
    for (const { index, key, kind, place, columns } of keySteps(facts)) {
      if (kind !== 'primaryKey') continue;
      for (const [i, name] of columns.entries()) {
        const column = tableOf(catalog, key)?.columns.find((candidate) => candidate.name === name);
        if (column === undefined || column.notNull || isFilled(facts, index, key, name)) continue;
        yield {
          place: `${place}.primaryKey[${i}]`,
          message: `"${name}" of ${key} can be NULL on blue`,
          instead: `set NOT NULL on blue before the run, or write { "setNotNull": { …, "column": ${JSON.stringify(name)}, "up": "…" } } before it`,
        };
      }
    }
  },
};

/** Whether an earlier setNotNull gives rows a value that have NULL on blue. */
function isFilled({ plan, steps }: PlanFacts, before: number, key: string, column: string): boolean {
  return steps.some((step) => {
    const migration = plan.migrations[step.index];
    return (
      step.index < before &&
      step.key === key &&
      migration !== undefined &&
      'setNotNull' in migration &&
      migration.setNotNull.column === column &&
      migration.setNotNull.up !== undefined
    );
  });
}

function tableOf(catalog: CatalogSummary, key: string): CatalogSummary['tables'][number] | undefined {
  return catalog.tables.find((table) => formatTableName(table) === key);
}
