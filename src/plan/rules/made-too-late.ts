import type { PlanFacts } from '../facts.js';
import { madeByPlan, objectKey } from '../raw-sql.js';
import type { Report, Rule } from '../rule.js';
import { namesOf, partsOf } from '../sql-tree.js';

/** Rules on what new columns need and only an SQL step would make. */

const WHY = 'new columns are made, and filled, before any SQL step: it would not be there yet';

/** The use of a table, type or function by a step that is done before all raw SQL. */
interface EarlyUse {
  readonly place: string;
  readonly key: string;
}

export const madeTooLate: Rule = {
  name: 'made-too-late',
  severity: 'error',
  why: WHY,
  *check(facts) {
    const { tables, types } = madeByPlan(facts.raw);
    for (const { place, key } of tablesOfColumns(facts)) {
      const maker = tables.get(key);
      if (maker === undefined) continue;
      yield {
        place,
        message: `table ${key} is made only by ${maker}`,
        instead: 'write the column into the CREATE TABLE',
      };
    }
    const instead =
      'make the type on blue before the run: that locks no table, and it comes to green with the schema; or take a type that is there';
    yield* usesOf(typesOfColumns(facts), types, 'type', instead);
  },
};

export const functionMadeTooLate: Rule = {
  name: 'function-made-too-late',
  // There may be another function of that name which takes the arguments.
  severity: 'warning',
  why: WHY,
  *check(facts) {
    const instead =
      'make the function on blue before the run: that locks no table, and it comes to green with the schema';
    yield* usesOf(functionsOfColumns(facts), madeByPlan(facts.raw).functions, 'function', instead);
  },
};

function* usesOf(
  uses: Iterable<EarlyUse>,
  made: ReadonlyMap<string, string>,
  what: string,
  instead: string,
): Generator<Report> {
  const seen = new Set<string>();
  for (const { place, key } of uses) {
    const maker = made.get(key);
    if (maker === undefined || seen.has(`${place} ${key}`)) continue;
    seen.add(`${place} ${key}`);
    yield { place, message: `${what} ${key} is made only by ${maker}`, instead };
  }
}

/** Tables that get a column, or values for one. */
function* tablesOfColumns({ plan, steps }: PlanFacts): Generator<EarlyUse> {
  for (const { index, place, table, adds } of steps) {
    const migration = plan.migrations[index];
    const fills = migration !== undefined && 'setNotNull' in migration && migration.setNotNull.up !== undefined;
    if (table === undefined || (adds === undefined && !fills)) continue;
    yield { place: `${place}.table`, key: objectKey(table.schema, table.name) };
  }
}

function* typesOfColumns(facts: PlanFacts): Generator<EarlyUse> {
  for (const { index, place, parsed } of facts.types) {
    if (parsed !== undefined) yield* named(facts, index, place, parsed.name.split('.'));
  }
  yield* namesInExpressions(facts, 'TypeName', 'names');
}

function functionsOfColumns(facts: PlanFacts): Generator<EarlyUse> {
  return namesInExpressions(facts, 'FuncCall', 'funcname');
}

function* namesInExpressions(facts: PlanFacts, type: string, field: string): Generator<EarlyUse> {
  for (const { index, place, use, parsed } of facts.expressions) {
    // A check and the predicate of an index are of steps that follow the order of the plan.
    if (parsed === undefined || use === 'check' || use === 'where') continue;
    for (const part of partsOf(parsed.node)) {
      if (part.type === type) yield* named(facts, index, place, namesOf(part.fields[field]));
    }
  }
}

/** A name without a schema is looked for in that of the table first: only where that is public, too, it is known. */
function* named({ steps }: PlanFacts, index: number, place: string, names: readonly string[]): Generator<EarlyUse> {
  const [name, schema] = [names.at(-1), names.at(-2)];
  const ofTable = steps.find((step) => step.index === index)?.table?.schema;
  if (name === undefined || (schema === undefined && ofTable !== 'public')) return;
  yield { place, key: objectKey(schema, name) };
}
