import { asksSessions } from '../../gates/decide-postgres.js';
import { describeFollowers, readOtherFollowers } from '../../gates/other-followers.js';
import { gateLabel } from '../../gates/gate-label.js';
import { formatDuration } from '../../plan/duration.js';
import { hasState } from '../state.js';
import { listed } from './finding.js';
import { BOTH_SIDES, oneRow, type Found, type SideCheck } from './check.js';

/** Checks of what is going on in a database right now. */

export const preparedTransactions: SideCheck = {
  name: 'prepared-transactions',
  sides: BOTH_SIDES,
  run: async ({ session }) => {
    const { rows } = await session.query<{ gid: string; here: boolean; age: number }>(
      `SELECT gid, database = current_database() AS here,
              (extract(epoch FROM clock_timestamp() - prepared) * 1000)::float8 AS age
         FROM pg_prepared_xacts ORDER BY prepared`,
    );
    return rows.map(({ gid, here, age }): Found => ({
      severity: here ? 'error' : 'warning',
      object: gid,
      message: `the transaction "${gid}" has been prepared for ${formatDuration(age)}: a replication slot is made only when it has ended${here ? ', and its fate would be open at the promotion' : ' (it is in another database of this server)'}`,
      remedy: `COMMIT PREPARED or ROLLBACK PREPARED '${gid.replaceAll("'", "''")}', and do without two-phase commit until the migration has ended`,
    }));
  },
};

/** From here on somebody should know; from there on something is wrong. */
const LONG_MS = 60_000;
const TOO_LONG_MS = 300_000;

export const longTransactions: SideCheck = {
  name: 'long-transactions',
  sides: BOTH_SIDES,
  run: async ({ session }) => {
    const { rows } = await session.query<{
      pid: number;
      application: string;
      age: number;
      wrote: boolean;
      state: string | null;
    }>(
      `SELECT pid, coalesce(application_name, '') AS application, backend_xid IS NOT NULL AS wrote, state,
              (extract(epoch FROM clock_timestamp() - xact_start) * 1000)::float8 AS age
         FROM pg_stat_activity
        WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
          AND xact_start < clock_timestamp() - $1 * interval '1 ms'
        ORDER BY xact_start LIMIT 20`,
      [LONG_MS],
    );
    return rows.map(({ pid, application, age, wrote, state }): Found => ({
      // Only a transaction that has written holds up a slot.
      severity: wrote && age > TOO_LONG_MS ? 'error' : 'warning',
      object: `pid ${pid}`,
      message:
        `a transaction of ${application === '' ? 'a client without application_name' : `"${application}"`} has been open for ` +
        `${formatDuration(age)} (${state ?? 'state unknown'})${wrote ? ' and has written: a replication slot is made only when it has ended' : ': concurrent index builds wait for it'}`,
      remedy: `End it: SELECT pg_terminate_backend(${pid}), or wait until it is over`,
    }));
  },
};

export const clients: SideCheck = {
  name: 'clients',
  sides: ['blue'],
  run: async ({ session, plan: { traffic } }) => {
    const { rows } = await session.query<{ who: string; connections: number }>(
      `SELECT coalesce(nullif(application_name, ''), 'no application_name') || ' as ' || coalesce(usename, '?') AS who,
              count(*)::int AS connections
         FROM pg_stat_activity
        WHERE datname = current_database() AND backend_type = 'client backend' AND application_name NOT LIKE 'verdigris %'
        GROUP BY 1 ORDER BY 2 DESC, 1`,
    );
    if (rows.length === 0) return [];
    return [
      {
        severity: 'info',
        object: 'pg_stat_activity',
        message: `clients that are connected now: ${listed(rows.map(({ who, connections }) => `${who} (${connections})`))}`,
        remedy: `See that each of them ${traffic.pgbouncer === undefined ? 'uses the router' : "uses the router or one of the plan's PgBouncers"}, or is meant to be refused when writes have moved`,
      },
    ];
  },
};

/** Who follows an earlier migration goes on when this one has moved the writes, and finds no side that takes its own. */
export const otherRouters: SideCheck = {
  name: 'other-routers',
  sides: ['blue'],
  run: async ({ session, plan }) => {
    if (!(await hasState(session))) return [];
    const followers = await readOtherFollowers(session, plan.name);
    if (followers.length === 0) return [];
    return [
      {
        severity: 'warning',
        object: 'verdigris.router',
        message: `instances of the application follow an earlier migration of this database, and would not follow "${plan.name}": ${describeFollowers(followers)}; what they write to tables of this plan fails from its promotion on`,
        remedy: `Deploy the application with migration: "${plan.name}" and the databases of this plan in its routers and providers, and end those that are left (close()), before the promotion`,
      },
    ];
  },
};

/** Without it the processes of others are seen, and what they do is not. */
export const visibility: SideCheck = {
  name: 'visibility',
  sides: BOTH_SIDES,
  run: async ({ session, isSuperuser, plan: { traffic } }) => {
    const { member, role } = await oneRow<{ member: boolean; role: string }>(
      session,
      `SELECT pg_has_role('pg_read_all_stats', 'USAGE') AS member, quote_ident(current_user) AS role`,
    );
    if (isSuperuser || member) return [];
    const remedy = `GRANT pg_monitor TO ${role}`;
    const blind = traffic.stages.length === 0 ? [] : traffic.gates.filter(asksSessions);
    if (blind.some(({ dryRun }) => dryRun !== true)) {
      return [
        {
          severity: 'error',
          object: 'pg_read_all_stats',
          message: `${blind.map(gateLabel).join(', ')} can't decide: this user sees neither the waits nor the transactions of other users`,
          remedy,
        },
      ];
    }
    return [
      {
        severity: 'warning',
        object: 'pg_read_all_stats',
        message:
          "this user sees neither the age nor the state of other users' transactions: what stands in the way can't be named",
        remedy,
      },
    ];
  },
};
