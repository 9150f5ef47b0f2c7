import { VerdigrisError } from '../../errors.js';
import type { TableName } from '../../plan/table-name.js';
import { formatTableName } from '../../plan/table-name.js';
import { qualified } from '../identifier.js';
import type { Session } from '../session.js';
import { CHECK_VIOLATION, NOT_NULL_VIOLATION, sqlState } from '../sqlstate.js';

/*
 * Where an INSERT leaves out a column of a domain, PostgreSQL asks the domain whether it takes NULL before any trigger could
 * give the column its value. So one that does not refuses each INSERT of code that does not know the column, and ADD COLUMN
 * on a table that has rows. A NOT NULL of the column itself is asked behind the triggers.
 */

/**
 * Must run in a transaction, which is of no use after a refusal.
 *
 * @param copy has the columns; its rows are none of the application's.
 * @param columns those that the plan adds.
 * @throws VerdigrisError MigrationStepFailed when the type of one is a domain without a default that refuses NULL.
 */
export async function refuseRefusedNull(
  session: Session,
  copy: TableName,
  table: TableName,
  columns: readonly string[],
): Promise<void> {
  const { rows } = await session.query<{ column: string; domain: string }>(
    `SELECT a.attname AS column, format('%I.%I', n.nspname, t.typname) AS domain
       FROM pg_catalog.pg_attribute a
       JOIN pg_catalog.pg_type t ON t.oid = a.atttypid JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
      WHERE a.attrelid = $1::regclass AND a.attname = ANY ($2) AND t.typtype = 'd'
        AND NOT a.atthasdef AND t.typdefault IS NULL
      ORDER BY a.attnum`,
    [qualified(copy), columns],
  );
  for (const { column, domain } of rows) {
    try {
      await session.query(`SELECT CAST(NULL AS ${domain})`);
    } catch (error) {
      const state = sqlState(error);
      if (state !== NOT_NULL_VIOLATION && state !== CHECK_VIOLATION) throw error;
      throw new VerdigrisError({
        type: 'MigrationStepFailed',
        message: `"${column}" of table ${formatTableName(table)} is of the domain ${domain}, which refuses NULL: each INSERT that leaves the column out fails, before "up" could fill it; take the base type of the domain, with "notNull" and its checks as addConstraint`,
        nextStep: 'correct it in the plan',
      });
    }
  }
}
