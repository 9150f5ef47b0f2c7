import { setTimeout as sleep } from 'node:timers/promises';
import type { TableName } from '../../src/plan/table-name.js';
import { finishPromotion } from '../../src/postgres/finish-promotion.js';
import { preparePromotion, withdrawOpening } from '../../src/postgres/prepare-promotion.js';
import { poolsBefore, type Heard } from '../../src/pgbouncer/from-plan.js';
import type { PgBouncers } from '../../src/pgbouncer/pgbouncer.js';
import { NO_POOLS, releaseAll } from '../../src/postgres/pools.js';
import { promote } from '../../src/postgres/promote.js';
import { readDecision } from '../../src/postgres/promotion-decision.js';
import { withSession, type Databases } from '../../src/postgres/session.js';
import type { Side } from '../../src/side.js';

/** One move of the writes from a side to the other one, by default with a feed back in both directions. */
export interface Move {
  readonly databases: Databases;
  readonly migration: string;
  readonly from: Side;
  readonly tables: readonly TableName[];
  readonly maxHoldMs: number;
  /** Whether the old side is to follow the new one: not so in a rollback. Default: true. */
  readonly feedBack?: boolean;
  /** PgBouncers that lead the way of the writes. */
  readonly pgbouncers?: PgBouncers;
  /** Told what those say. Default: nobody */
  readonly heard?: Heard;
}

const ATTEMPTS = 10;

/** The activities `promote` and `finishPromotion` without Temporal, so that a process of its own does them in a second. */
export const STEPS = {
  async promote({
    databases,
    migration,
    from,
    tables,
    maxHoldMs,
    feedBack = true,
    pgbouncers,
    heard,
  }: Move): Promise<void> {
    const pools = pgbouncers === undefined ? NO_POOLS : poolsBefore(pgbouncers, databases, heard);
    await withSession(databases[from], { purpose: 'promote' }, async (session) => {
      let epoch = 0;
      try {
        const decision = await readDecision(session, migration, from);
        const { decided } = decision;
        epoch = decision.epoch;
        if (!decided) await releaseAll(pools);
        const wayBack = feedBack ? tables.map((table) => ({ table })) : undefined;
        const knownTables = decided
          ? []
          : await preparePromotion({ databases, migration, from, fenced: tables, wayBack });
        if (!decided) await pools.prepare(from, epoch);
        const fenced = decided ? [] : tables;
        const promotion = { databases, migration, from, fenced, knownTables, maxHoldMs, pools };
        await promote({ ...promotion, sequenceGap: 1_000, feedBack }, { attempts: ATTEMPTS });
      } catch (error) {
        await withdrawOpening(session, migration, from, epoch).catch(() => undefined);
        const decision = await readDecision(session, migration, from).catch(() => undefined);
        if (decision?.decided === false) await releaseAll(pools);
        throw error;
      } finally {
        await pools.close();
      }
    });
  },

  async finish({ databases, migration, from, feedBack = true, pgbouncers }: Move): Promise<void> {
    await finishPromotion(databases, migration, from, { feedBack });
    if (pgbouncers === undefined) return;
    const pools = poolsBefore(pgbouncers, databases);
    await releaseAll(pools).finally(() => pools.close());
  },
};

export type Step = keyof typeof STEPS;

/** A step as Temporal would have it done: again until it is, by a worker that lives. */
export async function carryOut(step: Step, move: Move): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await STEPS[step](move);
    } catch (error) {
      if (attempt === 5) throw error;
      await sleep(200);
    }
  }
}
