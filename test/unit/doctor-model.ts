import type { Found, Inventory, SideFound } from '../../src/postgres/doctor/inventory.js';
import { judge, type Unopened, type Verdict } from '../../src/postgres/doctor/who-is-primary.js';
import { otherSide, type Side } from '../../src/side.js';
import { CLEANED } from '../../src/postgres/doctor/clean.js';
import { RELEASED } from '../../src/postgres/doctor/read-state.js';
import type { Db } from './database-model.js';
import type { World } from './route-and-fence-model.js';

/* What `verdigris doctor` finds in the databases of the model, and what it does there for a person who is alone. */

export const MIGRATION = 'm';

/** @param away a side that the doctor can't reach. Default: none */
export function foundIn(world: World, away?: Side): Found {
  const look = (side: Side): SideFound => (side === away ? isAway(side) : lookAt(world, world.dbs[side]));
  return { blue: look('blue'), green: look('green') };
}

export function isAway(side: Side): SideFound {
  return { reached: false, side, why: 'away' };
}

/** examineSide() of inventory.ts: one side, at one moment. */
export function lookAt(world: World, db: Db): SideFound {
  const { side, row, open, schema, outcome } = db;
  const run = { runId: 'r', migration: MIGRATION, side, claimedAt: '', endedAt: null };
  const route = {
    ...{ migration: MIGRATION, epoch: row.epoch, generation: 1, writesOn: row.writesOn },
    ...{ greenReadPercent: 0, flag: 'f' },
    opening: row.opening ? otherSide(side) : null,
  };
  const inventory: Inventory = {
    ...{ side, version: 18, schema, events: [], routers: [] },
    owner: schema ? { ...run, outcome, claimedEpoch: 1 } : null,
    ...(schema ? { route, fenceOpen: open, settled: db.exclusive === null } : NOTHING),
    ...feedsOf(world, side),
    ...{ publications: [], origins: [], upDown: [], onlyFilled: [], lockHolders: [], eventTriggers: [] },
    ...{
      invalidIndexes: [],
      proofs: [],
      dependents: [],
      otherMigrations: [],
      copied: side === 'green' ? db.values.size : 0,
    },
    ...{ inRecovery: false, byStandby: false, closedByDefault: false },
    sessions: world
      .sessions()
      .filter((one) => one.db === db && one.ofWorker)
      .map(({ pid }) => ({ pid, purpose: 'promote', state: null, seconds: 0 })),
    fence: tablesOf(db),
  };
  return { reached: true, inventory };
}

const NOTHING = { route: null, fenceOpen: null, settled: true } as const;

/** readFenceTriggers(): a table without a trigger has lost it where another one has its own still. */
function tablesOf({ fence }: Db): Inventory['fence'] {
  const isPartly = fence.includes('absent') && fence.some((state) => state !== 'absent');
  return fence.map((state, i) => ({ table: `t${i}`, state: isPartly && state === 'absent' ? 'lost' : state }));
}

/** The subscription to this side, and the slot for the other one's. */
function feedsOf({ feeds }: World, side: Side): Pick<Inventory, 'subscriptions' | 'slots'> {
  const [to, from] = [feeds[side], feeds[otherSide(side)]];
  const subscription = { name: `verdigris_m_to_${side}`, enabled: to.enabled, workers: to.running ? 1 : 0, errors: 0 };
  const slot = {
    ...{ name: `verdigris_m_to_${otherSide(side)}`, active: from.running, retainedBytes: 0, walStatus: 'reserved' },
    origin: 'run' as const,
  };
  return {
    subscriptions: to.subscribed ? [subscription as Inventory['subscriptions'][number]] : [],
    slots: from.slot === null ? [] : [slot],
  };
}

/** `--open --yes`, while nobody else is at work: open.ts. */
export function openByHand(world: World): Verdict {
  const verdict = judge(foundIn(world));
  if (verdict.kind === 'nobody') openDecided(world, verdict);
  return verdict.kind === 'nobody' ? judge(foundIn(world)) : verdict;
}

function openDecided(world: World, { side, epoch, decidedElsewhere }: Unopened): void {
  const db = world.dbs[side];
  if (decidedElsewhere) {
    // verdigris.open_fence
    if (db.row.epoch !== epoch - 1 && !(db.row.epoch === epoch && db.row.writesOn === side)) return;
    db.row = { epoch, writesOn: side, opening: false };
  }
  if (db.row.writesOn === side) db.open = true;
}

/** `--close --yes`, while nobody else is at work: close.ts. */
export function closeByHand(world: World): Verdict {
  const verdict = judge(foundIn(world));
  if (verdict.kind !== 'both') return verdict;
  const db = world.dbs[otherSide(verdict.truth)];
  if (!db.schema) return verdict;
  if (db.row.epoch < verdict.epoch) db.row = { epoch: verdict.epoch, writesOn: verdict.truth, opening: false };
  if (db.outcome === RELEASED) db.outcome = CLEANED;
  db.open = false;
  db.fence = ['armed', 'armed'];
  return judge(foundIn(world));
}
