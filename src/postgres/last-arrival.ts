import { feedName } from './feed.js';
import type { Run } from './ownership.js';
import { lacksSlots, readRetainedWal } from './retained-wal.js';
import { readServerPosition } from './server-position.js';
import type { Session } from './session.js';
import { brokenSubscription, countErrors, replacedSince } from './standby.js';
import { readConfirmed, readGreenPosition, writeConfirmed } from './standby-loss.js';
import { streamsOfRun } from './streams.js';
import { followMarker } from './taken-feed.js';

/**
 * Lets the feed to blue bring what is on its way before it is switched off. Where blue has everything then, that moment is
 * written down: what is said to be lost counts from there.
 *
 * @returns whether what was sent has arrived; at once where nothing can
 */
export async function letArrive(
  green: Session,
  blue: Session,
  run: Run,
  withinMs: number,
  signal?: AbortSignal,
): Promise<boolean> {
  const feed = feedName(run.migration, 'to_blue');
  const names = await streamsOfRun(green, feed);
  const confirmed = await readConfirmed(green, run.runId);
  if (confirmed?.dropped === true || lacksSlots(await readRetainedWal(green, names), names)) return false;
  if ((await brokenSubscription(blue, names)) !== undefined) return false;
  const identity = await readServerPosition(blue);
  // Read before the marker is written: what comes before it, blue has when the marker arrives.
  const position = await readGreenPosition(green, feed);
  const errors = await countErrors(blue, names);
  const wayBack = { runId: run.runId, green, blue, names, confirmedAt: confirmed?.at };
  const { lagMs, taken } = await followMarker(wayBack, withinMs, signal);
  if (!Number.isFinite(lagMs)) return false;
  if (taken === undefined && replacedSince(confirmed, identity) === undefined) {
    await writeConfirmed(green, run.runId, { ...position, blue: identity, errors });
  }
  return true;
}
