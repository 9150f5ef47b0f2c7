import { tablesync } from '../../src/postgres/bootstrap/tablesync.js';
import { directionTo } from '../../src/postgres/feed.js';
import { armFence, closeFence } from '../../src/postgres/fence.js';
import { finishPromotion } from '../../src/postgres/finish-promotion.js';
import { measureLag } from '../../src/postgres/marker.js';
import { claimDatabases } from '../../src/postgres/ownership.js';
import { preparePromotion } from '../../src/postgres/prepare-promotion.js';
import { NO_POOLS, type Pools } from '../../src/postgres/pools.js';
import { promote } from '../../src/postgres/promote.js';
import { readDecision } from '../../src/postgres/promotion-decision.js';
import { ensureSlot } from '../../src/postgres/replication-slot.js';
import { withSession, type Databases } from '../../src/postgres/session.js';
import { ensurePublications, streamNames } from '../../src/postgres/streams.js';
import { otherSide, type Side } from '../../src/side.js';
import { now } from './clock.js';
import type { Move } from './move.js';
import { SHOP_TABLES } from './shop.js';

/*
 * Verdigris itself: what the activities `promote` and `finishPromotion` call, in their order and with the plan's
 * defaults, in this process, which does nothing else meanwhile. One difference: there is a feed back in both directions,
 * so that writes can go there and back again and again (a rollback makes none, and its hold is shorter by a slot).
 */

const TABLES = SHOP_TABLES.map((name) => ({ schema: 'public', name }));
/** The plan's defaults. */
const DEFAULTS = { maxHoldMs: 2_000, attempts: 5, sequenceGap: 1_000 } as const;

/** Has green follow blue, fenced: where a run stands before its promotion. */
export async function follow(databases: Databases, migration: string, signal: AbortSignal): Promise<void> {
  const epoch = await claimDatabases(databases, { runId: 'bench', migration }, 'flag');
  await withSession(databases.blue, { purpose: 'bench' }, async (session) => {
    const tables = TABLES.map((table) => ({ table }));
    await ensurePublications(session, { migration, direction: 'to_green', tables, streams: 1 });
    for (const name of streamNames(migration, 'to_green', 1)) await ensureSlot(session, name);
  });
  const context = { databases, migration, direction: 'to_green', streams: 1, maxRetainedWal: 1e12, signal } as const;
  await tablesync.run({ ...context, report: () => undefined });
  await withSession(databases.green, { purpose: 'bench' }, async (session) => {
    await closeFence(session, migration, epoch);
    await armFence(session, TABLES);
    await session.query('ANALYZE');
  });
}

/** One move, from the proof of the way back until the old side follows. */
export async function moveByVerdigris(
  databases: Databases,
  migration: string,
  from: Side,
  signal: AbortSignal,
  pools: Pools = NO_POOLS,
): Promise<Move> {
  const began = now();
  const wayBack = TABLES.map((table) => ({ table }));
  const knownTables = await preparePromotion({ databases, migration, from, fenced: TABLES, wayBack, signal });
  const { epoch } = await withSession(databases[from], { purpose: 'bench' }, (session) =>
    readDecision(session, migration, from),
  );
  await pools.prepare(from, epoch);
  const tried = now();
  const blocked: string[] = [];
  const { maxHoldMs, attempts, sequenceGap } = DEFAULTS;
  const promoted = await promote(
    {
      ...{ databases, migration, from, fenced: TABLES, knownTables, maxHoldMs, sequenceGap, pools, signal },
      feedBack: true,
    },
    { attempts, onBlocked: (_attempt, why) => blocked.push(why) },
  );
  const opened = now();
  await finishPromotion(databases, migration, from, { feedBack: true, signal });
  await caughtUp(databases, otherSide(from), signal);
  return {
    ...{ from, began, tried, opened, blocked },
    followed: now(),
    holdMs: promoted.holdMs ?? 0,
    steps: promoted.steps,
    tries: promoted.attempts,
  };
}

/** Until the other side has everything that the primary has. */
export async function caughtUp(databases: Databases, primary: Side, signal: AbortSignal): Promise<void> {
  const other = otherSide(primary);
  await withSession(databases[primary], { purpose: 'bench' }, (source) =>
    withSession(databases[other], { purpose: 'bench' }, (target) =>
      measureLag(source, target, directionTo(other), 60_000, signal),
    ),
  );
}
