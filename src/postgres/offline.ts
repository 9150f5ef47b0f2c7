import type { Session } from './session.js';
import { hasState } from './state.js';

/**
 * Whether nobody writes green's tables: none of our subscriptions is there yet, and green is not primary. Then a plain
 * CREATE INDEX is right: it reads the table once, with parallel workers, and leaves nothing behind when it is killed.
 * Afterwards it would stop the apply worker, or the application, for as long as it takes, and CONCURRENTLY is used.
 */
export async function isOffline(green: Session): Promise<boolean> {
  const { rows } = await green.query<{ feeds: number }>(
    `SELECT count(*)::int AS feeds FROM pg_subscription
      WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND subname LIKE 'verdigris\\_%'`,
  );
  if (rows[0]?.feeds !== 0) return false;
  // After the promotion the subscription is gone and the application writes here.
  if (!(await hasState(green))) return true;
  const { rowCount } = await green.query(
    `SELECT FROM verdigris.route r JOIN verdigris.owner o USING (migration)
      WHERE o.side = 'green' AND (r.writes_on = 'green' OR r.opening = 'green')`,
  );
  return rowCount === 0;
}
