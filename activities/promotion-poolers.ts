import type { ClientPool } from '../src/pgbouncer/client-pools.js';
import { poolsOf, type Heard } from '../src/pgbouncer/from-plan.js';
import type { Pools } from '../src/postgres/pools.js';
import type { Side } from '../src/side.js';
import type { RunRef } from '../workflows/lib/run-ref.js';
import type { ActivityDependencies, Work } from './context.js';
import type { PromotionResult } from './promotion-attempt.js';

/** The poolers of the plan, for as long as the work lasts. */
export async function withPools<T>(
  { environment }: ActivityDependencies,
  { plan }: RunRef,
  { databases }: Work,
  work: (pools: Pools) => Promise<T>,
  heard?: Heard,
): Promise<T> {
  const pools = poolsOf(plan, databases, environment, heard);
  try {
    return await work(pools);
  } finally {
    await pools.close();
  }
}

/** Adds what the poolers tell of their clients during the move. */
export async function withClientsTold(
  { report }: Work,
  from: Side,
  move: (heard: Heard) => Promise<PromotionResult>,
): Promise<PromotionResult> {
  const mayBeRefused: string[] = [];
  const unserved: string[] = [];
  const unservedPools: ClientPool[] = [];
  const result = await move({
    mayBeRefused: (what) => {
      mayBeRefused.push(what);
      report({ mayBeRefused });
    },
    unserved: (what, side, pools) => {
      if (side === from) return;
      unserved.push(what);
      unservedPools.push(...pools);
    },
    notTold: (what, side) => {
      if (side !== from && !mayBeRefused.includes(what)) mayBeRefused.push(what);
    },
  });
  return {
    ...result,
    ...(mayBeRefused.length === 0 ? {} : { mayBeRefused }),
    ...(unserved.length === 0 ? {} : { unserved, unservedPools }),
  };
}
