import { ident } from '../identifier.js';
import { BOTH_SIDES, oneRow, type Found, type SideCheck, type SideContext } from './check.js';

/*
 * Room for what logical replication needs. Forward, blue sends and green applies; after the promotion the other way
 * round. Each stream of the plan takes one of everything, and the first copy one slot, sender and worker more for each
 * table that is copied at the same time.
 */

interface Room {
  readonly limit: number;
  readonly used: number;
  /** What other subscriptions copy with at the same time: max_sync_workers_per_subscription of this server. */
  readonly sync: number;
}

/** The finding for a limit: without `least` the run can't begin, below `wanted` the first copy is slower. */
function judge(setting: string, room: Room, least: number, wanted: number, restart: string): Found[] {
  const free = room.limit - room.used;
  if (free >= wanted) return [];
  const missing = free < least;
  return [
    {
      severity: missing ? 'error' : 'warning',
      object: setting,
      message:
        `${setting} is ${room.limit} and ${room.used} are in use, so ${free} are free; ` +
        (missing ? `at least ${least} are needed` : `with fewer than ${wanted} the first copy waits for its turn`),
      remedy: `Set ${setting} to ${room.used + wanted} or more${restart}`,
    },
  ];
}

const RESTART = ', and restart the server';

/** What a side needs: as the source of the first copy, or as the target, or only for the way back. */
function needs(context: SideContext, role: 'source' | 'target', sync: number): { least: number; wanted: number } {
  // A standby brings its rows along: nothing is copied, and each stream takes one.
  const { bootstrap, replicate } = context.plan;
  if (bootstrap.method === 'standby') return { least: replicate.streams, wanted: replicate.streams };
  const inFirstCopy = (role === 'source') === (context.side === 'blue');
  const { streams } = context.plan.replicate;
  return inFirstCopy ? { least: streams + 1, wanted: streams * (1 + sync) } : { least: streams, wanted: streams };
}

export const replicationSlots: SideCheck = {
  name: 'replication-slots',
  sides: BOTH_SIDES,
  run: async (context) => {
    const room = await oneRow<Room>(
      context.session,
      `SELECT current_setting('max_replication_slots')::int AS limit, (SELECT count(*)::int FROM pg_replication_slots) AS used,
              current_setting('max_sync_workers_per_subscription')::int AS sync`,
    );
    const { least, wanted } = needs(context, 'source', room.sync);
    return judge('max_replication_slots', room, least, wanted, RESTART);
  },
};

/** A subscription remembers its position in an origin; their number is limited by a setting of its own since 18. */
export const replicationOrigins: SideCheck = {
  name: 'replication-origins',
  sides: BOTH_SIDES,
  run: async (context) => {
    const setting = context.version >= 18 ? 'max_active_replication_origins' : 'max_replication_slots';
    const room = await oneRow<Room>(
      context.session,
      `SELECT current_setting('${setting}')::int AS limit, (SELECT count(*)::int FROM pg_replication_origin) AS used,
              current_setting('max_sync_workers_per_subscription')::int AS sync`,
    );
    const { least, wanted } = needs(context, 'target', room.sync);
    return judge(setting, room, least, wanted, RESTART);
  },
};

export const walSenders: SideCheck = {
  name: 'wal-senders',
  sides: BOTH_SIDES,
  run: async (context) => {
    const room = await oneRow<Room>(
      context.session,
      `SELECT current_setting('max_wal_senders')::int AS limit,
              (SELECT count(*)::int FROM pg_stat_activity WHERE backend_type = 'walsender') AS used,
              current_setting('max_sync_workers_per_subscription')::int AS sync`,
    );
    const { least, wanted } = needs(context, 'source', room.sync);
    return judge('max_wal_senders', room, least, wanted, RESTART);
  },
};

/** Apply and copy workers of subscriptions, as pg_stat_activity names them in all versions. */
const LOGICAL_WORKERS = `backend_type ~ '^logical replication (apply |parallel |tablesync )?worker'`;

export const logicalReplicationWorkers: SideCheck = {
  name: 'logical-replication-workers',
  sides: BOTH_SIDES,
  run: async (context) => {
    const room = await oneRow<Room>(
      context.session,
      `SELECT current_setting('max_logical_replication_workers')::int AS limit,
              (SELECT count(*)::int FROM pg_stat_activity WHERE ${LOGICAL_WORKERS}) AS used,
              current_setting('max_sync_workers_per_subscription')::int AS sync`,
    );
    const { least, wanted } = needs(context, 'target', room.sync);
    return judge('max_logical_replication_workers', room, least, wanted, RESTART);
  },
};

export const workerProcesses: SideCheck = {
  name: 'worker-processes',
  sides: BOTH_SIDES,
  run: async (context) => {
    const room = await oneRow<Room>(
      context.session,
      // What is none of the server's own kinds of processes is a background worker, whoever registered it.
      `SELECT current_setting('max_worker_processes')::int AS limit,
              (SELECT count(*)::int FROM pg_stat_activity
                WHERE backend_type NOT IN ('client backend', 'walsender', 'walreceiver', 'walwriter', 'walsummarizer', 'checkpointer',
                        'background writer', 'startup', 'archiver', 'autovacuum launcher', 'autovacuum worker', 'slotsync worker',
                        'io worker', 'logger', 'standalone backend')) AS used,
              current_setting('max_sync_workers_per_subscription')::int AS sync`,
    );
    const { least, wanted } = needs(context, 'target', room.sync);
    return judge('max_worker_processes', room, least, wanted, RESTART);
  },
};

/** Below so many sessions no phase can be gone through: the work, its watch, the guards beside it, a promotion. */
const LEAST_SESSIONS = 6;

/** Sessions at the widest step of the plan: a lane reads or writes, and has its locks watched; the guards run beside. */
function widest({ bootstrap, backfill, indexes, verify }: SideContext['plan']): number {
  // Indexes are built while nobody uses green with this method only.
  const copies = bootstrap.method === 'copy' ? Math.max(bootstrap.parallel, indexes.parallelOffline) : 0;
  return 2 * Math.max(copies, backfill.parallel, indexes.parallel, verify.parallel) + LEAST_SESSIONS;
}

interface Connections {
  readonly limit: number;
  readonly used: number;
  readonly database: string;
  readonly database_limit: number;
  readonly in_database: number;
  readonly role: string;
  readonly role_limit: number;
  readonly of_role: number;
}

export const connections: SideCheck = {
  name: 'connections',
  sides: BOTH_SIDES,
  run: async ({ session, plan, isSuperuser }) => {
    const row = await oneRow<Connections>(
      session,
      // Of others' sessions all that anybody may see is whose they are. reserved_connections is known since 16.
      `WITH clients AS (
         SELECT datid, usesysid FROM pg_stat_activity
          WHERE usesysid IS NOT NULL AND coalesce(backend_type, 'client backend') = 'client backend' AND pid <> pg_backend_pid())
       SELECT current_setting('max_connections')::int
                - CASE WHEN $1 THEN 0 ELSE current_setting('superuser_reserved_connections')::int
                                           + coalesce(current_setting('reserved_connections', true)::int, 0) END AS limit,
              (SELECT count(*)::int FROM clients) AS used,
              datname AS database, datconnlimit AS database_limit,
              (SELECT count(*)::int FROM clients WHERE clients.datid = d.oid) AS in_database,
              rolname AS role, rolconnlimit AS role_limit,
              (SELECT count(*)::int FROM clients WHERE clients.usesysid = r.oid) AS of_role
         FROM pg_database d, pg_roles r
        WHERE d.datname = current_database() AND r.rolname = session_user`,
      [isSuperuser],
    );
    const limits = [
      {
        object: 'max_connections',
        limit: row.limit,
        used: row.used,
        remedy: (to: number) => `Set max_connections to ${to} or more${RESTART}`,
      },
      // PostgreSQL does not hold a superuser to these.
      ...(isSuperuser
        ? []
        : [
            {
              object: `database "${row.database}"`,
              limit: row.database_limit,
              used: row.in_database,
              remedy: (to: number) => `ALTER DATABASE ${ident(row.database)} CONNECTION LIMIT ${to}`,
            },
            {
              object: `role "${row.role}"`,
              limit: row.role_limit,
              used: row.of_role,
              remedy: (to: number) => `ALTER ROLE ${ident(row.role)} CONNECTION LIMIT ${to}`,
            },
          ]),
    ];
    const wanted = widest(plan);
    return limits.filter(({ limit }) => limit !== -1).flatMap((limit) => judgeConnections(limit, wanted));
  },
};

interface ConnectionLimit {
  readonly object: string;
  readonly limit: number;
  readonly used: number;
  readonly remedy: (to: number) => string;
}

function judgeConnections({ object, limit, used, remedy }: ConnectionLimit, wanted: number): Found[] {
  const free = Math.max(0, limit - used);
  if (free >= wanted) return [];
  const missing = free < LEAST_SESSIONS;
  return [
    {
      severity: missing ? 'error' : 'warning',
      object,
      message:
        `${limit} connections are allowed and ${used} are in use, so ${free} are free; ` +
        (missing
          ? `at least ${LEAST_SESSIONS} are needed`
          : `the run takes up to ${wanted} at once, and waits whenever it does not get one`),
      // Beside those of others that are there now.
      remedy: remedy(used + wanted),
    },
  ];
}
