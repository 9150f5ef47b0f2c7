import type { PlanFacts } from '../facts.js';
import type { Report, Rule } from '../rule.js';
import { isObject, namesOf, partsOf } from '../sql-tree.js';

/** Rules on the form of the expressions: they stand in triggers, checks, indexes and DEFAULT clauses. */

export const invalidExpression: Rule = {
  name: 'invalid-expression',
  severity: 'error',
  why: 'PostgreSQL would refuse it in the middle of the run; and what is more than one expression could do anything',
  *check({ expressions, indexElements, types }) {
    for (const { place, use, text, error, parsed } of expressions) {
      if (use === 'down') continue;
      if (error !== undefined) yield { place, message: `${quoted(text)}: ${error}`, instead: EXPRESSION };
      const column = use === 'default' ? parsed?.columns[0] : undefined;
      if (column !== undefined) {
        yield {
          place,
          message: `a DEFAULT can't read the column "${column}"`,
          instead: `compute the value in "up" instead: "up": ${JSON.stringify(text)}`,
        };
      }
    }
    for (const { place, text, error } of indexElements) {
      if (error === undefined) continue;
      yield {
        place,
        message: `${quoted(text)}: ${error}`,
        instead:
          'write one column ("created_at DESC", "payload jsonb_path_ops"), an odd name in quotes ("\\"Order No\\""), or an expression in brackets ("(lower(email))")',
      };
    }
    for (const { place, text, error } of types) {
      if (error === undefined) continue;
      yield {
        place,
        message: `${quoted(text)}: ${error}`,
        instead:
          'write the type alone, such as "integer", "varchar(50)" or "shop.status"; "notNull" and "default" are fields of their own',
      };
    }
  },
};

export const invalidDown: Rule = {
  name: 'invalid-down',
  severity: 'error',
  why: 'what is written on green after the promotion goes back to blue through "down": without it blue is no way back',
  *check({ expressions, plan }) {
    for (const { place, index, use, text, error } of expressions) {
      if (use !== 'down' || error === undefined) continue;
      const step = plan.migrations[index];
      yield {
        place,
        message: `${quoted(text)}: ${error}`,
        instead:
          step !== undefined && 'addColumn' in step
            ? `write "<old column> = <expression>", such as "status = ${step.addColumn.column}::text"`
            : EXPRESSION,
      };
    }
  },
};

const EXPRESSION =
  'write one SQL expression over the columns of the row, without ";": a name with capitals or spaces in quotes';

function quoted(text: string): string {
  return JSON.stringify(text.length <= 60 ? text : `${text.slice(0, 57)}…`);
}

export const notOneValue: Rule = {
  name: 'not-one-value',
  severity: 'error',
  why: 'the expression is computed for one row inside a trigger, where other rows can not be seen in the same state on both sides',
  *check(facts) {
    for (const { place, tree } of allTrees(facts)) {
      const what = [...partsOf(tree)].map(notOneValueOf).find((found) => found !== undefined);
      if (what !== undefined) {
        yield {
          place,
          message: `it contains ${what}`,
          instead:
            'write an expression over the columns of the same row; what needs other rows belongs in the application or in a later run',
        };
      }
    }
  },
};

/** Expressions and elements of indexes, parsed. */
export function allTrees({ expressions, indexElements }: PlanFacts): { place: string; tree: unknown }[] {
  return [...expressions, ...indexElements].flatMap(({ place, parsed }) =>
    parsed === undefined ? [] : [{ place, tree: parsed.node }],
  );
}

const AGGREGATES = new Set(
  `count sum avg min max array_agg string_agg json_agg jsonb_agg json_object_agg jsonb_object_agg bool_and bool_or
   every bit_and bit_or stddev variance mode percentile_cont percentile_disc`.split(/\s+/),
);

const SET_RETURNING = new Set(
  `generate_series unnest json_array_elements jsonb_array_elements json_array_elements_text jsonb_array_elements_text
   json_each jsonb_each json_each_text jsonb_each_text json_object_keys jsonb_object_keys regexp_matches
   regexp_split_to_table string_to_table generate_subscripts`.split(/\s+/),
);

function notOneValueOf({
  type,
  fields,
}: {
  type: string;
  fields: Readonly<Record<string, unknown>>;
}): string | undefined {
  if (type === 'SubLink') return 'a subquery';
  if (type === 'ParamRef') return `the parameter $${String(fields['number'] ?? '')}`;
  if (type === 'SetToDefault') return 'DEFAULT';
  if (type === 'ColumnRef' && hasStar(fields['fields'])) return 'a whole row (*)';
  if (type !== 'FuncCall') return undefined;
  const name = namesOf(fields['funcname']).at(-1) ?? '';
  if (fields['over'] !== undefined) return `the window function ${name}()`;
  if (AGGREGATES.has(name) || fields['agg_star'] === true || fields['agg_filter'] !== undefined)
    return `the aggregate ${name}()`;
  return SET_RETURNING.has(name) ? `${name}(), which gives many rows` : undefined;
}

function hasStar(list: unknown): boolean {
  return Array.isArray(list) && list.some((item) => isObject(item) && 'A_Star' in item);
}

export const invalidIndex: Rule = {
  name: 'invalid-index',
  severity: 'error',
  why: 'PostgreSQL would refuse the index after the rows have been copied',
  *check({ plan }): Generator<Report> {
    for (const [i, migration] of plan.migrations.entries()) {
      if ('addConstraint' in migration) {
        const { unique, primaryKey } = migration.addConstraint;
        const columns = unique ?? primaryKey ?? [];
        const twice = columns.find((column, n) => columns.indexOf(column) !== n);
        if (twice === undefined) continue;
        yield {
          place: `migrations[${i}].addConstraint.${unique === undefined ? 'primaryKey' : 'unique'}`,
          message: `the column "${twice}" is in it twice`,
          instead: 'name each column once',
        };
      }
      if (!('createIndex' in migration)) continue;
      const { method, unique, include, columns } = migration.createIndex;
      const place = `migrations[${i}].createIndex`;
      if (unique && method !== 'btree') {
        yield {
          place: `${place}.unique`,
          message: `a ${method} index can't be unique`,
          instead: 'write "method": "btree"',
        };
      }
      if (include.length > 0 && !['btree', 'gist', 'spgist'].includes(method)) {
        yield {
          place: `${place}.include`,
          message: `a ${method} index takes no INCLUDE columns`,
          instead: 'leave "include" out',
        };
      }
      if (columns.length > 1 && ['hash', 'spgist'].includes(method)) {
        yield {
          place: `${place}.columns`,
          message: `a ${method} index has one column`,
          instead: 'make one index for each column, or write "method": "btree"',
        };
      }
    }
  },
};
