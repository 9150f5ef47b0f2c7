import { VerdigrisError } from '../../errors.js';
import { formatTableName } from '../../plan/table-name.js';
import type { TableInfo } from '../catalog.js';
import { qualified } from '../identifier.js';
import { closeSession, type Session } from '../session.js';
import { sqlState } from '../sqlstate.js';
import { WITH_PARTITIONS } from './changed-table.js';
import type { StepContext } from './step-context.js';
import { TRIGGER_NAME } from './up-down-trigger.js';

/** Below deadlock_timeout, so that in a circle with the apply worker it is we who give up. */
const LOCK_TIMEOUT_MS = 300;

/**
 * Opens a session for writes of our own. The up/down trigger knows it by `verdigris.internal`. It writes as a replica:
 * the application's triggers have fired on blue already; here they would write a second audit row or a new updated_at.
 *
 * @throws VerdigrisError MigrationStepFailed when that right is missing and the table has such triggers.
 */
export async function openInternalSession(
  context: StepContext,
  table: TableInfo,
  searchPath: string,
): Promise<Session> {
  const session = await context.connect('backfill');
  try {
    await session.query(
      `SELECT set_config('verdigris.internal', 'on', false), set_config('lock_timeout', '${LOCK_TIMEOUT_MS}', false)`,
    );
    await session
      .query(`SELECT set_config('session_replication_role', 'replica', false)`)
      .catch(async (error: unknown) => {
        if (sqlState(error) !== '42501') throw error;
        if (await hasUserTriggers(session, table)) throw rightMissing(table, error);
      });
    await session.query(`SELECT set_config('search_path', $1, false)`, [searchPath]);
    return session;
  } catch (error) {
    await closeSession(session);
    throw error;
  }
}

async function hasUserTriggers(session: Session, table: TableInfo): Promise<boolean> {
  const { rowCount } = await session.query(
    `SELECT FROM (${WITH_PARTITIONS}) part JOIN pg_trigger t ON t.tgrelid = part.relid
      WHERE NOT t.tgisinternal AND t.tgname <> $2 AND t.tgenabled IN ('O', 'A') AND t.tgtype & 16 <> 0`,
    [qualified(table.name), TRIGGER_NAME],
  );
  return (rowCount ?? 0) > 0;
}

function rightMissing(table: TableInfo, cause: unknown): VerdigrisError {
  return new VerdigrisError({
    type: 'MigrationStepFailed',
    message: `table ${formatTableName(table.name)} has triggers of the application that the backfill must not fire, and the worker's role may not set session_replication_role`,
    nextStep: `as a superuser of green: GRANT SET ON PARAMETER session_replication_role TO the worker's role`,
    cause,
  });
}
