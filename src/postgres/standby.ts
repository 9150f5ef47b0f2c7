import { dropSlots } from './feed-objects.js';
import { feedName } from './feed.js';
import { measureLag } from './marker.js';
import { judgeRetainedWal, readRetainedWal } from './retained-wal.js';
import type { Session } from './session.js';
import { streamsOfRun } from './streams.js';
import { readSubscription } from './subscription.js';

/** How blue follows green during the standby window. */
export type StandbyHealth = 'healthy' | 'lagging' | 'broken' | 'dropped' | 'unreachable';

export interface StandbyState {
  readonly health: StandbyHealth;
  /** Whether writes could go back to blue now without a loss. */
  readonly rollbackSafe: boolean;
  readonly why: string;
  readonly lagSeconds: number | null;
}

export interface StandbyLimits {
  /** Lag above which people are told, ms. */
  readonly maxLagMs: number;
  /** WAL that the slot may hold back on green, bytes: beyond it green, which serves, is worth more than the way back. */
  readonly maxRetainedWal: number;
}

/**
 * Looks at the feed from green to blue once: its worst stream counts. A feed that has held back too much WAL is dropped
 * here: it would fill the disk of the server that takes the writes.
 */
export async function lookAtStandby(
  green: Session,
  openBlue: () => Promise<Session>,
  migration: string,
  limits: StandbyLimits,
  signal: AbortSignal,
): Promise<StandbyState> {
  const feed = feedName(migration, 'to_blue');
  const names = await streamsOfRun(green, feed);
  const wal = await readRetainedWal(green, names);
  if (wal.slots < names.length || wal.walStatus === 'lost') {
    return gone('broken', 'the feed from green to blue is gone: blue is no longer current');
  }
  // Before blue is asked anything: a blue that is away is what fills green's disk.
  if (judgeRetainedWal(wal.bytes, limits.maxRetainedWal) === 'abort') {
    await dropSlots(green, feed, 0);
    return gone('dropped', 'blue did not keep up and the feed held back too much WAL on green: the feed was dropped');
  }
  const blue = await openBlue();
  let errors = 0;
  for (const name of names) {
    const subscription = await readSubscription(blue, name);
    if (subscription?.enabled !== true) {
      const state = subscription === undefined ? 'gone' : 'disabled';
      return gone('broken', `the subscription ${name} on blue is ${state}: blue is no longer current`);
    }
    errors += subscription.errors;
  }
  const lag = await measureLag(green, blue, 'to_blue', Math.max(10_000, limits.maxLagMs), signal);
  const lagSeconds = Number.isFinite(lag) ? lag / 1_000 : null;
  if (lag <= limits.maxLagMs) {
    return { health: 'healthy', rollbackSafe: true, why: 'blue follows green', lagSeconds };
  }
  const met = errors > 0 ? `; its subscriptions have met ${errors} errors: see blue's server log` : '';
  return {
    health: 'lagging',
    // Nothing is lost by going back late: the promotion waits until blue has everything.
    rollbackSafe: true,
    why: `blue is ${lagSeconds === null ? 'far' : `${lagSeconds.toFixed(1)} s`} behind green${met}`,
    lagSeconds,
  };
}

function gone(health: StandbyHealth, why: string): StandbyState {
  return {
    health,
    rollbackSafe: false,
    why: `${why}; going back would lose what was written on green since`,
    lagSeconds: null,
  };
}
