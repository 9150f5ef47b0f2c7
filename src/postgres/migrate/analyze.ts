import { formatTableName, type TableName } from '../../plan/table-name.js';
import { qualified } from '../identifier.js';
import { sqlState } from '../sqlstate.js';
import { cancellable, type StepContext } from './step-context.js';
import { stepFailed } from './step-failed.js';

/** ANALYZE of each table: without statistics of its new columns and indexes green would answer by bad plans. */
export async function analyzeTables(context: StepContext, tables: readonly TableName[]): Promise<void> {
  for (const [done, table] of tables.entries()) {
    const object = formatTableName(table);
    context.onProgress({ step: 'analyze', object, done, total: tables.length, rowsPerSecond: 0, etaSeconds: null });
    await cancellable(context, context.session, () => context.session.query(`ANALYZE ${qualified(table)}`));
  }
}

/**
 * Fills the materialized views that have never been filled: they come empty out of a schema dump. One that reads
 * another waits for it.
 *
 * @returns how many were filled.
 */
export async function refreshMaterializedViews(context: StepContext): Promise<number> {
  const { session } = context;
  let filled = 0;
  for (;;) {
    const { rows } = await session.query<TableName>(
      `SELECT schemaname AS schema, matviewname AS name FROM pg_matviews WHERE NOT ispopulated ORDER BY 1, 2`,
    );
    if (rows.length === 0) return filled;
    const before = filled;
    let failure: unknown;
    for (const view of rows) {
      try {
        await cancellable(context, session, () => session.query(`REFRESH MATERIALIZED VIEW ${qualified(view)}`));
        filled++;
      } catch (error) {
        // object_not_in_prerequisite_state: it reads one that is still empty, and gets its turn after that one.
        if (sqlState(error) !== '55000') {
          throw stepFailed(
            `materialized view ${formatTableName(view)} can't be refreshed`,
            error,
            'correct the view on blue, or drop it there',
          );
        }
        failure = error;
      }
    }
    if (filled === before) {
      throw stepFailed("materialized views can't be refreshed", failure, 'correct them on blue, or drop them there');
    }
  }
}
