import type { Side } from '../../side.js';
import { isHeldAlone } from '../locks.js';
import { BEGIN, type Session } from '../session.js';
import { LOCK_NOT_AVAILABLE, sqlState } from '../sqlstate.js';
import { FENCE_LOCK, FENCE_OPEN, hasState, readRoute, type Route } from '../state.js';

/**
 * What is written down as the end of a run on a side that a person has released by name, before its fence goes: broken off
 * there, the release is known for what it is, and can be gone on with.
 */
export const RELEASED = 'released';

/** The run that owns a database, or owned it last. */
export interface OwnerFound {
  readonly runId: string;
  readonly migration: string;
  readonly side: Side;
  readonly claimedAt: string;
  readonly endedAt: string | null;
  /** How the run ended; null when nobody has written that down. */
  readonly outcome: string | null;
  /** The epoch that the run began with; null when that is not known any more. */
  readonly claimedEpoch: number | null;
}

export interface RouterFound {
  readonly instance: string;
  readonly epoch: number;
  readonly secondsAgo: number;
  /** Who has logged in to report it, and from where; null where that is not known. */
  readonly from: string | null;
}

/** A session that has the fence's lock alone. */
export interface Settling {
  readonly pid: number;
  readonly seconds: number;
  /** Its COMMIT waits for a synchronous standby, which no timeout ends, nor the end of its client. */
  readonly awaitsStandby: boolean;
}

/** What schema verdigris says; all null when it is not there. */
export interface StateObjects {
  readonly schema: boolean;
  readonly owner: OwnerFound | null;
  /** Of the owner's migration. */
  readonly route: Route | null;
  /** The flag alone, whatever the triggers. */
  readonly fenceOpen: boolean | null;
  /** False when route and flag could not be read together: a promotion held its lock. */
  readonly settled: boolean;
  /** Then: who had it. Absent where nobody had it any more, or that can't be seen. */
  readonly settling?: Settling;
  readonly routers: readonly RouterFound[];
  readonly events: readonly { readonly at: string; readonly what: string }[];
}

const NOTHING: Omit<StateObjects, 'schema'> = {
  owner: null,
  route: null,
  fenceOpen: null,
  settled: true,
  routers: [],
  events: [],
};

export async function readStateObjects(session: Session): Promise<StateObjects> {
  const { rowCount } = await session.query(`SELECT FROM pg_namespace WHERE nspname = 'verdigris'`);
  if (rowCount === 0) return { schema: false, ...NOTHING };
  if (!(await hasState(session))) return { schema: true, ...NOTHING };
  const owner = await readOwnerFound(session);
  const routers = await session.query<RouterFound>(
    // An earlier version's table has no columns "role" and "address".
    `SELECT instance, epoch::float8, round(extract(epoch FROM clock_timestamp() - seen_at))::float8 AS "secondsAgo",
            nullif(concat_ws(', ', 'role ' || (to_jsonb(r) ->> 'role'), to_jsonb(r) ->> 'address'), '') AS from
       FROM verdigris.router r ORDER BY seen_at DESC`,
  );
  const events = await session.query<{ at: string; what: string }>(
    'SELECT at::text, what FROM verdigris.event ORDER BY id DESC LIMIT 5',
  );
  return {
    schema: true,
    owner,
    ...(await readRouteAndFlag(session, owner?.migration)),
    routers: routers.rows,
    events: events.rows,
  };
}

async function readOwnerFound(session: Session): Promise<OwnerFound | null> {
  const { rows } = await session.query<OwnerFound>(
    // Its first claim: a run that was reset has claimed again, at an epoch beyond that of its promotion.
    `SELECT o.run_id AS "runId", o.migration, o.side, o.claimed_at::text AS "claimedAt", o.ended_at::text AS "endedAt",
            o.outcome,
            (SELECT (e.detail ->> 'epoch')::float8 FROM verdigris.event e
              WHERE e.run_id = o.run_id AND e.what = 'claimed ' || o.side ORDER BY e.id LIMIT 1) AS "claimedEpoch"
       FROM verdigris.owner o`,
  );
  return rows[0] ?? null;
}

/**
 * Route and flag as a writer would find them: behind the fence's lock in shared mode. A promotion writes both under that
 * lock, so a COMMIT that is on its way is waited for; a plain read could still say the old side.
 */
export async function readRouteAndFlag(
  session: Session,
  migration: string | undefined,
): Promise<Pick<StateObjects, 'route' | 'fenceOpen' | 'settled' | 'settling'>> {
  const settled = await session
    .query(
      `${BEGIN}; SET LOCAL lock_timeout = '${LOCK_TIMEOUT_MS}ms'; SELECT pg_advisory_xact_lock_shared(${FENCE_LOCK})`,
    )
    .then(
      () => true,
      (error: unknown) => {
        if (sqlState(error) === LOCK_NOT_AVAILABLE) return false;
        throw error;
      },
    );
  try {
    if (!settled) await session.query('ROLLBACK');
    const route = migration === undefined ? undefined : await readRoute(session, migration);
    const { rows } = await session.query<{ open: boolean }>(
      `SELECT last_value = ${FENCE_OPEN} AS open FROM verdigris.fence`,
    );
    const settling = settled ? undefined : await readSettling(session);
    const seen = { route: route ?? null, fenceOpen: rows[0]?.open ?? null, settled };
    return settling === undefined ? seen : { ...seen, settling };
  } finally {
    if (settled) await session.query('ROLLBACK').catch(() => undefined);
  }
}

async function readSettling(session: Session): Promise<Settling | undefined> {
  const { rows } = await session.query<Settling>(
    `SELECT a.pid, coalesce(extract(epoch FROM clock_timestamp() - a.xact_start), 0)::float8 AS seconds,
            coalesce(a.wait_event = 'SyncRep', false) AS "awaitsStandby"
       FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE ${isHeldAlone(FENCE_LOCK)}`,
  );
  return rows[0];
}

/** Longer than a hold lasts by default. */
const LOCK_TIMEOUT_MS = 3_000;
