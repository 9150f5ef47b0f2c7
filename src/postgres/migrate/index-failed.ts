import type { VerdigrisError } from '../../errors.js';
import type { CreateIndex } from '../../plan/schema.js';
import { formatTableName, type TableName } from '../../plan/table-name.js';
import { ident, qualified } from '../identifier.js';
import { BUILD_TRIES, type Build } from './index-build.js';
import { CORRECT_ROWS, rowsInTheWay } from './rows-in-the-way.js';
import { stepFailed } from './step-failed.js';

/** The next step of a build that has given way too often. */
export const TRIED_AGAIN =
  'nothing: it is tried again by itself; to have it sooner, let those whom it names end, or pause the run until a quieter time';

/**
 * What people are told when an index of the plan can't be built.
 *
 * @param columns the names of the table's columns: what is one of them in the plan is that column
 */
export function planIndexFailed(
  table: TableName,
  name: string,
  index: Pick<CreateIndex, 'columns' | 'where'>,
  columns: readonly string[],
): Build['failed'] {
  const what = `index "${name}" on table ${formatTableName(table)}`;
  return (error, why) => {
    switch (why) {
      case 'duplicates':
        return duplicates(table, what, index, columns, error);
      case 'in the way':
        return stepFailed(
          `${what} was given up ${BUILD_TRIES} times, since it held up other sessions`,
          error,
          TRIED_AGAIN,
        );
      case 'refused':
        return stepFailed(
          `${what} can't be built`,
          error,
          'correct it in the plan; what was begun of it has been removed',
        );
    }
  };
}

function duplicates(
  table: TableName,
  what: string,
  { columns, where }: Pick<CreateIndex, 'columns' | 'where'>,
  known: readonly string[],
  cause: unknown,
): VerdigrisError {
  // Of SQL (an expression, with a class or an order beside it) only PostgreSQL knows what of it may be selected.
  const arePlain = columns.every((column) => known.includes(column));
  const find = arePlain
    ? `find them by ${duplicatesSql(table, columns, where)}`
    : 'find the rows that have the same values of these in all their columns';
  return rowsInTheWay(`unique ${what} can't be built: several rows have the same value of ${columns.join(', ')}`, [], {
    nextStep: `${find}; ${CORRECT_ROWS}`,
    cause,
  });
}

/** A row in which one of them is NULL is no duplicate of any. */
function duplicatesSql(table: TableName, columns: readonly string[], where: string | undefined): string {
  const quoted = columns.map(ident);
  const conditions = [
    ...(where === undefined ? [] : [`(${where}\n)`]),
    ...quoted.map((column) => `${column} IS NOT NULL`),
  ];
  return `SELECT ${quoted.join(', ')}, count(*) FROM ${qualified(table)} WHERE ${conditions.join(' AND ')} GROUP BY ${quoted.map((_, i) => i + 1).join(', ')} HAVING count(*) > 1`;
}
