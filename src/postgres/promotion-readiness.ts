import { setTimeout as sleep } from 'node:timers/promises';
import { otherSide } from '../side.js';
import { directionTo } from './feed.js';
import { promotionBlocked } from './hold.js';
import { longWriters, whoChanges } from './locks.js';
import { measureLag } from './marker.js';
import type { Promotion } from './promote.js';
import type { Sessions } from './promotion-sessions.js';
import type { Session } from './session.js';
import { describeChange, readUnfencedChanges } from './unfenced-changes.js';

/* When it is worth asking writers to wait: what these functions wait for would otherwise be part of the hold. */

/** Asks for the hold only when the new side is close behind: the marker's round trip is part of the hold. */
export async function waitForShortLag(sessions: Pick<Sessions, 'aside' | 'to'>, promotion: Promotion): Promise<void> {
  const direction = directionTo(otherSide(promotion.from));
  let best = Number.POSITIVE_INFINITY;
  for (let look = 0; look < 100; look++) {
    promotion.signal?.throwIfAborted();
    const lag = await measureLag(sessions.aside, sessions.to, direction, 5_000, promotion.signal);
    if (lag < SHORT_LAG_MS) return;
    best = Math.min(best, lag);
    await sleep(100);
  }
  throw promotionBlocked(
    `${otherSide(promotion.from)} is too far behind: a marker took ${Math.round(best)} ms at best, ${SHORT_LAG_MS} ms are asked for`,
  );
}

/** A marker's round trip above this means a backlog, and the hold would have to wait for it. */
const SHORT_LAG_MS = 20;

/**
 * Waits until no transaction on the new side's server, in any of its databases, would keep the slot from being made.
 */
export async function waitForNoWriters(to: Session, promotion: Promotion): Promise<void> {
  for (let look = 0; look < 100; look++) {
    promotion.signal?.throwIfAborted();
    const who = await longWriters(to, { olderThanSeconds: OLD_WRITER_SECONDS, everywhere: true });
    if (who === null) return;
    if (look === 99) {
      throw promotionBlocked(`${otherSide(promotion.from)}: ${who} would keep the slot of the way back waiting`);
    }
    await sleep(100);
  }
}

/** Waits until no transaction is about to write past the fence: the hold would only be given up for it. */
export async function waitForNoUnfencedChanges(from: Session, promotion: Promotion): Promise<void> {
  for (let look = 0; look < 100; look++) {
    promotion.signal?.throwIfAborted();
    const changes = await readUnfencedChanges(from, promotion);
    const [change] = changes;
    if (change === undefined) return;
    if (look === 99) throw promotionBlocked(`${describeChange(promotion, change)}. ${await whoChanges(from, changes)}`);
    await sleep(100);
  }
}

/** A transaction older than this will not end within the few milliseconds that a slot takes. */
const OLD_WRITER_SECONDS = 0.1;
