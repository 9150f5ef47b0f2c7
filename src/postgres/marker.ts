import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Direction } from '../side.js';
import { ident } from './identifier.js';
import type { Session } from './session.js';

/*
 * A marker is a row written on one side and awaited on the other: proof that everything committed before it has been
 * applied there. A position alone proves nothing: "sent" is not applied, and keepalives move positions (pgcopydb 1033).
 * Each direction has a table of its own, published in that direction only; with one table for both, markers would come
 * back to where they were written and stop the feed. Where a direction has several streams, a marker is a row for each
 * of them, published by that stream only, and it has arrived when all its rows are there.
 */

/** The table of a direction's markers, in schema verdigris. */
export function markerTable(direction: Direction): string {
  return `marker_${direction}`;
}

/**
 * Writes a marker and returns its token. The rows are the session's own, so waiters in other sessions do not
 * overwrite each other; one session must wait for its marker before it writes the next.
 *
 * @param id of the rows instead of the session's: those of one id are the same rows. Default: the session's
 */
export async function writeMarker(session: Session, direction: Direction, id: string | null = null): Promise<string> {
  const token = randomUUID();
  await session.query(
    `INSERT INTO verdigris.${ident(markerTable(direction))} AS m (id, stream, token, streams)
     SELECT coalesce($2, pg_backend_pid()::text), stream, $1, streams
       FROM (SELECT coalesce((SELECT streams FROM verdigris.owner), 1) AS streams) run, generate_series(1, streams) stream
     ON CONFLICT (id, stream) DO UPDATE
        SET token = excluded.token, streams = excluded.streams, at = clock_timestamp()`,
    [token, id],
  );
  return token;
}

/** Whether the marker has arrived by every stream: one look. */
export async function markerArrived(session: Session, direction: Direction, token: string): Promise<boolean> {
  const { rows } = await session.query<{ arrived: boolean }>(
    `SELECT coalesce(count(*) = max(streams), false) AS arrived
       FROM verdigris.${ident(markerTable(direction))} WHERE token = $1`,
    [token],
  );
  return rows[0]?.arrived === true;
}

/**
 * Waits until the marker has been applied on the other side.
 *
 * @returns false when it has not arrived within `timeoutMs`.
 * @throws the signal's reason when it is aborted.
 */
export async function waitForMarker(
  session: Session,
  direction: Direction,
  token: string,
  timeoutMs: number,
  signal?: AbortSignal,
): Promise<boolean> {
  const started = performance.now();
  for (;;) {
    if (await markerArrived(session, direction, token)) return true;
    const elapsed = performance.now() - started;
    if (elapsed >= timeoutMs) return false;
    signal?.throwIfAborted();
    // Close looks at first, since a healthy round trip takes 1-2 ms; then ever fewer, up to four a second.
    await sleep(Math.min(250, Math.max(1, elapsed / 20)));
  }
}

/** How far the other side is behind, in milliseconds: the time that a marker takes. Infinity after `timeoutMs`. */
export async function measureLag(...args: Parameters<typeof timeMarker>): Promise<number> {
  return (await timeMarker(...args)).arrivedMs;
}

/** Times of one marker, ms from its beginning. */
export interface MarkerTimes {
  /** Until its COMMIT was answered: a slow disk, or a synchronous standby, is in it, and no backlog. */
  readonly writtenMs: number;
  /** Until it was seen on the other side. Infinity after the timeout. */
  readonly arrivedMs: number;
}

/** Writes a marker and waits for it. */
export async function timeMarker(
  source: Session,
  target: Session,
  direction: Direction,
  timeoutMs: number,
  signal?: AbortSignal,
): Promise<MarkerTimes> {
  const started = performance.now();
  const token = await writeMarker(source, direction);
  const writtenMs = performance.now() - started;
  const arrived = await waitForMarker(target, direction, token, timeoutMs, signal);
  return { writtenMs, arrivedMs: arrived ? performance.now() - started : Number.POSITIVE_INFINITY };
}
