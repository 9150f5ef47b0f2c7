import type { Side } from '../side.js';
import { otherSide } from '../side.js';
import { asForeignState, IS_PLAIN, REFUSE_FOREIGN_PARTS } from './foreign-state.js';
import type { Session } from './session.js';
import {
  type CANCELED,
  LIMIT_EXCEEDED,
  NO_RIGHT,
  READ_ONLY,
  sqlState,
  STALE_EPOCH,
  UNDEFINED_TABLE,
} from './sqlstate.js';
import { ONLY_OWNERS_WRITE, WHO_MAY_CALL } from './state-rights.js';

/*
 * The schema `verdigris`: what a run keeps in the databases themselves, on both sides. The databases alone say who is
 * primary (route and fence); Temporal is never asked. Nothing in it but the two marker tables is ever published, and
 * none of it is dumped from blue to green.
 *
 *   owner      which run owns this database (one row)
 *   route      where writes go and which share of the users reads from green; one row a migration
 *   fence      a sequence used as a flag: last_value 0 = open, 1 = closed. Not under MVCC, so a REPEATABLE READ or
 *              SERIALIZABLE transaction that began before the promotion sees it too; a table's row it would not see
 *   marker_*   proof that everything before a row has been applied; one table a direction, or markers would come back
 *   progress   what has been done, cursors included, written in the transaction that did it
 *   router     instances of the application: their version, the generation they have applied, and their metrics
 *   event      what was done, when, by which run
 */

/** Every application transaction that has written holds this lock in shared mode (see fence.ts). */
export const FENCE_LOCK = 4_702_394_921_427_289_928n;
/** The worker that acts on a database holds this one for its session. */
export const ACTOR_LOCK = 4_702_394_921_427_289_929n;
/** Channel on which a change of the route is announced; the payload is empty: readers read the row. */
export const ROUTE_CHANNEL = 'verdigris_route';

export const FENCE_OPEN = 0;
export const FENCE_CLOSED = 1;

/** How fence_check() takes its lock, as an expression: a void can't be assigned. */
const TAKE_FENCE_LOCK = `pg_advisory_xact_lock_shared(${FENCE_LOCK})::text`;
/** Closed when in doubt: NULL is the answer for a sequence that was never set. */
const FENCE_IS_CLOSED = `pg_sequence_last_value('verdigris.fence') IS DISTINCT FROM ${FENCE_OPEN}`;

/** How long the row of an instance that is silent is kept: gates count what it had done for as long. */
export const INSTANCE_KEPT_FOR = '1 day';

/**
 * What verdigris.router_heartbeat() takes: far more than any router has. `kept` and `keptBytes` are those of one role, so that
 * nobody keeps the application's own from reporting.
 */
const HEARTBEAT = {
  ...{ bytes: 1_000_000, nameLength: 300, instances: 10_000, keptFor: INSTANCE_KEPT_FOR },
  ...{ kept: 100_000, keptBytes: 1_000_000_000 },
} as const;

/** Name of the constraint and schema in the error fields of a write that met the fence: how a router knows it. */
export const FENCE_ERROR = { schema: 'verdigris', constraint: 'verdigris_fence' } as const;

/** The route: who takes writes, and who reads from green. The row with the higher epoch is the truth. */
export interface Route {
  readonly migration: string;
  /** Raised by every promotion and every rollback of one. */
  readonly epoch: number;
  /** Raised by every change of the route within an epoch. */
  readonly generation: number;
  readonly writesOn: Side;
  /** Share of the users whose reads go to green while writes are on blue, 0-100. */
  readonly greenReadPercent: number;
  /** Key of the cohorts' hash. */
  readonly flag: string;
  /** The side that a running promotion is about to open, while one runs. */
  readonly opening: Side | null;
}

/**
 * NULL for text that is not JSON: for "up" of a text column that becomes jsonb. Its subtransactions are refused in parallel
 * plans, by their leader too, before PostgreSQL 17.
 */
export const TRY_JSONB = `CREATE OR REPLACE FUNCTION verdigris.try_jsonb(value text) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL UNSAFE SET search_path = pg_catalog AS $fn$
BEGIN
  RETURN value::jsonb;
EXCEPTION WHEN data_exception THEN
  RETURN NULL;
END $fn$;`;

/**
 * The SQLSTATE of a write that meets the fence: read-only transaction, by which drivers look for the new primary, or
 * cancelled, which PL/pgSQL's EXCEPTION WHEN OTHERS does not catch.
 */
export type Refusal = typeof READ_ONLY | typeof CANCELED;

/** How the schema is made. */
export interface StateOptions {
  /** Default: 25006 */
  readonly refuseWith?: Refusal | undefined;
  /**
   * Whether the schema that is there comes from the other side, with all that this server has: it was looked at there, and
   * may belong to that one's user. Default: false
   */
  readonly isCopy?: boolean;
}

/**
 * Makes the schema, or brings it up to date. Safe to run again at any time; `side` is what this database is.
 *
 * @throws VerdigrisError StateNotOurs when somebody else has made it, or has put something into it
 */
export async function installState(session: Session, side: Side, options: StateOptions = {}): Promise<void> {
  try {
    await session.query(stateDdl(side, options));
  } catch (error) {
    throw asForeignState(error, side);
  }
}

/** The DDL of schema verdigris. One message, so one transaction: there is never half a schema. */
function stateDdl(side: Side, { isCopy = false, refuseWith = READ_ONLY }: StateOptions): string {
  return `
SELECT pg_advisory_xact_lock(${ACTOR_LOCK + 1n});
CREATE SCHEMA IF NOT EXISTS verdigris;
${isCopy ? '' : REFUSE_FOREIGN_PARTS}
COMMENT ON SCHEMA verdigris IS 'Verdigris: state of a blue-green migration; removed by its retirement or rollback';
GRANT USAGE ON SCHEMA verdigris TO PUBLIC;

CREATE TABLE IF NOT EXISTS verdigris.owner (
  singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
  run_id text NOT NULL,
  migration text NOT NULL,
  side text NOT NULL CHECK (side IN ('blue', 'green')),
  claimed_at timestamptz NOT NULL DEFAULT now(),
  ended_at timestamptz,
  outcome text
);
ALTER TABLE verdigris.owner ADD COLUMN IF NOT EXISTS streams integer NOT NULL DEFAULT 1 CHECK (streams > 0);
CREATE TABLE IF NOT EXISTS verdigris.route (
  migration text PRIMARY KEY,
  epoch bigint NOT NULL DEFAULT 1,
  generation bigint NOT NULL DEFAULT 1,
  writes_on text NOT NULL DEFAULT 'blue' CHECK (writes_on IN ('blue', 'green')),
  green_read_percent numeric NOT NULL DEFAULT 0 CHECK (green_read_percent BETWEEN 0 AND 100),
  flag text NOT NULL DEFAULT 'use-green-db',
  opening text CHECK (opening IN ('blue', 'green')),
  updated_at timestamptz NOT NULL DEFAULT now()
);
GRANT SELECT ON verdigris.route TO PUBLIC;
CREATE SEQUENCE IF NOT EXISTS verdigris.fence MINVALUE 0 START 0;
-- pg_sequence_last_value() is NULL, which is not open, until a value was set.
SELECT setval('verdigris.fence', last_value) FROM verdigris.fence WHERE NOT is_called;
${markerDdl('marker_to_green')}
${markerDdl('marker_to_blue')}
CREATE TABLE IF NOT EXISTS verdigris.progress (
  run_id text NOT NULL,
  step text NOT NULL,
  object text NOT NULL,
  state jsonb NOT NULL DEFAULT '{}',
  done boolean NOT NULL DEFAULT false,
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (run_id, step, object)
);
CREATE TABLE IF NOT EXISTS verdigris.router (
  instance text PRIMARY KEY,
  migration text NOT NULL,
  epoch bigint NOT NULL,
  generation bigint NOT NULL,
  metrics jsonb NOT NULL,
  started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  seen_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
ALTER TABLE verdigris.router ADD COLUMN IF NOT EXISTS version text,
  -- Who has logged in to say so, and from where; null for a local socket.
  ADD COLUMN IF NOT EXISTS role name, ADD COLUMN IF NOT EXISTS address inet;
CREATE TABLE IF NOT EXISTS verdigris.event (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  run_id text NOT NULL,
  what text NOT NULL,
  detail jsonb NOT NULL DEFAULT '{}'
);

${TRY_JSONB}

-- The fence. The lock is taken before the flag is read: whoever holds the lock alone (the promotion) knows that every
-- transaction that has written is over and that every later writer reads the flag after the decision.
CREATE OR REPLACE FUNCTION verdigris.fence_check() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $fn$
DECLARE
  held text;
BEGIN
  -- The rows of a feed are always let in: an applied TRUNCATE fires this trigger, and so does what a trigger that is
  -- ENABLE ALWAYS or REPLICA writes for an applied row. Who only says to be in replica mode is not let in. Two IFs: in one
  -- condition each write of the application would pay for the look into the view.
  IF current_setting('session_replication_role') = 'replica' THEN
    IF EXISTS (SELECT FROM pg_stat_subscription WHERE pid = pg_backend_pid()) THEN
      RETURN NULL;
    END IF;
  END IF;
  -- Two expressions without a query in them: PL/pgSQL evaluates these by itself, and each write pays for them.
  held := ${TAKE_FENCE_LOCK};
  IF ${FENCE_IS_CLOSED} THEN
    -- A caller's EXCEPTION WHEN OTHERS swallows the error, but not what is already on its way to the client: the router
    -- sees by it that the write was refused. INFO is never filtered for clients, and not written to the log.
    RAISE INFO 'verdigris: writes on ${side} are closed'
      USING SCHEMA = '${FENCE_ERROR.schema}', CONSTRAINT = '${FENCE_ERROR.constraint}';
    RAISE EXCEPTION 'verdigris: writes on ${side} are closed'
      USING ERRCODE = '${refuseWith}', SCHEMA = '${FENCE_ERROR.schema}', CONSTRAINT = '${FENCE_ERROR.constraint}',
            HINT = 'Writes belong to ${otherSide(side)} now, or nobody may write here yet: ask verdigris.route.';
  END IF;
  RETURN NULL;
END $fn$;

-- Looks up what fence_check() needs, so that the first write of a session finds it. Takes no lock.
CREATE OR REPLACE FUNCTION verdigris.get_ready() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $fn$
DECLARE
  takes_lock boolean := false;
  held text;
BEGIN
  held := CASE WHEN takes_lock THEN ${TAKE_FENCE_LOCK} END;
  IF ${FENCE_IS_CLOSED} THEN
    RETURN;
  END IF;
END $fn$;

-- Whether this database shows everything that the other one had flushed at \`upto\`, in the same epoch. latest_end_lsn
-- moves with keepalives, also past transactions that are not published; the origin moves with each commit, but a moment
-- before the commit becomes visible. So a commit that ends exactly at \`upto\` counts only once the apply worker has no
-- transaction any more (seen without this: 1 stale read of 6,000 with synchronous_commit = on for the subscription).
-- Every stream of the feed must have come so far: one that is gone or disabled shows nothing new.
CREATE OR REPLACE FUNCTION verdigris.caught_up(expected_epoch bigint, upto pg_lsn) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $fn$
DECLARE
  of_feed text;
  streams integer;
  feed record;
  feeds integer := 0;
BEGIN
  SELECT 'verdigris_' || replace(o.migration, '-', '_') || '_to_${side}', o.streams INTO of_feed, streams
    FROM verdigris.route r JOIN verdigris.owner o USING (migration) WHERE r.epoch = expected_epoch;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  FOR feed IN
    SELECT s.oid, w.latest_end_lsn, pg_replication_origin_progress('pg_' || s.oid, false) AS applied
      FROM pg_subscription s
      LEFT JOIN LATERAL (SELECT max(latest_end_lsn) AS latest_end_lsn FROM pg_stat_subscription w
                          WHERE w.subid = s.oid AND w.relid IS NULL AND to_jsonb(w) ->> 'leader_pid' IS NULL) w ON true
     WHERE s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
       AND starts_with(s.subname, of_feed) AND s.subenabled
  LOOP
    feeds := feeds + 1;
    CONTINUE WHEN coalesce(feed.latest_end_lsn >= upto, false) OR coalesce(feed.applied > upto, false);
    IF feed.applied IS DISTINCT FROM upto THEN
      RETURN false;
    END IF;
    PERFORM pg_stat_clear_snapshot();
    -- Of all its workers: what is streamed is committed by a parallel one, which has moved the origin just before.
    IF EXISTS (SELECT FROM pg_stat_subscription w CROSS JOIN LATERAL pg_stat_get_activity(w.pid) a
                WHERE w.subid = feed.oid AND w.relid IS NULL AND w.pid IS NOT NULL AND a.backend_xid IS NOT NULL) THEN
      RETURN false;
    END IF;
  END LOOP;
  RETURN feeds >= streams;
END $fn$;

-- An application's router says that it lives, what it has applied, and what it has counted since its start. Anybody who can
-- log in may call it: what it takes is bounded, and it is written down who called. A row is its role's for as long as that
-- one goes on to report; it may log in as another one then, as where a secret store makes the roles.
CREATE OR REPLACE FUNCTION verdigris.router_heartbeat(
  of_migration text, of_instance text, applied_epoch bigint, applied_generation bigint, counted jsonb,
  of_version text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $fn$
DECLARE
  kept bigint;
  kept_bytes bigint;
BEGIN
  IF greatest(length(of_migration), length(of_instance), length(of_version)) > ${HEARTBEAT.nameLength}
     OR octet_length(counted::text) > ${HEARTBEAT.bytes} THEN
    RAISE EXCEPTION 'verdigris: a heartbeat has names of at most ${HEARTBEAT.nameLength} characters and ${HEARTBEAT.bytes} bytes of metrics'
      USING ERRCODE = '${LIMIT_EXCEEDED}';
  END IF;
  IF NOT EXISTS (SELECT FROM verdigris.router WHERE instance = of_instance) THEN
    -- Each start of a process is a new instance: what nobody asks for any more would be read by each that comes.
    DELETE FROM verdigris.router WHERE instance IN (
      SELECT instance FROM verdigris.router WHERE seen_at < clock_timestamp() - interval '${HEARTBEAT.keptFor}'
         FOR UPDATE SKIP LOCKED);
    IF (SELECT count(*) FROM verdigris.router WHERE seen_at > clock_timestamp() - interval '5 s') >= ${HEARTBEAT.instances} THEN
      RAISE EXCEPTION 'verdigris: ${HEARTBEAT.instances} instances report already' USING ERRCODE = '${LIMIT_EXCEEDED}';
    END IF;
    SELECT count(*), coalesce(sum(pg_column_size(metrics)), 0) INTO kept, kept_bytes
      FROM verdigris.router WHERE role = session_user;
    IF kept >= ${HEARTBEAT.kept} OR kept_bytes >= ${HEARTBEAT.keptBytes} THEN
      RAISE EXCEPTION 'verdigris: role % has reported as % instances with % bytes within ${HEARTBEAT.keptFor}', session_user, kept, kept_bytes
        USING ERRCODE = '${LIMIT_EXCEEDED}';
    END IF;
  END IF;
  INSERT INTO verdigris.router AS r (instance, migration, epoch, generation, metrics, version, role, address)
  VALUES (of_instance, of_migration, applied_epoch, applied_generation, counted, of_version, session_user, inet_client_addr())
  ON CONFLICT (instance) DO UPDATE
     SET migration = excluded.migration, epoch = excluded.epoch, generation = excluded.generation,
         metrics = excluded.metrics, version = excluded.version, role = excluded.role, address = excluded.address,
         seen_at = clock_timestamp()
   WHERE coalesce(r.role, session_user) = session_user OR r.seen_at < clock_timestamp() - interval '3 s';
  IF NOT FOUND THEN
    RAISE EXCEPTION 'verdigris: another role reports as instance %', of_instance USING ERRCODE = '${NO_RIGHT}';
  END IF;
END $fn$;
-- The same for an application that does not tell its version.
CREATE OR REPLACE FUNCTION verdigris.router_heartbeat(
  of_migration text, of_instance text, applied_epoch bigint, applied_generation bigint, counted jsonb) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $fn$
  SELECT verdigris.router_heartbeat(of_migration, of_instance, applied_epoch, applied_generation, counted, NULL)
$fn$;

-- The share of users that read from green. Refuses an epoch that is over: a late worker changes nothing.
CREATE OR REPLACE FUNCTION verdigris.set_green_read_percent(
  of_migration text, expected_epoch bigint, percent numeric) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $fn$
DECLARE
  r verdigris.route;
BEGIN
  SELECT * INTO r FROM verdigris.route WHERE migration = of_migration FOR UPDATE;
  IF r.epoch IS DISTINCT FROM expected_epoch THEN
    RAISE EXCEPTION 'verdigris: epoch % is over, the route is at %', expected_epoch, r.epoch USING ERRCODE = '${STALE_EPOCH}';
  END IF;
  IF r.green_read_percent <> percent THEN
    UPDATE verdigris.route SET green_read_percent = percent, generation = generation + 1, updated_at = clock_timestamp()
     WHERE migration = of_migration RETURNING generation INTO r.generation;
    PERFORM pg_notify('${ROUTE_CHANNEL}', '');
  END IF;
  RETURN r.generation;
END $fn$;

-- The decision: in the promotion's transaction on the side that gives writes away, under the exclusive fence lock.
-- No NOTIFY: its COMMIT would wait for a lock that all notifiers of the server share. Whoever decides tells routers later.
CREATE OR REPLACE FUNCTION verdigris.decide(of_migration text, expected_epoch bigint, new_side text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $fn$
DECLARE
  r verdigris.route;
BEGIN
  SELECT * INTO r FROM verdigris.route WHERE migration = of_migration FOR UPDATE;
  IF r.epoch IS DISTINCT FROM expected_epoch OR r.writes_on = new_side THEN
    RAISE EXCEPTION 'verdigris: epoch % is over, the route is at % with writes on %', expected_epoch, r.epoch, r.writes_on
      USING ERRCODE = '${STALE_EPOCH}';
  END IF;
  UPDATE verdigris.route SET writes_on = new_side, epoch = expected_epoch + 1, generation = generation + 1,
         green_read_percent = CASE new_side WHEN 'green' THEN 100 ELSE 0 END, opening = NULL, updated_at = clock_timestamp()
   WHERE migration = of_migration;
END $fn$;

-- Opens this side for the epoch that the other side has decided. Running it again changes nothing, and waits for nothing: a
-- lock on the row would make it a transaction that writes, whose COMMIT may wait for a synchronous standby. An older epoch is
-- refused, so a worker that was frozen and wakes up late opens nothing. No NOTIFY, as in decide().
CREATE OR REPLACE FUNCTION verdigris.open_fence(of_migration text, new_epoch bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $fn$
DECLARE
  r verdigris.route;
BEGIN
  SELECT * INTO r FROM verdigris.route WHERE migration = of_migration;
  IF r.epoch = new_epoch AND r.writes_on = '${side}' AND NOT (${FENCE_IS_CLOSED}) THEN
    RETURN;
  END IF;
  SELECT * INTO r FROM verdigris.route WHERE migration = of_migration FOR UPDATE;
  IF NOT (r.epoch = new_epoch AND r.writes_on = '${side}') THEN
    IF r.epoch IS DISTINCT FROM new_epoch - 1 THEN
      RAISE EXCEPTION 'verdigris: epoch % is over, the route is at %', new_epoch, r.epoch USING ERRCODE = '${STALE_EPOCH}';
    END IF;
    UPDATE verdigris.route SET writes_on = '${side}', epoch = new_epoch, generation = generation + 1,
           green_read_percent = ${side === 'green' ? 100 : 0}, opening = NULL, updated_at = clock_timestamp()
     WHERE migration = of_migration;
  END IF;
  PERFORM setval('verdigris.fence', ${FENCE_OPEN});
END $fn$;

-- Closes this side while the other one has the writes. Refused for an epoch that is over, or where writes are here.
CREATE OR REPLACE FUNCTION verdigris.close_fence(of_migration text, expected_epoch bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $fn$
DECLARE
  r verdigris.route;
BEGIN
  SELECT * INTO r FROM verdigris.route WHERE migration = of_migration FOR UPDATE;
  IF r.epoch IS DISTINCT FROM expected_epoch OR r.writes_on = '${side}' THEN
    RAISE EXCEPTION 'verdigris: epoch % is over, the route is at % with writes on %', expected_epoch, r.epoch, r.writes_on
      USING ERRCODE = '${STALE_EPOCH}';
  END IF;
  PERFORM setval('verdigris.fence', ${FENCE_CLOSED});
END $fn$;

${WHO_MAY_CALL}
${ONLY_OWNERS_WRITE}
`;
}

/**
 * A table of markers. The stream is part of the key, since each publication has a row filter on it, and PostgreSQL asks
 * for the columns of a filter in the replica identity. One that an earlier version left is made anew: it holds nothing
 * that lasts.
 */
function markerDdl(table: string): string {
  return `
DO $do$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_attribute
                  WHERE attrelid = to_regclass('verdigris.${table}') AND attname = 'stream') THEN
    DROP TABLE IF EXISTS verdigris.${table};
    CREATE TABLE verdigris.${table} (
      id text NOT NULL,
      stream integer NOT NULL,
      token text NOT NULL,
      -- How many streams the marker goes by: it has arrived when as many rows are there.
      streams integer NOT NULL,
      at timestamptz NOT NULL DEFAULT clock_timestamp(),
      PRIMARY KEY (id, stream));
  END IF;
END $do$;`;
}

/**
 * One row while a route is as it was, and it stays so until the transaction ends: a migration, the side that has the writes,
 * and the epoch.
 */
export const ROUTE_IS_STILL = `
  SELECT FROM verdigris.route WHERE migration = $1 AND writes_on = $2 AND epoch = $3 FOR SHARE`;

/** Reads the route of a migration; undefined when this database knows none. `forUpdate` locks the row. */
export async function readRoute(session: Session, migration: string, forUpdate = false): Promise<Route | undefined> {
  const { rows } = await session.query<RouteRow>(
    `SELECT migration, epoch::float8, generation::float8, writes_on, green_read_percent::float8, flag, opening
       FROM verdigris.route WHERE migration = $1 ${forUpdate ? 'FOR UPDATE' : ''}`,
    [migration],
  );
  return rows[0] === undefined ? undefined : routeOf(rows[0]);
}

export interface RouteRow {
  migration: string;
  epoch: number;
  generation: number;
  writes_on: Side;
  green_read_percent: number;
  flag: string;
  opening: Side | null;
}

export function routeOf(row: RouteRow): Route {
  return {
    migration: row.migration,
    epoch: row.epoch,
    generation: row.generation,
    writesOn: row.writes_on,
    greenReadPercent: row.green_read_percent,
    flag: row.flag,
    opening: row.opening,
  };
}

/** Whether the schema verdigris is there, and can be read without running what somebody else has put into it. */
export async function hasState(session: Session): Promise<boolean> {
  const { rows } = await session.query<{ there: boolean }>(
    `SELECT to_regclass('verdigris.route') IS NOT NULL AND to_regclass('verdigris.owner') IS NOT NULL
        AND ${IS_PLAIN} AS there`,
  );
  return rows[0]?.there ?? false;
}

export interface Owner {
  readonly runId: string;
  readonly migration: string;
  readonly side: Side;
  /** How the run ended; null while it lives. */
  readonly outcome: string | null;
  /** Over how many streams the tables are spread in each direction: fixed when the run claims the databases. */
  readonly streams: number;
}

interface OwnerRow {
  readonly run_id: string;
  readonly migration: string;
  readonly side: Side;
  readonly outcome: string | null;
  readonly streams: number;
}

/** The run that owns this database, or owned it last; undefined when none ever did. */
export async function readOwner(session: Session): Promise<Owner | undefined> {
  if (!(await hasState(session))) return undefined;
  try {
    // An earlier version's table has no column "streams".
    const { rows } = await session.query<OwnerRow>(
      `SELECT run_id, migration, side, outcome, coalesce((to_jsonb(o) ->> 'streams')::int, 1) AS streams
         FROM verdigris.owner o`,
    );
    const row = rows[0];
    return (
      row && { runId: row.run_id, migration: row.migration, side: row.side, outcome: row.outcome, streams: row.streams }
    );
  } catch (error) {
    // The schema has gone since the look before: a standby replays that at any moment.
    if (sqlState(error) === UNDEFINED_TABLE) return undefined;
    throw error;
  }
}

/** How many streams each direction has in the run that owns this database; 1 where none does. */
export async function readStreamCount(session: Session): Promise<number> {
  return (await readOwner(session))?.streams ?? 1;
}

/** Writes down what was done: for people, and for the report. */
export async function recordEvent(session: Session, runId: string, what: string, detail: object = {}): Promise<void> {
  await session.query('INSERT INTO verdigris.event (run_id, what, detail) VALUES ($1, $2, $3)', [
    runId,
    what,
    JSON.stringify(detail),
  ]);
}

/**
 * Writes down that the writes have moved, once for each epoch: an earlier attempt may have done it, or died before, and a
 * rollback begins by finishing what was decided, which may have been weeks ago.
 */
export async function recordMove(
  session: Session,
  runId: string,
  from: Side,
  detail: { readonly epoch: number },
): Promise<void> {
  await session.query(
    `INSERT INTO verdigris.event (run_id, what, detail) SELECT $1, $2, $3::jsonb
      WHERE NOT EXISTS (SELECT FROM verdigris.event e
                         WHERE e.run_id = $1 AND e.what = $2 AND e.detail -> 'epoch' = $3::jsonb -> 'epoch')`,
    [runId, `writes moved from ${from} to ${otherSide(from)}`, JSON.stringify(detail)],
  );
}

/** Has routers look at this side's route now; those that do not hear of it look by themselves within seconds. */
export async function notifyRouters(session: Session): Promise<void> {
  await session.query(`SELECT pg_notify('${ROUTE_CHANNEL}', '')`);
}
