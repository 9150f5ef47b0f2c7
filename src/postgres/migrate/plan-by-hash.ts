import type { Session } from '../session.js';

/**
 * Foreign keys are validated in one pass over both tables, with a hash in maintenance_work_mem. Left to itself the
 * planner may merge two indexes, whose order says nothing of where rows are freshly loaded (10 M rows that refer to 1 M:
 * 16 s instead of 5 s).
 *
 * @param until `transaction`: the settings end with the transaction that is open.
 */
export async function planByHash(session: Session, until: 'transaction' | 'session'): Promise<void> {
  await session.query(
    `SELECT set_config(name, 'off', $1) FROM unnest(ARRAY['enable_mergejoin', 'enable_nestloop']) name`,
    [until === 'transaction'],
  );
}
