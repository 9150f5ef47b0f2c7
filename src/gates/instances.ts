import { isAtLeast } from '../plan/version.js';
import type { Session } from '../postgres/session.js';
import type { Side } from '../side.js';
import { toldName } from './told-name.js';

/** A process of the application that follows the route: a router, or a provider of the flag. */
export interface Instance {
  readonly instance: string;
  /** What the application calls the process: routers and providers of one process may share it. */
  readonly name: string;
  /** What the application calls its version; null when it does not tell. */
  readonly version: string | null;
  readonly epoch: number;
  readonly generation: number;
  /** Sides that it has no connection to. */
  readonly lacks: readonly Side[];
  /** Who has logged in to report it: anybody who can log in may. Null in a run that an earlier version has begun. */
  readonly role: string | null;
  /** How long ago it was heard of, by the database's clock. */
  readonly ageSeconds: number;
}

/** An instance that has not been heard of for so long has ended or is cut off; each reports every second. */
export const LIVE_WITHIN_MS = 5_000;

/**
 * The live instances of a migration, on the side that has writes. One whose counters nobody can read is listed too: it
 * has users.
 */
export async function readInstances(
  session: Session,
  migration: string,
  liveWithinMs = LIVE_WITHIN_MS,
): Promise<Instance[]> {
  const { rows } = await session.query<{
    instance: string;
    name: string;
    version: string | null;
    epoch: number;
    generation: number;
    lacks: Side[];
    role: string | null;
    age_seconds: number;
  }>(
    // An earlier version's table has no column "version", or no "role". Metrics are whatever somebody has given.
    `SELECT r.instance, coalesce(left(r.metrics ->> 'name', 300), r.instance) AS name, j.row ->> 'version' AS version, r.epoch::float8 AS epoch,
            r.generation::float8 AS generation,
            ARRAY(SELECT side FROM unnest(ARRAY['blue', 'green']) AS side
                   WHERE jsonb_typeof(r.metrics -> 'lacks') = 'array' AND r.metrics -> 'lacks' ? side) AS lacks,
            j.row ->> 'role' AS role,
            extract(epoch FROM clock_timestamp() - r.seen_at)::float8 AS age_seconds
       FROM verdigris.router r CROSS JOIN LATERAL (SELECT to_jsonb(r) AS row OFFSET 0) j
      WHERE r.migration = $1 AND r.seen_at > clock_timestamp() - $2::float8 * interval '1 ms'
        AND NOT r.metrics ? 'ended'
      ORDER BY r.instance`,
    [migration, liveWithinMs],
  );
  return rows.map(({ age_seconds: ageSeconds, instance, name, version, ...row }) => ({
    ...row,
    instance: toldName(instance),
    name: toldName(name),
    version: version === null ? null : toldName(version),
    ageSeconds,
  }));
}

/** The route that instances must follow. */
export interface Confirmed {
  readonly migration: string;
  readonly epoch: number;
  readonly generation: number;
}

/**
 * Names of the live instances that have not said that they follow this route, or a later one of the same epoch. A stage,
 * and a stage that was taken back, is in effect when there are none.
 */
export async function unconfirmedInstances(
  session: Session,
  { migration, epoch, generation }: Confirmed,
  liveWithinMs = LIVE_WITHIN_MS,
): Promise<string[]> {
  const instances = await readInstances(session, migration, liveWithinMs);
  return instances.filter((one) => one.epoch !== epoch || one.generation < generation).map((one) => one.instance);
}

/** What must be deployed before users are sent to green. */
export interface Deployment {
  /** The least version: see isAtLeast. */
  readonly minVersion?: string | undefined;
  /** How many instances there must be at least; those of one name count as one. */
  readonly atLeast?: number | undefined;
}

/** What speaks against "the code that works with both schemas is deployed", in words; empty when nothing does. */
export function deploymentFaults(instances: readonly Instance[], { minVersion, atLeast = 1 }: Deployment): string[] {
  const faults: string[] = [];
  const reporting = new Set(instances.map(({ name }) => name)).size;
  if (reporting < atLeast) faults.push(`${reporting} of at least ${atLeast} instances of the application report`);
  if (minVersion === undefined) return faults;
  const verdicts = instances.map(
    (one) => [one, one.version === null ? false : isAtLeast(one.version, minVersion)] as const,
  );
  const names = (wanted: boolean | undefined): string[] =>
    verdicts.flatMap(([one, isThere]) => (isThere === wanted ? [nameOf(one)] : []));
  const [old, unknown] = [names(false), names(undefined)];
  if (old.length > 0) faults.push(`not at version ${minVersion}: ${listed(old)}`);
  // What can't be compared is never new enough: old code would read a green that it does not know.
  if (unknown.length > 0) {
    faults.push(
      `with a version that can't be compared with ${minVersion} (write one such as 2.1.0): ${listed(unknown)}`,
    );
  }
  return faults;
}

/** Names of the instances, with versions and roles where they are known, that have no connection to a side. */
export function cutOffFrom(side: Side, instances: readonly Instance[]): string | undefined {
  const cutOff = instances.filter(({ lacks }) => lacks.includes(side));
  return cutOff.length === 0 ? undefined : listed(cutOff.map(nameOf));
}

/** As people look for it. */
function nameOf({ instance, version, role }: Instance): string {
  const known = [version === null ? [] : [`version ${version}`], role === null ? [] : [`role ${role}`]].flat();
  return known.length === 0 ? instance : `${instance} (${known.join(', ')})`;
}

function listed(names: readonly string[]): string {
  return names.length <= 10 ? names.join(', ') : `${names.slice(0, 10).join(', ')} and ${names.length - 10} more`;
}
