import { feedName } from './feed.js';
import type { Run } from './ownership.js';
import { walPosition, whyReplaced, type ServerPosition } from './server-position.js';
import type { Session } from './session.js';
import { readGreenPosition, writeConfirmed, type Confirmed } from './standby-loss.js';
import { readSubscription } from './subscription.js';
import { followMarker, type Followed } from './taken-feed.js';
import { readLastPass } from './verify/last-pass.js';

/* Whether blue has, and will get, everything that is on green: what whoever relies on the way back asks. */

/** Why a subscription of the feed brings nothing; undefined where none is gone or disabled. */
export async function brokenSubscription(blue: Session, names: readonly string[]): Promise<string | undefined> {
  for (const name of names) {
    const subscription = await readSubscription(blue, name);
    if (subscription === undefined) return `the subscription ${name} on blue is gone: blue is no longer current`;
    if (!subscription.enabled) {
      return `the subscription ${name} on blue is disabled: blue is no longer current until somebody enables it`;
    }
  }
  return undefined;
}

/** The errors that the subscriptions of the feed have met so far. */
export async function countErrors(blue: Session, names: readonly string[]): Promise<number> {
  let errors = 0;
  for (const name of names) errors += (await readSubscription(blue, name))?.errors ?? 0;
  return errors;
}

/**
 * Why blue is not the server any more that had everything; undefined where it is, or where a comparison that began on the
 * one that is there now has found no difference: the slot is not beyond what it has then.
 */
export async function replacedSince(
  green: Session,
  runId: string,
  confirmed: Confirmed | undefined,
  now: ServerPosition,
): Promise<string | undefined> {
  const replaced = confirmed === undefined ? undefined : whyReplaced('blue', confirmed.blue, now);
  if (confirmed === undefined || replaced === undefined) return undefined;
  if (await isCompared(green, runId, confirmed, now)) return undefined;
  return `${replaced}: what it had not received by then may be missing, and it counts as incomplete until a comparison that begins after that finds no difference`;
}

async function isCompared(green: Session, runId: string, { lsn }: Confirmed, now: ServerPosition): Promise<boolean> {
  const began = (await readLastPass(green, runId))?.began;
  // An earlier version has written down less.
  if (began?.green.lsn === undefined || began.blue.lsn === undefined) return false;
  return whyReplaced('blue', began.blue, now) === undefined && walPosition(began.green.lsn) >= walPosition(lsn);
}

/** The feed to a blue that is the server which had everything, or has been compared since. */
interface Feed {
  readonly green: Session;
  readonly blue: Session;
  readonly run: Run;
  readonly names: readonly string[];
  readonly confirmed: Confirmed | undefined;
  /** Read before. */
  readonly is: { readonly blue: ServerPosition; readonly errors: number };
}

/** Has a marker follow it. Where that arrives, blue has everything of before it, and that moment is written down. */
export async function follow(
  { green, blue, run, names, confirmed, is }: Feed,
  withinMs: number,
  signal?: AbortSignal,
): Promise<Followed> {
  // Read before the marker is written: what comes before it, blue has when the marker arrives.
  const position = await readGreenPosition(green, feedName(run.migration, 'to_blue'));
  const wayBack = { runId: run.runId, green, blue, names, confirmedAt: confirmed?.at };
  const followed = await followMarker(wayBack, withinMs, signal);
  if (followed.taken === undefined && Number.isFinite(followed.lagMs)) {
    await writeConfirmed(green, run.runId, { ...position, ...is });
  }
  return followed;
}
