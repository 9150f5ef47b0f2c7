import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { readReaders } from './following.js';
import { waitForMarker, writeMarker } from './marker.js';
import { readProgress, writeProgress, type ProgressKey, type ProgressRow } from './migrate/progress-row.js';
import { walPosition } from './server-position.js';
import type { Session } from './session.js';
import { describeSlotReader, readSlotReader } from './slot-readers.js';
import { readSubscription } from './subscription.js';
import { readLastPass } from './verify/last-pass.js';

/*
 * A copy of blue has blue's subscription to green, enabled: a server that was restored from a backup, or a read replica that
 * was promoted. It takes the slot when blue's worker is gone for a moment, and what it is sent never comes to blue. The slot
 * moves on as if blue followed, and when the copy is gone blue goes on behind what that has taken.
 *
 * A reader confirms what is on its disk. So a marker that the slot is past, and blue lacks, was taken by somebody else; and so
 * was one that blue lacks when a later one has arrived.
 */

/** The way back, as it is watched. */
export interface WayBack {
  readonly runId: string;
  readonly green: Session;
  readonly blue: Session;
  /** Its streams, in their order: names of slots on green and of subscriptions on blue. */
  readonly names: readonly string[];
  /** When blue was last seen to have everything, as in GreenPosition. Default: never */
  readonly confirmedAt: string | undefined;
}

export interface Followed {
  /** Time that a marker has taken, ms; Infinity where it has not arrived. */
  readonly lagMs: number;
  /** Why blue lacks what somebody else has read from a slot; undefined where nothing proves it. */
  readonly taken: string | undefined;
}

/** How often it is looked, while a marker does not arrive, whether it was taken, ms: a reader has confirmed it by then. */
const LOOK_EVERY_MS = 2_000;

/** Measures how far blue is behind, as measureLag() does, and sees whether somebody else has taken what is for blue. */
export async function followMarker(feed: WayBack, timeoutMs: number, signal?: AbortSignal): Promise<Followed> {
  const { green, blue, runId } = feed;
  const before = await readMarkers(feed);
  const started = performance.now();
  const token = await writeMarker(green, 'to_blue', markerId(green));
  const lsn = await readInsertLsn(green);
  for (;;) {
    const left = timeoutMs - (performance.now() - started);
    const isThere = await waitForMarker(blue, 'to_blue', token, Math.min(left, LOOK_EVERY_MS), signal);
    const lagMs = isThere ? performance.now() - started : Number.POSITIVE_INFINITY;
    const slot = isThere ? await overtaken(feed, before) : await passedUnseen(feed, token, lsn);
    if (!isThere && slot === undefined && left > LOOK_EVERY_MS) continue;
    if (!isThere) ids.delete(green);
    // What has arrived has come by a worker of blue's: whoever has taken something is gone.
    if (slot !== undefined) await noteTaken(feed, slot, isThere ? undefined : await readOther(feed, slot));
    return { lagMs, taken: await whyTaken(green, runId) };
  }
}

/** Begins the ids of the markers of whoever watches the way back. */
const WATCH = 'standby ';
const AWAY = `${WATCH}away `;

/**
 * Of the markers of a session. One that has not arrived keeps its row, and the next one gets a row of its own, by an id that
 * nobody has had: somebody else may still take it, which a later version of the row would hide, or never come to blue for
 * want of an earlier one.
 */
const ids = new WeakMap<Session, string>();

function markerId(green: Session): string {
  const id = ids.get(green) ?? `${WATCH}${randomUUID()}`;
  ids.set(green, id);
  return id;
}

/**
 * Writes a marker by which it shows later whether something was taken while blue is away. One for each that has the slots in
 * that time: blue itself may have got the others.
 */
export async function markAway(feed: Omit<WayBack, 'blue'>): Promise<void> {
  const pids = await readReaders(feed.green, feed.names);
  const readers = feed.names.map((name) => pids.get(name) ?? 'nobody').join(' ');
  const markers = await readMarkers(feed);
  if (markers.some(({ id }) => id.startsWith(AWAY) && id.endsWith(` for ${readers}`))) return;
  await writeMarker(feed.green, 'to_blue', `${AWAY}${randomUUID()} for ${readers}`);
}

interface MarkerRow {
  readonly id: string;
  readonly token: string;
  readonly stream: number;
}

/** Those of whoever watches, since blue had everything or was seen to lack something. That moment is known to the second. */
async function readMarkers({ green, runId, confirmedAt }: Omit<WayBack, 'blue'>): Promise<readonly MarkerRow[]> {
  const taken = await readTaken(green, runId);
  const { rows } = await green.query<MarkerRow>(
    `SELECT id, token, stream FROM verdigris.marker_to_blue
      WHERE id LIKE $1 AND at > greatest($2::timestamp, $3::timestamp) AT TIME ZONE 'UTC' + interval '1 s'`,
    [`${WATCH}%`, confirmedAt ?? '-infinity', taken?.state.at ?? '-infinity'],
  );
  return rows;
}

/** What is committed now is before it. */
async function readInsertLsn(session: Session): Promise<string> {
  const { rows } = await session.query<{ lsn: string }>('SELECT pg_current_wal_insert_lsn()::text AS lsn');
  return rows[0]?.lsn ?? '0/0';
}

/** The slot of one of these markers that blue lacks: one that was written after them has arrived. */
async function overtaken({ green, blue, names }: WayBack, markers: readonly MarkerRow[]): Promise<string | undefined> {
  const lacking = await lackedBy(blue, markers);
  if (lacking.length === 0) return undefined;
  // One that was written anew since is on its way.
  const { rows } = await green.query<{ token: string }>(
    'SELECT token FROM verdigris.marker_to_blue WHERE token = ANY ($1)',
    [lacking.map(({ token }) => token)],
  );
  const lost = lacking.find((marker) => rows.some(({ token }) => token === marker.token));
  return lost && names[lost.stream - 1];
}

/** The slot that is past this marker, which blue lacks. */
async function passedUnseen({ green, blue, names }: WayBack, token: string, lsn: string): Promise<string | undefined> {
  const { rows } = await green.query<{ name: string }>(
    `SELECT slot_name AS name FROM pg_replication_slots
      WHERE slot_name = ANY ($1) AND database = current_database() AND confirmed_flush_lsn >= $2::pg_lsn`,
    [names, lsn],
  );
  const [lost] = await lackedBy(
    blue,
    rows.map(({ name }) => ({ token, stream: names.indexOf(name) + 1 })),
  );
  return lost && names[lost.stream - 1];
}

async function lackedBy<Marker extends Omit<MarkerRow, 'id'>>(
  blue: Session,
  markers: readonly Marker[],
): Promise<Marker[]> {
  if (markers.length === 0) return [];
  const { rows } = await blue.query<Omit<MarkerRow, 'id'>>(
    'SELECT token, stream FROM verdigris.marker_to_blue WHERE token = ANY ($1)',
    [markers.map(({ token }) => token)],
  );
  return markers.filter(
    (marker) => !rows.some(({ token, stream }) => token === marker.token && stream === marker.stream),
  );
}

/** What is written down on green of a slot that somebody else has read from. */
interface Taken {
  readonly slot: string;
  /** When that was seen last: green's time, UTC, and the position of its WAL. */
  readonly at: string;
  readonly lsn: string;
  /** Who had the slot, in words; absent where nobody was seen at it. */
  readonly reader?: string;
}

/** Its row is `done` when a comparison has shown that blue has everything: a later difference says nothing of it. */
function takenKey(runId: string): ProgressKey {
  return { runId, step: 'standby', object: 'taken' };
}

async function readTaken(green: Session, runId: string): Promise<ProgressRow<Taken> | undefined> {
  return readProgress<Taken>(green, takenKey(runId));
}

/** Unless more has been taken meanwhile. */
async function noteMended(green: Session, runId: string, { lsn }: Taken): Promise<void> {
  const { step, object } = takenKey(runId);
  await green.query(
    `UPDATE verdigris.progress SET done = true, updated_at = clock_timestamp()
      WHERE run_id = $1 AND step = $2 AND object = $3 AND state ->> 'lsn' = $4`,
    [runId, step, object, lsn],
  );
}

/** Writes down that blue lacks something: it stays so when whoever has taken it is gone. @param other see readOther() */
async function noteTaken({ green, runId }: WayBack, slot: string, other: string | undefined): Promise<void> {
  const before = await readTaken(green, runId);
  const reader = other ?? (before?.done === false ? before.state.reader : undefined);
  const { rows } = await green.query<Pick<Taken, 'at' | 'lsn'>>(
    `SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') AS at, pg_current_wal_insert_lsn()::text AS lsn`,
  );
  const [now = { at: '-infinity', lsn: '0/0' }] = rows;
  const taken: Taken = { slot, ...now, ...(reader === undefined ? {} : { reader }) };
  await writeProgress(green, takenKey(runId), taken, false);
}

/** A worker of blue's that finds the slot taken ends at once, but over a slow link it needs a while to ask for it, ms. */
const OTHER_SEEN_WITHIN_MS = 3_000;

/** Who reads from the slot while no worker of blue does, in words. Where one asks for it in vain, its end is waited for. */
async function readOther({ green, blue }: WayBack, slot: string): Promise<string | undefined> {
  const until = performance.now() + OTHER_SEEN_WITHIN_MS;
  for (;;) {
    const reader = await readSlotReader(green, slot);
    if (reader === undefined) return undefined;
    if (((await readSubscription(blue, slot))?.applyPid ?? null) === null) return describeSlotReader(reader);
    if (performance.now() > until) return undefined;
    await sleep(50);
  }
}

/** Why blue does not have everything: somebody else has read from a slot, and no comparison since has shown that it has. */
export async function whyTaken(green: Session, runId: string): Promise<string | undefined> {
  const taken = await readTaken(green, runId);
  if (taken === undefined || taken.done) return undefined;
  const { slot, reader, lsn } = taken.state;
  const compared = (await readLastPass(green, runId))?.began.green.lsn;
  if (compared !== undefined && walPosition(compared) >= walPosition(lsn)) {
    // The next comparison that finds a difference forgets this one.
    await noteMended(green, runId, taken.state);
    return undefined;
  }
  return `the slot ${slot} on green was read by another subscriber than blue${reader === undefined ? '' : ` (${reader})`}, and what that was sent never comes to blue. As a rule that is a copy of blue, restored from a backup, or a read replica of it that was promoted: drop the subscription ${slot} there (ALTER SUBSCRIPTION ... DISABLE, then SET (slot_name = NONE), then DROP SUBSCRIPTION). Blue counts as incomplete until a comparison that begins after that finds no difference`;
}
