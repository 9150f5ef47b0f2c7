import type { Session } from '../postgres/session.js';
import { LIVE_WITHIN_MS } from './instances.js';
import { toldName } from './told-name.js';

/**
 * A live instance that follows an earlier migration of this database. It knows nothing of the next one: when that moves the
 * writes, its own meet the fence and have nowhere to go.
 */
export interface OtherFollower {
  readonly instance: string;
  readonly migration: string;
  /** Whether it has written anything since it started. */
  readonly hasWritten: boolean;
  /** Who has logged in to report it; null in a run that an earlier version has begun. */
  readonly role: string | null;
}

/**
 * Those that follow another migration than this one, on the side that has writes; schema verdigris must be there. A run that begins
 * empties the table: those who live are back within a second.
 */
export async function readOtherFollowers(
  session: Session,
  migration: string,
  liveWithinMs = LIVE_WITHIN_MS,
): Promise<OtherFollower[]> {
  const { rows } = await session.query<OtherFollower>(
    // An earlier version's table has no column "role".
    `SELECT r.instance, r.migration, to_jsonb(r) ->> 'role' AS role,
            coalesce(jsonb_path_exists(r.metrics, '$.writes.*.requests ? (@ > 0)'), false) AS "hasWritten"
       FROM verdigris.router r
      WHERE r.migration <> $1 AND r.seen_at > clock_timestamp() - $2::float8 * interval '1 ms'
        AND NOT r.metrics ? 'ended'
      ORDER BY r.migration, r.instance`,
    [migration, liveWithinMs],
  );
  return rows;
}

/** `web-1-0a1b2c (orders-2025, role app), web-2-3d4e5f (orders-2025, role app) and 3 more` */
export function describeFollowers(followers: readonly OtherFollower[]): string {
  const names = followers
    .slice(0, NAMED)
    .map(
      ({ instance, migration, role }) =>
        `${toldName(instance)} (${toldName(migration)}${role === null ? '' : `, role ${role}`})`,
    );
  const more = followers.length > NAMED ? ` and ${followers.length - NAMED} more` : '';
  return `${names.join(', ')}${more}`;
}

const NAMED = 10;
