import type { ExpressionFact, ExpressionUse } from '../expressions.js';
import type { PlanFacts } from '../facts.js';
import type { Report, Rule } from '../rule.js';
import { readTableName } from '../steps.js';
import { formatTableName } from '../table-name.js';
import { cannotHold } from '../types.js';

/** Rules on how the old and the new columns hang together. */

export const defaultAndUp: Rule = {
  name: 'default-and-up',
  severity: 'warning',
  why: 'a row that has the value of the default counts as one whose column was not given, so "up" is computed for it, even if the application wrote that value on purpose',
  *check({ plan }) {
    for (const [i, migration] of plan.migrations.entries()) {
      if (!('addColumn' in migration)) continue;
      const { up, default: initial } = migration.addColumn;
      if (up === undefined || initial === undefined) continue;
      yield {
        place: `migrations[${i}].addColumn.default`,
        message: `"${migration.addColumn.column}" has both "up" and "default"`,
        instead: `keep one of them; for a value where "up" gives none write "up": "coalesce(${up}, ${initial})"`,
      };
    }
  },
};

export const upReadsItself: Rule = {
  name: 'up-reads-itself',
  severity: 'error',
  why: 'rows from blue do not have the new column: "up" would compute it from NULL',
  *check({ expressions, plan, steps }) {
    for (const { index, place, use, target, parsed } of expressions) {
      const migration = plan.migrations[index];
      if (use !== 'up' || target === undefined || migration === undefined) continue;
      if (parsed?.columns.includes(target) !== true) continue;
      if ('setNotNull' in migration) {
        // Of a column that blue has: coalesce(status, 'new') is just what is meant.
        if (!isComputedBefore(expressions, steps, index, target)) continue;
        yield {
          place,
          message: `"up" of "${target}" reads "${target}", which this plan computes: where that gives NULL later, the row would keep the value that it had`,
          instead: `write the value for NULL alone, such as "up": "'{}'"`,
        };
        continue;
      }
      yield {
        place,
        message: `"up" of "${target}" reads "${target}"`,
        instead: 'compute it from columns that blue has',
      };
    }
  },
};

/** Whether an earlier step computes the column: its stand-in for NULL is then part of the same expression. */
function isComputedBefore(
  expressions: PlanFacts['expressions'],
  steps: PlanFacts['steps'],
  index: number,
  column: string,
): boolean {
  const key = steps.find((step) => step.index === index)?.key;
  return steps.some(
    (step) =>
      step.index < index &&
      step.key === key &&
      step.adds === column &&
      expressions.some((one) => one.index === step.index && one.use === 'up'),
  );
}

export const circularUp: Rule = {
  name: 'circular-up',
  severity: 'warning',
  why: 'one of the two is computed before the other has its value: of a row that has NULL there the comparison may find them wrong, and the run is rolled back',
  *check({ expressions, steps, plan }) {
    const keyOf = (index: number): string | undefined => steps.find((step) => step.index === index)?.key;
    const fills = expressions.filter(({ index, use }) => use === 'up' && isFill(plan.migrations[index]));
    for (const { index, place, target, parsed } of fills) {
      const computed = expressions.filter(
        (one) => one.use === 'up' && keyOf(one.index) === keyOf(index) && !isFill(plan.migrations[one.index]),
      );
      const through = parsed?.columns.find(
        (column) => column !== target && isComputedFrom(computed, column, target ?? ''),
      );
      if (through === undefined) continue;
      yield {
        place,
        message: `"${target ?? ''}" is filled from "${through}", which is computed from "${target ?? ''}" itself`,
        instead: 'compute the value for NULL from other columns, or write a constant',
      };
    }
  },
};

function isFill(migration: PlanFacts['plan']['migrations'][number] | undefined): boolean {
  return migration !== undefined && 'setNotNull' in migration;
}

/** At whatever distance. */
function isComputedFrom(ups: readonly ExpressionFact[], column: string, source: string): boolean {
  const own = ups.filter(({ target }) => target === column).flatMap(({ parsed }) => parsed?.columns ?? []);
  const rest = ups.filter(({ target }) => target !== column);
  return own.some((read) => read === source || isComputedFrom(rest, read, source));
}

export const disconnectedColumn: Rule = {
  name: 'disconnected-column',
  severity: 'error',
  why: 'what is written in one of the two columns would never reach the other: it is lost at the promotion or at the rollback',
  *check({ expressions, plan }) {
    for (const { index, place, use, parsed } of expressions) {
      const migration = plan.migrations[index];
      if (parsed === undefined || migration === undefined) continue;
      const source = sourceOf(migration, use);
      if (source === undefined || parsed.columns.includes(source)) continue;
      yield {
        place,
        message: `"${use}" does not read "${source}"${hint(parsed.columns, source)}`,
        instead: `write an expression over "${source}"`,
      };
    }
  },
};

/** The column that the expression is there to carry over. */
function sourceOf(migration: PlanFacts['plan']['migrations'][number], use: string): string | undefined {
  if ('changeType' in migration) {
    return use === 'up' ? migration.changeType.column : use === 'down' ? migration.changeType.newColumn : undefined;
  }
  return 'addColumn' in migration && use === 'down' ? migration.addColumn.column : undefined;
}

function hint(columns: readonly string[], source: string): string {
  const folded = columns.find((column) => column === source.toLowerCase() && column !== source);
  return folded === undefined ? '' : `: without quotes SQL reads it as "${folded}"`;
}

export const downTarget: Rule = {
  name: 'down-target',
  severity: 'error',
  why: 'the old column would have two values to choose from, or "down" would fill a column that blue does not have',
  *check({ expressions, steps }) {
    const targets = new Map<string, string>();
    for (const { index, place, use, target } of expressions) {
      const step = steps.find((s) => s.index === index);
      if (use !== 'down' || target === undefined || step === undefined) continue;
      if (steps.some((s) => s.key === step.key && s.adds === target)) {
        yield {
          place,
          message: `"down" fills "${target}", which this plan adds: blue does not have it`,
          instead: 'fill a column that blue has, or leave "down" out',
        };
        continue;
      }
      const first = targets.get(JSON.stringify([step.key, target]));
      if (first === undefined) targets.set(JSON.stringify([step.key, target]), place);
      else {
        yield {
          place,
          message: `"${target}" is already filled by ${first}`,
          instead: 'let one new column fill it',
        };
      }
    }
  },
};

export const usedBeforeAdded: Rule = {
  name: 'used-before-added',
  severity: 'error',
  why: 'steps are done in their order: the column would not be there yet',
  *check(facts) {
    for (const { index, key, place, column } of columnUses(facts)) {
      const adders = facts.steps.filter((s) => s.key === key && s.adds === column);
      const later = adders.find((s) => s.index > index);
      if (later === undefined || adders.some((s) => s.index <= index)) continue;
      yield {
        place,
        message: `it uses "${column}", which only ${later.place} adds`,
        instead: `move migrations[${later.index}] before migrations[${index}]`,
      };
    }
  },
};

/** One use of a column by a step: what the plan's order and blue's catalog are asked about. */
export interface ColumnUse {
  readonly index: number;
  /** The table as a key: `public.orders`. */
  readonly key: string;
  readonly place: string;
  readonly column: string;
  /** The expression that reads it, an index's included; undefined where a step names the column itself. */
  readonly readBy?: ExpressionUse | 'index';
}

/** Every column that a step names or reads, but not those that it adds. */
export function columnUses({ plan, steps, expressions, indexElements }: PlanFacts): ColumnUse[] {
  return steps.flatMap((step): ColumnUse[] => {
    const { index, key, place } = step;
    const migration = plan.migrations[index];
    if (migration === undefined) return [];
    const use = (at: string, column: string): ColumnUse => ({ index, key, place: at, column });
    const read = [
      ...expressions.map((e) => ({ ...e, readBy: e.use })),
      ...indexElements.map((e) => ({ ...e, readBy: e.parsed?.column === null ? ('index' as const) : undefined })),
    ]
      .filter((e) => e.index === index)
      .flatMap(({ place: at, parsed, readBy }) =>
        (parsed?.columns ?? []).map((column) => ({ ...use(at, column), ...(readBy && { readBy }) })),
      );
    if ('addColumn' in migration) {
      const filled = expressions.find((e) => e.index === index && e.use === 'down');
      return [...read, ...(filled?.target === undefined ? [] : [use(filled.place, filled.target)])];
    }
    if ('changeType' in migration) return [use(`${place}.column`, migration.changeType.column), ...read];
    if ('setNotNull' in migration) return [use(`${place}.column`, migration.setNotNull.column), ...read];
    if ('createIndex' in migration) {
      return [...read, ...migration.createIndex.include.map((column, i) => use(`${place}.include[${i}]`, column))];
    }
    if (!('addConstraint' in migration)) return read;
    const { unique, primaryKey } = migration.addConstraint;
    const field = unique === undefined ? 'primaryKey' : 'unique';
    const ofKey = (unique ?? primaryKey ?? []).map((column, i) => use(`${place}.${field}[${i}]`, column));
    if (migration.addConstraint.foreignKey === undefined) return [...read, ...ofKey];
    const { columns, references } = migration.addConstraint.foreignKey;
    const referenced = readTableName(references.table);
    const at = `${place}.foreignKey`;
    return [
      ...read,
      ...columns.map((column, i) => use(`${at}.columns[${i}]`, column)),
      ...(referenced === undefined ? [] : references.columns).map((column, i) => ({
        ...use(`${at}.references.columns[${i}]`, column),
        key: referenced === undefined ? '' : formatTableName(referenced),
      })),
    ];
  });
}

const NARROWING_WHY =
  'a value of the old column that does not fit stops the replication when it comes from blue, or is cut and lost';

/** The part of `narrowing` that needs no catalog: both columns are made by the plan. */
export const narrowingInPlan: Rule = {
  name: 'narrowing',
  severity: 'error',
  why: NARROWING_WHY,
  *check({ plan, steps, types }): Generator<Report> {
    for (const step of steps) {
      const migration = plan.migrations[step.index];
      if (migration === undefined || !('changeType' in migration)) continue;
      const { column } = migration.changeType;
      const adder = steps.find((s) => s.index < step.index && s.key === step.key && s.adds === column);
      const from = types.find((t) => t.index === adder?.index)?.parsed;
      const to = types.find((t) => t.index === step.index)?.parsed;
      const reason = from === undefined || to === undefined ? undefined : cannotHold(from, to);
      if (reason === undefined) continue;
      yield { place: `${step.place}.type`, message: reason, instead: WIDER };
    }
  },
};

export const WIDER =
  'write a type that holds every value of the old one; to narrow it, first clean the values up, and change the type in another run';
