import type { Session } from '../postgres/session.js';
import { INSTANCE_KEPT_FOR } from '../postgres/state.js';
import { isRouterMetrics, LIVE_SECONDS, type RouterSnapshot, type RouterSnapshots } from './router-snapshot.js';
import { toldName } from './told-name.js';

export type { RouterSnapshot, RouterSnapshots } from './router-snapshot.js';

/** Instances that ended longer ago are of no interest: their counters lie before any window. */
const FORGOTTEN_AFTER = INSTANCE_KEPT_FOR;

/**
 * So many bytes of metrics are read at a time: a thousand times what a process with a hundred endpoints writes. Of those that
 * live first, and of these the small ones; one that is beyond it counts as unreadable, since anybody who can log in may write
 * such rows. Then of those that have ended, the last ones first; what is beyond it is not read.
 */
const READ_BYTES = 50_000_000;
/** So many instances at most are read, those that live first, then the last ones: more than may live at once. */
const READ_ROWS = 50_000;

/** The routers of a migration at one time, and which of them have applied a route. */
export interface RouterSample extends RouterSnapshots {
  /** Names of the live routers that have not said that they follow this route. */
  unconfirmed(epoch: number, generation: number): string[];
  /** Whether there are routers and all of them follow this route. */
  allConfirmed(epoch: number, generation: number): boolean;
  /** The lowest generation that a live router has applied; undefined without live routers. */
  readonly lowestGeneration: number | undefined;
}

/** Reads what the routers have written down, on the side that has writes. */
export async function readRouterSnapshots(
  session: Session,
  migration: string,
  mostRows = READ_ROWS,
): Promise<RouterSample> {
  const { rows } = await session.query<{
    at: Date;
    instance: string | null;
    epoch: number;
    generation: number;
    age_seconds: number;
    metrics: string | null;
  }>(
    `SELECT clock_timestamp() AS at, r.instance, r.epoch::float8 AS epoch, r.generation::float8 AS generation,
            extract(epoch FROM clock_timestamp() - r.seen_at)::float8 AS age_seconds,
            CASE WHEN sum(octet_length(r.metrics))
                        OVER (ORDER BY r.lives DESC, CASE WHEN r.lives THEN octet_length(r.metrics) END, r.seen_at DESC, r.instance) <= $3
                 THEN r.metrics END AS metrics
       FROM (VALUES (true)) AS always (row)
       LEFT JOIN (SELECT instance, epoch, generation, seen_at, metrics::text, lives
                    FROM (SELECT *, seen_at > clock_timestamp() - interval '${LIVE_SECONDS} s' AS lives
                            FROM verdigris.router
                           WHERE migration = $1 AND seen_at > clock_timestamp() - $2::interval
                           ORDER BY lives DESC, seen_at DESC LIMIT $4) latest OFFSET 0) r ON true
      ORDER BY r.instance`,
    [migration, FORGOTTEN_AFTER, READ_BYTES, mostRows],
  );
  const snapshots: RouterSnapshot[] = [];
  const unreadable: string[] = [];
  for (const { instance, epoch, generation, age_seconds: ageSeconds, metrics: text } of rows) {
    if (instance === null) continue;
    const metrics: unknown = text === null ? null : JSON.parse(text);
    if (isRouterMetrics(metrics)) snapshots.push({ instance, epoch, generation, ageSeconds, metrics });
    else if (text !== null || ageSeconds <= LIVE_SECONDS) unreadable.push(toldName(instance));
  }
  return sampleOf({
    at: (rows[0]?.at ?? new Date()).toISOString(),
    live: snapshots.filter(isLive),
    stale: snapshots.filter((snapshot) => !isLive(snapshot)),
    unreadable,
  });
}

function isLive({ ageSeconds, metrics }: RouterSnapshot): boolean {
  return ageSeconds <= LIVE_SECONDS && metrics.ended !== true;
}

/** Adds the questions to what was read. */
export function sampleOf(snapshots: RouterSnapshots): RouterSample {
  const { live } = snapshots;
  const unconfirmed = (epoch: number, generation: number): string[] =>
    live
      // A router that is at another epoch follows another route, an older or a newer one.
      .filter((router) => router.epoch !== epoch || router.generation < generation)
      .map((router) => toldName(router.instance));
  return {
    ...snapshots,
    unconfirmed,
    allConfirmed: (epoch, generation) => live.length > 0 && unconfirmed(epoch, generation).length === 0,
    lowestGeneration: live.length === 0 ? undefined : Math.min(...live.map((router) => router.generation)),
  };
}
