import { brokenSubscription, countErrors, follow, replacedSince } from './blue-follows.js';
import { feedName } from './feed.js';
import type { Run } from './ownership.js';
import { lacksSlots, readRetainedWal } from './retained-wal.js';
import { readServerPosition } from './server-position.js';
import type { Session } from './session.js';
import { readConfirmed } from './standby-loss.js';
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
  const names = await streamsOfRun(green, feedName(run.migration, 'to_blue'));
  const confirmed = await readConfirmed(green, run.runId);
  if (confirmed?.dropped === true || lacksSlots(await readRetainedWal(green, names), names)) return false;
  if ((await brokenSubscription(blue, names)) !== undefined) return false;
  const identity = await readServerPosition(blue);
  const isOther = (await replacedSince(green, run.runId, confirmed, identity)) !== undefined;
  const is = { blue: identity, errors: await countErrors(blue, names) };
  const { lagMs } = isOther
    ? await followMarker({ runId: run.runId, green, blue, names, confirmedAt: confirmed?.at }, withinMs, signal)
    : await follow({ green, blue, run, names, confirmed, is }, withinMs, signal);
  return Number.isFinite(lagMs);
}
