import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Found, Inventory } from '../../src/postgres/doctor/inventory.js';
import { judge } from '../../src/postgres/doctor/who-is-primary.js';
import { otherSide, type Side } from '../../src/side.js';
import { World, type Mutation } from './route-and-fence-model.js';
import { wrong } from './story.js';

/** Any order of steps, crashes, lost answers and late workers: each number chooses among what can happen then. */
const INTERLEAVING = fc.record({
  choices: fc.array(fc.nat(), { minLength: 10, maxLength: 200, size: 'max' }),
  commitInFlight: fc.boolean(),
  mayEnd: fc.boolean(),
});

type Interleaving = typeof INTERLEAVING extends fc.Arbitrary<infer T> ? T : never;

/** Plays one interleaving, and what follows it when every worker has died. @throws with what went wrong, and how. */
function play({ choices, commitInFlight, mayEnd }: Interleaving, mutation: Mutation | null): void {
  const world = new World(mutation, mayEnd);
  const story: string[] = [];
  const check = (): void => {
    neverBothOpen(world, story);
    // Of every third state the doctor is asked as well: that is where the time goes.
    if (mutation === null && story.length % 3 === 0) theDoctorIsRight(world, story);
  };
  for (const choice of choices) {
    const events = world.events();
    const event = events[choice % events.length];
    if (event === undefined) break;
    story.push(event.name);
    event.happen();
    check();
  }
  story.push('every worker dies');
  world.recover(commitInFlight);
  check();
  const writable = (['blue', 'green'] as const).filter((side) => world.dbs[side].writable);
  if (writable.length !== 1) throw wrong('no way forward: nobody takes writes', story);
  const [primary] = writable;
  for (const [key, id] of world.acknowledged) {
    if (primary !== undefined && world.dbs[primary].values.get(key) !== id) throw wrong('a write is lost', story);
  }
}

function neverBothOpen(world: World, story: readonly string[]): void {
  if (world.dbs.blue.writable && world.dbs.green.writable) throw wrong('both sides are open', story);
}

/** Who is certain to be primary takes writes and nobody else does, whichever side the doctor can reach. */
function theDoctorIsRight(world: World, story: readonly string[]): void {
  const found: Found = { blue: inventoryOf(world, 'blue'), green: inventoryOf(world, 'green') };
  const views: Found[] = [found, { ...found, blue: away('blue') }, { ...found, green: away('green') }];
  for (const view of views) {
    const verdict = judge(view);
    if (verdict.kind === 'both') throw wrong('the doctor sees both sides open', story);
    if (verdict.kind !== 'certain') continue;
    const other = world.dbs[otherSide(verdict.primary)];
    if (!world.dbs[verdict.primary].writable || other.writable) throw wrong('the doctor is wrong', story);
  }
}

function away(side: Side): Found['blue'] {
  return { reached: false, side, why: 'away' };
}

function inventoryOf(world: World, side: Side): Found['blue'] {
  const { row, open, armed, exclusive } = world.dbs[side];
  const route = {
    migration: 'm',
    epoch: row.epoch,
    generation: 1,
    writesOn: row.writesOn,
    greenReadPercent: 0,
    flag: 'f',
    opening: row.opening ? otherSide(side) : null,
  };
  const owner = { runId: 'r', migration: 'm', side, claimedAt: '', endedAt: null, outcome: null, claimedEpoch: 1 };
  const inventory: Inventory = {
    ...{ side, version: 18, schema: true, owner, route, fenceOpen: open, settled: exclusive === null },
    ...{
      routers: [],
      events: [],
      publications: [],
      slots: [],
      subscriptions: [],
      origins: [],
      upDown: [],
      onlyFilled: [],
      lockHolders: [],
    },
    ...{
      eventTriggers: [],
      invalidIndexes: [],
      proofs: [],
      sessions: [],
      dependents: [],
      otherMigrations: [],
      copied: 0,
      inRecovery: false,
      byStandby: false,
      closedByDefault: false,
    },
    fence: [{ table: 't', state: armed ? 'armed' : 'disabled' }],
  };
  return { reached: true, inventory };
}

const SEED = 20261122;

describe('route and fence', () => {
  it('never have both sides open, never lose a committed write, always have a way forward', () => {
    fc.assert(
      fc.property(INTERLEAVING, (interleaving) => play(interleaving, null)),
      { numRuns: 1_200 },
    );
  });

  it('come through a whole promotion and rollback in the interleavings that are explored', () => {
    let rolledBack = 0;
    fc.assert(
      fc.property(INTERLEAVING, ({ choices }) => {
        const world = new World(null, false);
        for (const choice of choices) {
          const events = world.events();
          events[choice % events.length]?.happen();
        }
        if (world.dbs.blue.row.epoch === 3) rolledBack++;
      }),
      { numRuns: 1_000, seed: SEED },
    );

    expect(rolledBack).toBeGreaterThan(0);
  });

  it.each<[Mutation, RegExp]>([
    ['epoch unchecked', /both sides/],
    ['reverse feed before the old one is off', /a write is lost/],
    ['marker skipped', /a write is lost/],
    ['open before decide', /both sides/],
    ['lock skipped', /a write is lost|both sides/],
    ['plain read of a COMMIT without an answer', /both sides/],
    ['actor lock not waited for', /a write is lost|no way forward/],
    ['fence checked before the row is locked', /both sides/],
    ['a claim opens what is closed', /both sides/],
  ])('with the rule broken: %s, the same search finds what goes wrong', (mutation, what) => {
    const result = fc.check(
      fc.property(INTERLEAVING, (interleaving) => play(interleaving, mutation)),
      { numRuns: 20_000, seed: SEED, endOnFailure: true },
    );
    expect(result.failed).toBe(true);
    expect(String(result.errorInstance)).toMatch(what);
  });
});
