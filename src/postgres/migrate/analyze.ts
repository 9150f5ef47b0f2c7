import { formatTableName, type TableName } from '../../plan/table-name.js';
import { qualified } from '../identifier.js';
import type { Session } from '../session.js';
import { aloneWithShortLocks } from './short-locks.js';
import type { StepContext } from './step-context.js';

/** A table of which not more than this share was written since its ANALYZE has statistics that are good enough. */
const FRESH_SHARE = 0.01;

/** ANALYZE of each table: without statistics of its new columns and indexes green would answer by bad plans. */
export async function analyzeTables(context: StepContext, tables: readonly TableName[]): Promise<void> {
  for (const [done, table] of tables.entries()) {
    const object = formatTableName(table);
    context.onProgress({ step: 'analyze', object, done, total: tables.length, rowsPerSecond: 0, etaSeconds: null });
    const locks = { object: `ANALYZE of table ${object}`, patience: 'brief' } as const;
    await aloneWithShortLocks(context, context.session, locks, () =>
      context.session.query(`ANALYZE ${qualified(table)}`),
    );
  }
}

/**
 * Of these tables the ones whose statistics are missing or older than most of their rows. Counters that were lost in a
 * crash make a table stale. Says nothing about columns and indexes that were made after the last ANALYZE.
 */
export async function staleTables(session: Session, tables: readonly TableName[]): Promise<TableName[]> {
  const { rows } = await session.query<{ fresh: boolean }>(
    `SELECT coalesce(s.last_analyze IS NOT NULL AND s.n_mod_since_analyze <= $2::float8 * s.n_live_tup, false) AS fresh
       FROM unnest($1::text[]) WITH ORDINALITY AS t (name, position)
       LEFT JOIN pg_stat_user_tables s ON s.relid = to_regclass(t.name)
      ORDER BY t.position`,
    [tables.map(qualified), FRESH_SHARE],
  );
  return tables.filter((_, i) => rows[i]?.fresh !== true);
}
