import type { Confirmed } from '../gates/instances.js';
import { VerdigrisError } from '../errors.js';
import type { Session } from './session.js';
import { readRoute, ROUTE_CHANNEL, type Route } from './state.js';

/**
 * Sets the share of the users that read from green, where the route is still the one that was read: a worker that was
 * frozen since then moves nobody. Each setting is a generation of its own, also one that changes no share, so that two
 * workers never take one and the same for theirs.
 *
 * @param notAfter ms since 1970 by blue's clock: a worker that was frozen until then moves nobody either. Default: never
 * @returns the new generation; undefined when the route has been changed meanwhile, or it is too late: nothing has
 * happened then
 */
export async function setGreenReads(
  blue: Session,
  { migration, epoch, generation }: Confirmed,
  percent: number,
  notAfter: number | null = null,
): Promise<number | undefined> {
  const { rows } = await blue.query<{ generation: number }>(
    `WITH changed AS (
       UPDATE verdigris.route SET green_read_percent = $4, generation = generation + 1, updated_at = clock_timestamp()
        WHERE migration = $1 AND epoch = $2 AND generation = $3 AND writes_on = 'blue'
          AND ($5::float8 IS NULL OR extract(epoch FROM clock_timestamp()) * 1000 <= $5::float8) RETURNING generation)
     SELECT generation::float8 AS generation, pg_notify('${ROUTE_CHANNEL}', '') FROM changed`,
    [migration, epoch, generation, percent, notAfter],
  );
  return rows[0]?.generation;
}

/**
 * Takes all reads back to blue, whatever share is in force. But a share that has come into effect since that was asked for
 * is not meant: another worker has taken them back by then, and the run has opened a stage again, while this one was frozen.
 *
 * @param askedFor when, by performance.now()
 * @returns the route then; undefined where writes are not on blue, or blue knows no route
 * @throws VerdigrisError StaleEpoch (retryable: where they are still wanted on blue, the next attempt is a later one)
 */
export async function takeReadsBack(blue: Session, migration: string, askedFor: number): Promise<Route | undefined> {
  // Behind the lock of whoever is about to change it, whose COMMIT may wait for a replica.
  const route = await readRoute(blue, migration, true);
  if (route?.writesOn !== 'blue') return undefined;
  if (route.greenReadPercent === 0) return route;
  if (await isYounger(blue, route, askedFor)) throw changedSince();
  const generation = await setGreenReads(blue, route, 0);
  if (generation === undefined) throw changedSince();
  return { ...route, generation, greenReadPercent: 0 };
}

/** By blue's clock and our own, each measured against itself. One that was set back says nothing. */
async function isYounger(blue: Session, { migration }: Route, askedFor: number): Promise<boolean> {
  const { rows } = await blue.query<{ ms: number }>(
    `SELECT extract(epoch FROM clock_timestamp() - updated_at)::float8 * 1000 AS ms
       FROM verdigris.route WHERE migration = $1`,
    [migration],
  );
  const age = rows[0]?.ms ?? 0;
  return age >= 0 && age < performance.now() - askedFor;
}

function changedSince(): VerdigrisError {
  return new VerdigrisError({
    type: 'StaleEpoch',
    message: 'reads are left as they are: the route has been changed since they were to go back to blue',
    nextStep: 'nothing: where they are still to go back, that is tried again',
    retryable: true,
  });
}

/** Whether the route is still that one. Within a transaction it stays so until its end. */
export async function isInForce(blue: Session, { migration, epoch, generation }: Confirmed): Promise<boolean> {
  const { rowCount } = await blue.query(
    `SELECT FROM verdigris.route
      WHERE migration = $1 AND epoch = $2 AND generation = $3 AND writes_on = 'blue' FOR SHARE`,
    [migration, epoch, generation],
  );
  return rowCount === 1;
}

/**
 * Whether the route is still the one that the run has begun with: each share of reads is a generation, and each move of the
 * writes an epoch. False where that is not known any more.
 */
export async function isAsClaimed(blue: Session, runId: string, { epoch, generation }: Confirmed): Promise<boolean> {
  if (generation !== 1) return false;
  const { rows } = await blue.query(
    `SELECT FROM verdigris.owner o JOIN verdigris.event e USING (run_id)
      WHERE o.run_id = $1 AND e.what = 'claimed blue' AND (e.detail ->> 'epoch')::float8 = $2`,
    [runId, epoch],
  );
  return rows.length > 0;
}

/** While green had a share of the reads, by blue's clock. */
export interface SharePeriod {
  /** How long ago its first stage came into effect, s. */
  readonly beganAgo: number;
  /** How long ago it was seen that the reads are back on blue, s. */
  readonly endedAgo: number;
}

/** Step of verdigris.progress: when the reads went back last, and since when green had a share then. */
const READS_BACK = 'reads back';

/**
 * The period that has ended now that the reads are back on blue, or ended last: only one is kept, and asking again changes
 * nothing before another stage is opened.
 *
 * @returns undefined where no stage of this run was ever open
 */
export async function endSharePeriod(blue: Session, runId: string): Promise<SharePeriod | undefined> {
  await blue.query(
    `INSERT INTO verdigris.progress (run_id, step, object, state, done)
     SELECT $1, $2, 'green', jsonb_build_object('since', min(opened.at)), true
       FROM (SELECT (state ->> 'openedAt')::timestamptz AS at FROM verdigris.progress
              WHERE run_id = $1 AND step = 'stage') AS opened
      WHERE opened.at > coalesce((SELECT max(updated_at) FROM verdigris.progress WHERE run_id = $1 AND step = $2), '-infinity')
     HAVING count(*) > 0
     ON CONFLICT (run_id, step, object) DO UPDATE SET state = excluded.state, updated_at = clock_timestamp()`,
    [runId, READS_BACK],
  );
  const { rows } = await blue.query<SharePeriod>(
    `SELECT extract(epoch FROM clock_timestamp() - (state ->> 'since')::timestamptz)::float8 AS "beganAgo",
            extract(epoch FROM clock_timestamp() - updated_at)::float8 AS "endedAgo"
       FROM verdigris.progress WHERE run_id = $1 AND step = $2`,
    [runId, READS_BACK],
  );
  return rows[0];
}
