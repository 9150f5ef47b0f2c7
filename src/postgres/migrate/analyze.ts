import { formatTableName, type TableName } from '../../plan/table-name.js';
import { qualified } from '../identifier.js';
import { cancellable, type StepContext } from './step-context.js';

/** ANALYZE of each table: without statistics of its new columns and indexes green would answer by bad plans. */
export async function analyzeTables(context: StepContext, tables: readonly TableName[]): Promise<void> {
  for (const [done, table] of tables.entries()) {
    const object = formatTableName(table);
    context.onProgress({ step: 'analyze', object, done, total: tables.length, rowsPerSecond: 0, etaSeconds: null });
    await cancellable(context, context.session, () => context.session.query(`ANALYZE ${qualified(table)}`));
  }
}
