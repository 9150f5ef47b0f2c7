import { fewTables, formatTableName } from '../../plan/table-name.js';
import { addConstraint } from './add-constraint.js';
import { createIndexes } from './create-index.js';
import { DEFAULT_INDEX_SETTINGS, type IndexSettings } from './index-settings.js';
import type { Step } from './plan-work.js';
import { setNotNull } from './set-not-null.js';
import { runSql } from './sql-step.js';
import type { StepContext } from './step-context.js';

/** Runs one step after the backfill. Safe to run again: what is done is found and left as it is. */
export async function runStep(
  context: StepContext,
  step: Step,
  settings: IndexSettings = DEFAULT_INDEX_SETTINGS,
): Promise<void> {
  switch (step.kind) {
    case 'indexes':
      return createIndexes(context, step.indexes, settings);
    case 'constraint':
      return addConstraint(context, step.table, step.constraint, settings);
    case 'notNull':
      return setNotNull(context, step.table, step.column);
    case 'sql':
      return runSql(context, step.position, step.sql, 'up');
  }
}

/** A step in one line, for people. */
export function describeStep(step: Step): string {
  switch (step.kind) {
    case 'indexes': {
      const [only, ...more] = step.indexes;
      return only !== undefined && more.length === 0
        ? `index ${only.index.name} on ${formatTableName(only.table)}`
        : `${step.indexes.length} indexes on ${fewTables([...new Set(step.indexes.map(({ table }) => formatTableName(table)))])}`;
    }
    case 'constraint':
      return `constraint ${step.constraint.name} on ${formatTableName(step.table)}`;
    case 'notNull':
      return `NOT NULL of ${formatTableName(step.table)}.${step.column}`;
    case 'sql':
      return `SQL: ${step.sql.name}`;
  }
}
