import { setTimeout as sleep } from 'node:timers/promises';
import { otherSide } from '../side.js';
import { directionTo } from './feed.js';
import { promotionBlocked } from './hold.js';
import { measureLag } from './marker.js';
import type { Promotion, Sessions } from './promote.js';
import type { Session } from './session.js';

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
    const { rows } = await to.query<{ who: string }>(
      `SELECT format('pid %s in database %s (%s)', pid, datname, coalesce(nullif(application_name, ''), backend_type)) AS who
         FROM pg_stat_activity
        WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
          AND xact_start < clock_timestamp() - make_interval(secs => ${OLD_WRITER_SECONDS})
       UNION ALL SELECT format('prepared transaction %s in database %s', gid, database) FROM pg_prepared_xacts`,
    );
    if (rows.length === 0) return;
    if (look === 99) {
      throw promotionBlocked(
        `${otherSide(promotion.from)}: ${rows.map((row) => row.who).join(', ')} would keep the slot of the way back waiting`,
      );
    }
    await sleep(100);
  }
}

/** A transaction older than this will not end within the few milliseconds that a slot takes. */
const OLD_WRITER_SECONDS = 0.1;
