import { briefLock } from './brief-lock.js';
import { dropFence } from './fence.js';
import { inTransaction, type Session } from './session.js';
import { FENCE_OPEN, hasState } from './state.js';

/*
 * Schema verdigris outlives a run that has moved the writes: applications' routers read from it where they are. So one
 * database may know several migrations, each by its row of the route.
 */

/**
 * Other migrations that this database has a route row of, by their names in order. Routers of theirs may read it at any
 * time. Asks for nothing: without schema verdigris there are none.
 */
export async function readOtherMigrations(session: Session, migration: string): Promise<string[]> {
  if (!(await hasState(session))) return [];
  const { rows } = await session.query<{ migration: string }>(
    'SELECT migration FROM verdigris.route WHERE migration <> $1 ORDER BY 1',
    [migration],
  );
  return rows.map((row) => row.migration);
}

/**
 * Whether an earlier run of this name has moved the writes here, and has left them where they are. Its routers would take
 * the row of a new run of that name for theirs, with other databases behind "blue" and "green". False for a run that was
 * rolled back: then both are the same ones again.
 */
export async function isNameTaken(session: Session, migration: string, runId: string): Promise<boolean> {
  if (!(await hasState(session))) return false;
  const { rowCount } = await session.query(
    `SELECT FROM verdigris.route r WHERE r.migration = $1 AND r.writes_on = 'green'
        AND NOT EXISTS (SELECT FROM verdigris.owner o WHERE o.run_id = $2)`,
    [migration, runId],
  );
  return (rowCount ?? 0) > 0;
}

/**
 * Takes away what a run that has ended keeps in a schema verdigris that has to stay, and its triggers: what dropping the
 * schema would take away. A flag that is closed goes with the route, or the database could never be blue again: without
 * triggers it keeps nobody out. Can be run again.
 *
 * @param keepRoute whether the run's own route row stays, too.
 */
export async function forgetRun(
  session: Session,
  { runId, migration }: { readonly runId: string; readonly migration: string },
  { keepRoute }: { readonly keepRoute: boolean },
): Promise<void> {
  await dropFence(session);
  await briefLock(session, 'what the run keeps in schema verdigris', () =>
    inTransaction(session, async () => {
      await session.query('TRUNCATE verdigris.marker_to_green, verdigris.marker_to_blue');
      await session.query('DELETE FROM verdigris.progress WHERE run_id = $1', [runId]);
      await session.query('DELETE FROM verdigris.router WHERE migration = $1', [migration]);
      if (keepRoute) return;
      await session.query('DELETE FROM verdigris.route WHERE migration = $1', [migration]);
      // Not that of a run which has begun meanwhile.
      await session.query(
        `SELECT setval('verdigris.fence', ${FENCE_OPEN}) FROM (SELECT FROM verdigris.owner WHERE run_id = $1 FOR UPDATE) AS o`,
        [runId],
      );
    }),
  );
}
