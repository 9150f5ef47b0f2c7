import type { VerdigrisError } from '../../errors.js';
import type { CreateIndex } from '../../plan/schema.js';
import { formatTableName, type TableName } from '../../plan/table-name.js';
import { BUILD_TRIES, type Build } from './index-build.js';
import { CORRECT_ROWS, rowsInTheWay } from './rows-in-the-way.js';
import { stepFailed } from './step-failed.js';

/** The next step of a build that has given way too often. */
export const TRIED_AGAIN =
  'nothing: it is tried again by itself; to have it sooner, let those whom it names end, or pause the run until a quieter time';

/** What people are told when an index of the plan can't be built. */
export function planIndexFailed(
  table: TableName,
  name: string,
  index: Pick<CreateIndex, 'columns' | 'where'>,
): Build['failed'] {
  const what = `index "${name}" on table ${formatTableName(table)}`;
  return (error, why) => {
    switch (why) {
      case 'duplicates':
        return duplicates(table, what, index, error);
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
  index: Pick<CreateIndex, 'columns' | 'where'>,
  cause: unknown,
): VerdigrisError {
  const columns = index.columns.join(', ');
  const where = index.where === undefined ? '' : ` WHERE ${index.where}`;
  const find = `find them by SELECT ${columns}, count(*) FROM ${formatTableName(table)}${where} GROUP BY ${index.columns.map((_, i) => i + 1).join(', ')} HAVING count(*) > 1`;
  return rowsInTheWay(`unique ${what} can't be built: several rows have the same value of ${columns}`, [], {
    nextStep: `${find}; ${CORRECT_ROWS}`,
    cause,
  });
}
