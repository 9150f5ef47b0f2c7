import { parseTablePattern, tableFilter } from '../../postgres/catalog-pattern.js';
import type { PlanFacts } from '../facts.js';
import { objectKey } from '../raw-sql.js';
import { changedSchemas, short } from '../statement.js';
import type { Report, Rule } from '../rule.js';
import type { Plan } from '../schema.js';
import { readTableName } from '../steps.js';

/** Rules on the names of tables, columns, indexes and constraints. */

export const invalidTableName: Rule = {
  name: 'invalid-table-name',
  severity: 'error',
  why: 'the table or the pattern can not be read, so nobody knows what it means',
  *check(facts) {
    const instead = 'write table, schema.table or schema."Odd name"; a dot or a quote inside a name needs the quotes';
    for (const { place, written } of writtenTables(facts)) {
      if (readTableName(written) === undefined)
        yield { place, message: `"${written}" is not the name of a table`, instead };
    }
    for (const field of ['include', 'exclude'] as const) {
      for (const [i, pattern] of facts.plan.tables[field].entries()) {
        if (isPattern(pattern)) continue;
        yield { place: `tables.${field}[${i}]`, message: `"${pattern}" is not a pattern for tables`, instead };
      }
    }
  },
};

/** Every table that a step names, foreign keys included. */
function writtenTables({ plan, steps }: PlanFacts): { place: string; written: string }[] {
  const named = steps.map(({ place, written }) => ({ place: `${place}.table`, written }));
  const referenced = plan.migrations.flatMap((migration, i) => {
    const key = 'addConstraint' in migration ? migration.addConstraint.foreignKey : undefined;
    const place = `migrations[${i}].addConstraint.foreignKey.references.table`;
    return key === undefined ? [] : [{ place, written: key.references.table }];
  });
  return [...named, ...referenced];
}

/** Whether a pattern of `tables` can be read. */
export function isPattern(text: string): boolean {
  try {
    parseTablePattern(text);
    return true;
  } catch {
    return false;
  }
}

export const tableNotMoved: Rule = {
  name: 'table-not-moved',
  severity: 'error',
  why: 'green would not have the table, or not its rows',
  *check({ plan, steps, created }) {
    if (![...plan.tables.include, ...plan.tables.exclude].every(isPattern)) return;
    const moved = tableFilter(plan.tables);
    for (const { place, table, key } of steps) {
      if (table === undefined || moved(table) || created.has(objectKey(table.schema, table.name))) continue;
      yield {
        place: `${place}.table`,
        message: `${key} is not among the tables that this plan moves`,
        instead: 'add it to "tables.include" (or take it out of "tables.exclude"), or leave the step out',
      };
    }
  },
};

/** Schemas that are never moved and never changed by a plan. */
const RESERVED = ['verdigris', 'pg_catalog', 'information_schema'];

export const reservedSchema: Rule = {
  name: 'reserved-schema',
  severity: 'error',
  why: 'schema verdigris is what the run and the routers rely on, and system catalogs are not part of a migration',
  *check({ steps, raw }) {
    const instead = 'leave it alone: put your objects in a schema of your own';
    for (const { place, table, key } of steps) {
      if (table !== undefined && RESERVED.includes(table.schema)) {
        yield { place: `${place}.table`, message: `${key} is in a reserved schema`, instead };
      }
    }
    for (const { place, statements } of raw) {
      for (const { text, node } of statements) {
        const schema = changedSchemas(node).find((name) => RESERVED.includes(name));
        if (schema !== undefined) yield { place, message: `"${short(text)}" changes schema ${schema}`, instead };
      }
    }
  },
};

export const duplicateName: Rule = {
  name: 'duplicate-name',
  severity: 'error',
  why: 'the second step would fail, or undo what belongs to the first',
  *check({ plan, steps }) {
    const seen = new Map<string, string>();
    const twice = function* (kind: string, scope: string, name: string, place: string): Generator<Report> {
      const key = JSON.stringify([kind, scope, name]);
      const first = seen.get(key);
      if (first === undefined) seen.set(key, place);
      else yield { place, message: `${kind} "${name}" is already made by ${first}`, instead: 'give it another name' };
    };
    for (const { index, place, table, key, adds } of steps) {
      const migration = plan.migrations[index];
      if (migration === undefined) continue;
      if (adds !== undefined)
        yield* twice('column', key, adds, `${place}.${'addColumn' in migration ? 'column' : 'newColumn'}`);
      // An index shares the names of its schema with tables; a constraint only those of its table, unless it is an index.
      if ('createIndex' in migration)
        yield* twice('index', table?.schema ?? '', migration.createIndex.name, `${place}.name`);
      if (!('addConstraint' in migration)) continue;
      const { name, unique, primaryKey } = migration.addConstraint;
      const found = [...twice('constraint', key, name, `${place}.name`)];
      yield* found;
      if (found.length === 0 && (unique ?? primaryKey) !== undefined)
        yield* twice('index', table?.schema ?? '', name, `${place}.name`);
    }
    for (const [i, name] of sqlNames(plan)) yield* twice('step', '', name, `migrations[${i}].sql.name`);
  },
};

function sqlNames(plan: Plan): [number, string][] {
  return plan.migrations.flatMap((migration, i): [number, string][] =>
    'sql' in migration ? [[i, migration.sql.name]] : [],
  );
}
