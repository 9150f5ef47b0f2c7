import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { planCleaning } from '../../src/postgres/doctor/plan-cleaning.js';
import { judge } from '../../src/postgres/doctor/who-is-primary.js';
import { otherSide, type Side } from '../../src/side.js';
import { CleanedWorld, OVER, seen, type CleaningMutation, type Order } from './cleaning-model.js';
import { closeByHand, isAway, MIGRATION, openByHand } from './doctor-model.js';
import type { Found } from '../../src/postgres/doctor/inventory.js';
import { wrong } from './story.js';

/*
 * The search of route-and-fence.property.test.ts with a run that is terminated at some point, and the doctor that cleans up after
 * it: several times, with one side away, beside workers that have not heard of the end, and cut off wherever it is.
 */

const NAME = fc.constantFrom(undefined, undefined, MIGRATION, MIGRATION, 'another');

const ORDER: fc.Arbitrary<Order> = fc.record({
  options: fc.record({ blue: NAME, green: NAME, dropCopy: NAME }).map(({ blue, green, dropCopy }) => ({
    release: { ...(blue === undefined ? {} : { blue }), ...(green === undefined ? {} : { green }) },
    ...(dropCopy === undefined ? {} : { dropCopy }),
  })),
  away: fc.constantFrom<Side | undefined>(undefined, undefined, 'blue', 'green'),
  greenIsLost: fc.boolean(),
  isSlow: fc.boolean(),
});

const PLAIN: Order = { options: { release: {} }, away: undefined, greenIsLost: false, isSlow: false };
/** As a person would clean up after a green that is gone. */
const WITHOUT_GREEN: Order = { ...PLAIN, away: 'green', greenIsLost: true };

const RELEASE: Order = { ...PLAIN, options: { release: { blue: MIGRATION } } };

const INTERLEAVING = fc.record({
  moves: fc.nat({ max: 2 }),
  steps: fc.nat({ max: 35 }),
  choices: fc.array(fc.nat(), { minLength: 10, maxLength: 80, size: 'max' }),
  commitInFlight: fc.boolean(),
  orders: fc.array(fc.oneof(fc.constantFrom(PLAIN, { ...PLAIN, isSlow: true }, WITHOUT_GREEN), ORDER), {
    minLength: 3,
    maxLength: 3,
  }),
  /** Whether a release that was broken off is taken back in the end, instead of finished. */
  closes: fc.boolean(),
});

type Interleaving = typeof INTERLEAVING extends fc.Arbitrary<infer T> ? T : never;

function play(
  { moves, steps, choices, commitInFlight, orders, closes }: Interleaving,
  mutation: CleaningMutation | null,
): CleanedWorld {
  const world = new CleanedWorld(mutation, orders);
  const story: string[] = [];
  const check = (): void => {
    neverOpensBoth(world, story);
    if (world.withdrawn && mutation === null && story.length % 3 === 0) theDoctorIsRight(world, story);
  };
  world.beginWith(moves, steps);
  story.push(`${moves} moves, ${steps} steps of another one`);
  for (const choice of choices) story.push(world.happen(choice, check) ?? 'nothing');
  story.push('every worker and every doctor dies');
  world.die(commitInFlight);
  cleanedInTheEnd(world, closes, story);
  check();
  theDoctorIsRight(world, story);
  whatIsLeftSaysWhere(world, story);
  const { side } = world.truth;
  if (!world.dbs[side].writable) throw wrong('nobody takes writes', story);
  for (const [key, id] of world.acknowledged) {
    if (world.dbs[side].values.get(key) !== id) throw wrong('a write is lost', story);
  }
  return world;
}

function neverOpensBoth(world: CleanedWorld, story: readonly string[]): void {
  const other = otherSide(world.truth.side);
  if (world.dbs[other].writable && !world.isOnItsOwn(other)) throw wrong('both sides are open', story);
}

function found(world: CleanedWorld): Found {
  return { blue: seen(world, world.dbs.blue), green: seen(world, world.dbs.green) };
}

/** Whichever side it can reach. */
function theDoctorIsRight(world: CleanedWorld, story: readonly string[]): void {
  const both = found(world);
  // A green that was lost and comes back says of itself that it has the writes.
  const alone = world.isGreenLost ? [] : [{ ...both, blue: isAway('blue') }];
  for (const view of [both, { ...both, green: isAway('green') }, ...alone]) {
    const verdict = judge(view);
    const { side } = world.truth;
    if (verdict.kind === 'certain' && (verdict.primary !== side || !world.dbs[side].writable)) {
      throw wrong('the doctor is wrong', story);
    }
    if (verdict.kind === 'both' && (verdict.truth !== side || !world.isOnItsOwn(otherSide(side)))) {
      throw wrong('the doctor sees both sides open', story);
    }
  }
}

/** What the doctor says to do next is done, until nothing is left to be done. */
function cleanedInTheEnd(world: CleanedWorld, closes: boolean, story: string[]): void {
  // "Stop what writes there": who is in a transaction ends it.
  for (let i = 0; i < 5; i++) for (const one of [...world.processes]) if (one.ready()) world.step(one);
  for (let round = 1; round <= 6; round++) {
    openByHand(world);
    const overtaken = otherSide(world.truth.side);
    const isClosed = closes || (overtaken === 'green' && world.isGreenLost);
    if (isClosed && judge(found(world)).kind === 'both' && world.dbs[overtaken].schema) {
      story.push(`close ${overtaken}`);
      closeByHand(world);
      world.released.delete(overtaken);
      if (overtaken === 'green') world.isGreenLost = false;
    }
    const isNamed = world.dbs.blue.schema || world.dbs.green.schema;
    const named = isNamed ? [...world.released].map((side) => [side, MIGRATION] as const) : [];
    const options = { release: Object.fromEntries(named) };
    const now = found(world);
    const plan = planCleaning(now, judge(now), OVER, options);
    if (plan.refused) throw wrong(`no way forward: refused, since ${plan.why}`, story);
    if (plan.actions.length === 0) return;
    story.push(`clean ${JSON.stringify(options)}`);
    world.runAlone(world.clean({ ...PLAIN, options }));
  }
  throw wrong('no way forward: something is left to be cleaned each time', story);
}

/** Certain, as long as a side is closed for the other one's sake; of two that are on their own nothing is left. */
function whatIsLeftSaysWhere(world: CleanedWorld, story: readonly string[]): void {
  const verdict = judge(found(world));
  const isFree = world.isOnItsOwn(otherSide(world.truth.side));
  const isSaid = verdict.kind === 'certain' || (isFree && (verdict.kind === 'both' || 'noRun' in verdict));
  if (!isSaid) throw wrong(`nobody says where writes are: ${verdict.why}`, story);
  for (const feed of Object.values(world.feeds)) {
    if (feed.subscribed || feed.slot !== null) throw wrong('a feed is left', story);
  }
}

const SEED = 20261130;

describe('verdigris doctor --clean', () => {
  it('never opens both sides, wherever it is cut off, and leaves one side that takes writes and is known to', () => {
    fc.assert(
      fc.property(INTERLEAVING, (interleaving) => void play(interleaving, null)),
      { numRuns: 500 },
    );
  });

  it('is refused, gets through, and releases a side by name in the interleavings that are explored', () => {
    const met = { refused: 0, done: 0, lost: 0, released: 0, onGreen: 0, back: 0 };
    fc.assert(
      fc.property(INTERLEAVING, (interleaving) => {
        const { seen: of, released, truth } = play(interleaving, null);
        met.refused += of.refused;
        met.done += of.done;
        met.lost += of.lost;
        met.released += released.size;
        if (truth.epoch === 2) met.onGreen++;
        if (truth.epoch === 3) met.back++;
      }),
      { numRuns: 300, seed: SEED },
    );
    expect(Math.min(...Object.values(met))).toBeGreaterThan(0);
  });

  it.each<[CleaningMutation, RegExp, Partial<Interleaving>?]>([
    ['cleaned by an old look', /both sides/],
    ['the lock of whoever acts is not taken', /both sides/],
    ['a release is not written down', /no way forward/, { moves: 1, orders: [RELEASE], closes: false }],
    ['nobody knows with which epoch the run began', /both sides/],
    ['a decision that is half done is taken for the side that had the writes', /both sides/],
    ['nobody knows that green was lost', /no way forward|the doctor sees both sides open|the doctor is wrong/],
  ])('with the rule broken: %s, the same search finds what goes wrong', (mutation, what, among = {}) => {
    const result = fc.check(
      fc.property(INTERLEAVING, (interleaving) => void play({ ...interleaving, ...among }, mutation)),
      { numRuns: 20_000, seed: SEED, endOnFailure: true },
    );
    expect(result.failed).toBe(true);
    expect(String(result.errorInstance)).toMatch(what);
  });
});
