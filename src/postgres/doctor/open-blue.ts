import pg from 'pg';
import { VerdigrisError } from '../../errors.js';
import { readMovedSequences } from '../catalog-sequences.js';
import { dropSubscriptions } from '../feed-objects.js';
import { feedName } from '../feed.js';
import { TAKE_FENCE_LOCK } from '../fence.js';
import { asActor } from '../ownership.js';
import { retryOnLock } from '../retry.js';
import { readWithheldSequences } from '../sequence-rights.js';
import { closeSession, inTransaction, openSession, type Database, type Databases, type Session } from '../session.js';
import { notifyRouters, recordEvent } from '../state.js';
import { DOCTOR, type Found, type Inventory, type Patterns } from './inventory.js';
import { refuseLiving, type Liveness } from './liveness.js';
import { moveSequences } from './sequences-of-blue.js';
import { isClosed, mixUp } from './who-is-primary.js';

/*
 * Green had the writes and is lost for good. Nothing opens blue by itself then: nobody can fence a server that does not
 * answer. A person who knows that green is gone opens blue, and loses what had not arrived there.
 */

/** What is written down as the end of a run whose green was lost: blue's route row alone says where writes are. */
export const GREEN_LOST = 'greenLost';

/** How many sequences are named. */
const SHOWN = 8;

/** A worker that has heard from green within this has a connection to it, ms; PostgreSQL gives one up after as long. */
const STILL_HEARS_MS = 60_000;

export type OpenBluePlan =
  | { readonly refused: true; readonly why: string; readonly next: string }
  | {
      readonly refused: false;
      readonly migration: string;
      readonly runId: string;
      /** Of the decision that gave the writes to green. */
      readonly epoch: number;
      /** What blue does not have, in words. */
      readonly loses: string;
      /** Which tables the run moved, as far as is known: their sequences go on beyond the rows. */
      readonly patterns: Patterns;
    };

/** What else ends a run can't be had here. */
const END_IT = 'terminate it first (temporal workflow terminate): a rollback would wait for the green that is gone';

/**
 * Whether blue may be opened without green, and what would be lost. Changes nothing.
 *
 * @param confirmed the name of the migration, by which a person says that its green is gone
 * @param patterns which tables the run moved; all where no plan says otherwise
 */
export async function planOpeningBlue(
  databases: Databases,
  found: Found,
  liveness: Liveness,
  confirmed: string,
  patterns: Patterns,
): Promise<OpenBluePlan> {
  const { blue } = found;
  if (!blue.reached) return refused(`blue can't be reached: ${blue.why}`, 'bring blue back first');
  const mixedUp = mixUp(found);
  if (mixedUp !== undefined) return refused(mixedUp.why, mixedUp.next);
  const { owner, route } = blue.inventory;
  if (owner === null || route === null) {
    return refused('blue knows no run of Verdigris', 'nothing of Verdigris keeps anybody from writing there');
  }
  if (owner.migration !== confirmed) {
    return refused(
      `the confirmation is not the name of the migration (it is "${owner.migration}")`,
      'write the name of the migration whose green is gone: it is asked so that no other one is hit',
    );
  }
  const living = refuseLiving(liveness);
  if (living !== undefined)
    return refused(living.why, liveness.state === 'lives' ? (liveness.next ?? END_IT) : living.next);
  const answer = found.green.reached ? 'it can be reached' : await whoAnswers(databases.green);
  if (answer !== undefined) {
    return refused(
      `green answers: ${answer}`,
      'see verdigris doctor --who-is-primary; a green that answers gives its writes back by a rollback, without losing one',
    );
  }
  const already = notGivenAway(blue.inventory);
  if (already !== undefined) return already;
  const session = await openSession(databases.blue, { purpose: DOCTOR });
  try {
    const heard = await lastHeard(session, owner.migration);
    if (heard !== undefined) {
      return refused(
        `blue still hears from green, at ${heard} UTC last: only this machine can't reach it`,
        'mend the connection from here; if green has died this minute, ask again when blue has noticed',
      );
    }
    const withheld = await readWithheldSequences(session, await readMovedSequences(session, patterns));
    if (withheld !== undefined) {
      return refused(
        `the user "${withheld.user}" may not set sequences of blue (${withheld.names.slice(0, SHOWN).join(', ')}): they would give values out again that rows of green have`,
        `on blue: ${withheld.grants}; then ask again`,
      );
    }
    const loses = await whatBlueLacks(session, owner.migration);
    return { refused: false, migration: owner.migration, runId: owner.runId, epoch: route.epoch, loses, patterns };
  } finally {
    await closeSession(session);
  }
}

/**
 * Opens blue for an epoch that is beyond every one that green can know, so that a green that comes back is seen to be
 * overtaken. Green's feed ends first: it would bring old values over what is written on blue from now on. Sequences go on
 * beyond the rows. Looks before it acts; broken off, it is run again.
 *
 * @returns the epoch that blue has the writes in, and which sequences do not go beyond all of their rows, in words.
 * @throws VerdigrisError StaleEpoch when the route has moved on since the look.
 */
export async function openBlue(
  databases: Databases,
  { migration, runId, epoch, loses, patterns }: Extract<OpenBluePlan, { refused: false }>,
): Promise<{ readonly epoch: number; readonly leaves: readonly string[] }> {
  // Whoever acts on blue still loses its session.
  return asActor(databases.blue, `${DOCTOR} open`, async (blue) => {
    await recordEvent(blue, runId, 'green is gone: blue is to be opened', { epoch, loses });
    await dropSubscriptions(blue, feedName(migration, 'to_blue'));
    const leaves = await moveSequences(blue, runId, patterns);
    const next = await retryOnLock(() => takeWritesBack(blue, migration, runId, epoch));
    // After the COMMIT, since a flag is not undone with its transaction. Blue's own row says by now that it has the writes:
    // one that is left closed here is opened by `doctor --open`.
    await blue.query('SELECT verdigris.open_fence($1, $2)', [migration, next]);
    await notifyRouters(blue);
    return { epoch: next, leaves };
  });
}

/** Beyond the epoch in which green may have given the writes back unheard, and beyond that of a later claim of green. */
async function takeWritesBack(blue: Session, migration: string, runId: string, epoch: number): Promise<number> {
  return inTransaction(blue, async () => {
    await blue.query(TAKE_FENCE_LOCK);
    const { rows } = await blue.query<{ epoch: number }>(
      `UPDATE verdigris.route
          SET writes_on = 'blue', epoch = GREATEST(epoch + 2, floor(extract(epoch FROM clock_timestamp()))::bigint),
              generation = generation + 1, green_read_percent = 0, opening = NULL, updated_at = clock_timestamp()
        WHERE migration = $1 AND epoch = $2 AND writes_on = 'green' RETURNING epoch::float8`,
      [migration, epoch],
    );
    const next = rows[0]?.epoch;
    if (next === undefined) {
      throw new VerdigrisError({
        type: 'StaleEpoch',
        message: `blue's route has moved on from epoch ${epoch} with writes on green: blue is left as it is`,
        nextStep: 'see verdigris doctor --who-is-primary',
      });
    }
    await blue.query('UPDATE verdigris.owner SET outcome = $2, ended_at = clock_timestamp() WHERE run_id = $1', [
      runId,
      GREEN_LOST,
    ]);
    await recordEvent(blue, runId, `ended: ${GREEN_LOST}`, { epoch: next });
    await notifyRouters(blue);
    return next;
  });
}

function refused(why: string, next: string): OpenBluePlan {
  return { refused: true, why, next };
}

/** Blue has its writes by its own row, or is in the middle of something. */
function notGivenAway(blue: Inventory): OpenBluePlan | undefined {
  const { route, settled } = blue;
  if (!settled) return refused('blue is in the last step of a promotion', 'ask again in a few seconds');
  if (route?.writesOn !== 'blue') return undefined;
  return isClosed(blue)
    ? refused('blue has the writes by its own row, and is only closed', 'verdigris doctor --open --yes')
    : refused('blue has the writes by its own row: it needs no opening', 'nothing');
}

/** A server that refuses, or is still starting, is not gone. Undefined when there is no answer at all. */
async function whoAnswers(green: Database): Promise<string | undefined> {
  try {
    await closeSession(await openSession(green, { purpose: DOCTOR, statementTimeoutMs: 10_000 }));
    return 'it can be reached';
  } catch (error) {
    for (let one: unknown = error; one instanceof Error; one = one.cause) {
      if (one instanceof pg.DatabaseError) return `${one.message}${one.code === undefined ? '' : ` (${one.code})`}`;
    }
    return undefined;
  }
}

/** When blue's own workers have heard from green, if that was just now. */
async function lastHeard(blue: Session, migration: string): Promise<string | undefined> {
  const { rows } = await blue.query<{ at: string }>(
    `SELECT to_char(max(last_msg_receipt_time), 'YYYY-MM-DD HH24:MI:SS') AS at FROM pg_stat_subscription
      WHERE (subname = $1 OR subname ~ ('^' || $1 || '_[0-9]+$')) AND pid IS NOT NULL
        AND last_msg_receipt_time > clock_timestamp() - $2 * interval '1 ms'
     HAVING count(*) > 0`,
    [feedName(migration, 'to_blue'), STILL_HEARS_MS],
  );
  return rows[0]?.at;
}

/**
 * What was written on green and has not arrived, by what blue has: the time of green's last marker, before which it has
 * everything, and the position in green's WAL up to which its feed has come. All of these markers count: the claim has
 * emptied their table, and none comes before green has the writes. Their time is green's, so blue's clock says nothing of it.
 */
async function whatBlueLacks(blue: Session, migration: string): Promise<string> {
  const { rows } = await blue.query<{ marker: string | null; decided: string; positions: string[] | null }>(
    `SELECT (SELECT to_char(max(at), 'YYYY-MM-DD HH24:MI:SS.MS')
               FROM (SELECT min(at) AS at FROM verdigris.marker_to_blue
                      GROUP BY token HAVING count(*) = max(streams)) m) AS marker,
            to_char(r.updated_at, 'YYYY-MM-DD HH24:MI:SS.MS') AS decided,
            (SELECT array_agg(pg_replication_origin_progress(o.roname, true)::text ORDER BY s.subname)
               FROM pg_subscription s JOIN pg_replication_origin o ON o.roname = 'pg_' || s.oid
              WHERE s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
                AND (s.subname = $2 OR s.subname ~ ('^' || $2 || '_[0-9]+$'))) AS positions
       FROM verdigris.route r WHERE r.migration = $1`,
    [migration, feedName(migration, 'to_blue')],
  );
  const { marker = null, decided = '', positions = null } = rows[0] ?? {};
  const upTo = (positions ?? []).filter((one) => one !== null && one !== '0/0');
  const since =
    marker === null
      ? `everything that was written on green since it was given the writes at ${decided} UTC`
      : `everything that was written on green after ${marker} UTC by green's clock`;
  return upTo.length === 0 ? since : `${since}, but for what its feed had brought, up to ${upTo.join(', ')} of its WAL`;
}
