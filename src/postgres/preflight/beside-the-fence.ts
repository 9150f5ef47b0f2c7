import { ROUTE_CHANNEL } from '../state.js';
import type { Session } from '../session.js';
import type { Found, SideCheck } from './check.js';
import { listed } from './finding.js';

/*
 * What goes on beside the fence: it refuses writes, so whoever writes nothing hears nothing of the promotion.
 */

/** A session that listens sits idle after its LISTEN; one that has asked something since can't be told from any other. */
export const listeners: SideCheck = {
  name: 'listeners',
  sides: ['blue'],
  run: async ({ session }) => {
    const { rows } = await session.query<{ who: string }>(
      `SELECT DISTINCT coalesce(nullif(a.application_name, ''), 'no application name') || ', user ' || a.usename AS who
         FROM pg_stat_activity a
        WHERE a.datname = current_database() AND a.backend_type = 'client backend' AND a.application_name NOT LIKE 'verdigris%'
          AND a.query ~* '^\\s*listen\\s' AND a.query !~* $1
        ORDER BY 1`,
      [String.raw`^\s*listen\s+"?${ROUTE_CHANNEL}\M`],
    );
    if (rows.length === 0) return [];
    return [
      {
        severity: 'warning',
        object: listed(rows.map(({ who }) => who)),
        message:
          'these sessions listen for notifications (LISTEN), which are of one server: from the promotion on they come on green alone, and a listener on blue gets neither them nor an error',
        remedy:
          'Listen on both sides from before the promotion until the run is over, and look once at what is there after the move; or connect the listener to green right after the promotion',
      },
    ];
  },
};

/** Which reads and does not write by itself: an UPDATE with such a SELECT in it is refused by the fence. */
const TAKES_JOBS = String.raw`^\s*select\M.*\mfor\s+(no\s+key\s+)?update\M.*\mskip\s+locked\M`;

export const jobQueues: SideCheck = {
  name: 'job-queues',
  sides: ['blue'],
  run: async ({ session }): Promise<Found[]> => {
    const takers = [...(await takersNow(session)), ...(await takersBefore(session))];
    if (takers.length === 0) return [];
    return [
      {
        severity: 'warning',
        object: listed([...new Set(takers)]),
        message:
          'these take jobs by SELECT ... FOR UPDATE SKIP LOCKED. A row lock is of one server and no write, so the fence does not refuse it: while writes move, a worker on blue and one on green can do the same job, and one that stays on blue does it again each time that its first write is refused',
        remedy:
          'Mark a job as taken before it is done (UPDATE ... RETURNING, in a transaction of its own), so that the fence refuses it; or see that a job done twice does no harm; or stop the workers for the promotion',
      },
    ];
  },
};

async function takersNow(session: Session): Promise<string[]> {
  const { rows } = await session.query<{ who: string }>(
    `SELECT DISTINCT coalesce(nullif(a.application_name, ''), 'no application name') || ', user ' || a.usename AS who
       FROM pg_stat_activity a
      WHERE a.datname = current_database() AND a.backend_type = 'client backend' AND a.application_name NOT LIKE 'verdigris%'
        AND a.pid <> pg_backend_pid() AND a.query ~* $1
      ORDER BY 1`,
    [TAKES_JOBS],
  );
  return rows.map(({ who }) => who);
}

/** Users whose statements are in pg_stat_statements, where it is there and may be read. */
async function takersBefore(session: Session): Promise<string[]> {
  // Its view fails where the library is not loaded, and whether it is, not everybody may see.
  const { rows: views } = await session.query<{ view: string }>(
    `SELECT quote_ident(n.nspname) || '.pg_stat_statements' AS view
       FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
      WHERE e.extname = 'pg_stat_statements' AND has_schema_privilege(n.oid, 'USAGE')
        AND EXISTS (SELECT FROM pg_settings WHERE name = 'shared_preload_libraries' AND setting ~ 'pg_stat_statements')`,
  );
  const [found] = views;
  if (found === undefined) return [];
  const { rows } = await session.query<{ who: string }>(
    `SELECT DISTINCT 'user ' || pg_get_userbyid(s.userid) AS who FROM ${found.view} s
      WHERE s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND s.query ~* $1
      ORDER BY 1`,
    [TAKES_JOBS],
  );
  return rows.map(({ who }) => who);
}
