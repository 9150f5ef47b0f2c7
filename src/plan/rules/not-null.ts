import type { PlanFacts } from '../facts.js';
import type { Rule } from '../rule.js';
import { isObject, namesOf } from '../sql-tree.js';
import { short, tableChanges } from '../statement.js';

/** Nullable first, NOT NULL after the backfill. */

export const notNullWithoutValue: Rule = {
  name: 'not-null-without-value',
  severity: 'error',
  why: 'rows that are there, and rows that come from blue, have no value for the column: the constraint fails, or stops the replication at the next row',
  *check(facts) {
    for (const [i, migration] of facts.plan.migrations.entries()) {
      if ('addColumn' in migration) {
        const { column, notNull, up, default: initial } = migration.addColumn;
        if (!notNull || hasValue(facts, i)) continue;
        yield {
          place: `migrations[${i}].addColumn.notNull`,
          message:
            up === undefined && initial === undefined
              ? `"${column}" is NOT NULL and has neither "up" nor "default"`
              : `"${column}" is NOT NULL and its value is always NULL`,
          instead: 'add "up": "<expression over the other columns>" or "default": "<constant>", or leave "notNull" out',
        };
      } else if ('setNotNull' in migration && migration.setNotNull.up === undefined) {
        const { table, column } = migration.setNotNull;
        if (addedWithValue(facts, i, table, column)) continue;
        yield {
          place: `migrations[${i}].setNotNull`,
          message: `"${column}" becomes NOT NULL on green, and nothing says what rows get that have NULL on blue`,
          instead: `add "up", such as "up": "coalesce(${column}, <a value of the column's type>)"`,
        };
      } else if ('addConstraint' in migration) {
        for (const column of migration.addConstraint.primaryKey ?? []) {
          const key = facts.steps.find((step) => step.index === i)?.key;
          const adder = facts.steps.find((step) => step.index < i && step.key === key && step.adds === column);
          if (adder === undefined || hasValue(facts, adder.index)) continue;
          yield {
            place: `migrations[${i}].addConstraint.primaryKey`,
            message: `"${column}" is part of the primary key and has neither "up" nor "default"`,
            instead: `give the column its value where ${adder.place} adds it: "up": "<expression over the other columns>"`,
          };
        }
      }
    }
    for (const { place, text, change } of tableChanges(facts)) {
      const definition = change.def !== undefined && 'ColumnDef' in change.def ? change.def.ColumnDef : undefined;
      if (change.subtype !== 'AT_AddColumn' || definition === undefined) continue;
      const kinds = (definition.constraints ?? []).map((c) => ('Constraint' in c ? c.Constraint.contype : undefined));
      if (!kinds.includes('CONSTR_NOTNULL') || kinds.includes('CONSTR_DEFAULT') || kinds.includes('CONSTR_IDENTITY'))
        continue;
      yield {
        place,
        message: `"${short(text)}" adds a NOT NULL column without a value`,
        instead: `write { "addColumn": { …, "column": "${definition.colname ?? ''}", "up": "…", "notNull": true } }`,
      };
    }
  },
};

/** Whether the step `index` gives its column a value that is not plainly NULL. */
function hasValue(facts: PlanFacts, index: number): boolean {
  return facts.expressions.some(
    (e) => e.index === index && (e.use === 'up' || e.use === 'default') && !isNull(e.parsed?.node),
  );
}

function isNull(node: unknown): boolean {
  const inner = isObject(node) && isObject(node['TypeCast']) ? node['TypeCast']['arg'] : node;
  const constant = isObject(inner) ? inner['A_Const'] : undefined;
  return isObject(constant) && constant['isnull'] === true;
}

/** Whether an earlier step of the plan adds the column with a value for every row. */
function addedWithValue(facts: PlanFacts, index: number, table: string, column: string): boolean {
  const key = facts.steps.find((step) => step.index === index)?.key ?? table;
  return facts.steps.some(
    (step) => step.index < index && step.key === key && step.adds === column && hasValue(facts, step.index),
  );
}

export const upMayBeNull: Rule = {
  name: 'up-may-be-null',
  severity: 'warning',
  why: 'one row for which "up" gives NULL stops the run at NOT NULL, or the replication when it comes later',
  *check({ expressions, plan }) {
    for (const { index, place, use, parsed, text } of expressions) {
      const migration = plan.migrations[index];
      if (use !== 'up' || migration === undefined || !demandsNotNull(migration)) continue;
      const call = parsed !== undefined && 'FuncCall' in parsed.node ? parsed.node.FuncCall : undefined;
      const name = namesOf(call?.funcname).join('.');
      if (name !== 'verdigris.try_jsonb' && name !== 'nullif') continue;
      yield {
        place,
        message: `${name} gives NULL for some values, and the column is NOT NULL`,
        instead: `write coalesce(${text}, <a value for those rows>)`,
      };
    }
  },
};

function demandsNotNull(migration: PlanFacts['plan']['migrations'][number]): boolean {
  if ('addColumn' in migration) return migration.addColumn.notNull;
  if ('changeType' in migration) return migration.changeType.notNull;
  return 'setNotNull' in migration;
}
