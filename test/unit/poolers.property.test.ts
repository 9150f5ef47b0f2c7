import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { EntryFile } from '../../src/pgbouncer/entry.js';
import { diagnosePoolers } from '../../src/pgbouncer/diagnose.js';
import { judge } from '../../src/postgres/doctor/who-is-primary.js';
import type { Side } from '../../src/side.js';
import { foundIn, openByHand } from './doctor-model.js';
import { ENTRY, Pooler, SETUP, type PoolerMutation } from './pooler-model.js';
import { World } from './route-and-fence-model.js';
import { wrong } from './story.js';

/*
 * The search of route-and-fence.property.test.ts with a PgBouncer before the application, which clients go through and which may
 * be stopped and started.
 */

/** How clients go on when every worker has died. */
type Way = 'retry' | 'rollback' | 'doctor';

const INTERLEAVING = fc.record({
  moves: fc.nat({ max: 2 }),
  steps: fc.nat({ max: 110 }),
  choices: fc.array(fc.nat(), { minLength: 10, maxLength: 80, size: 'max' }),
  commitInFlight: fc.boolean(),
  mayEnd: fc.boolean(),
  /** Whether the worker of that one is frozen: it wakes up when all others have come to an end, or right before it dies. */
  isFrozen: fc.boolean(),
  stepsAwake: fc.nat({ max: 10 }),
  end: fc.constantFrom<Way | 'nobody dies'>('retry', 'rollback', 'doctor', 'nobody dies', 'nobody dies'),
});

type Interleaving = typeof INTERLEAVING extends fc.Arbitrary<infer T> ? T : never;

function play(
  { moves, steps, isFrozen, stepsAwake, choices, commitInFlight, mayEnd, end }: Interleaving,
  mutation: PoolerMutation | null,
): World {
  const pooler = new Pooler(mutation);
  const world = new World(null, mayEnd, pooler);
  const story: string[] = [];
  const check = (): void => {
    if (world.dbs.blue.writable && world.dbs.green.writable) throw wrong('both sides are open', story);
  };
  world.beginWith(moves, steps, isFrozen);
  story.push(`${moves} moves, ${steps} steps of another one${isFrozen ? ', whose worker is frozen' : ''}`);
  for (const choice of choices) story.push(world.happen(choice, check) ?? 'nothing');
  if (!pooler.isRunning) pooler.start();
  if (end === 'nobody dies') {
    story.push('everybody comes to an end');
    world.comeToAnEnd();
    check();
    if (isEnded(world)) goesOn(world, pooler, newest(world).side, story);
  }
  if (isFrozen) world.wakeUp(stepsAwake);
  check();
  story.push(`${isFrozen ? `the frozen one does ${stepsAwake} steps; ` : ''}every worker dies; ${end}`);
  world.die(commitInFlight);
  takeTheWay(end === 'nobody dies' ? 'retry' : end, world, pooler);
  for (let i = 0; i < 100; i++) world.background();
  check();
  const { side } = newest(world);
  if (!world.dbs[side].writable) throw wrong('no way forward: nobody takes writes', story);
  goesOn(world, pooler, side, story);
  for (const [key, id] of world.acknowledged) {
    if (world.dbs[side].values.get(key) !== id) throw wrong('a write is lost', story);
  }
  return world;
}

/** What is decided was finished, or nothing is decided, and nobody has ended without letting go of the pooler. */
function isEnded(world: World): boolean {
  return world.owed.size === 0 && world.finished >= newest(world).epoch;
}

function newest(world: World): { readonly side: Side; readonly epoch: number } {
  return world.decided.reduce((a, b) => (a.epoch > b.epoch ? a : b));
}

/** Clients go on, and where they come to takes their writes. */
function goesOn(world: World, pooler: Pooler, side: Side, story: readonly string[]): void {
  if (pooler.isPaused) throw wrong('no way forward: clients are paused for ever', story);
  if (pooler.isQuiet) throw wrong('clients share one connection for ever', story);
  if (pooler.shown.leadsTo !== side) throw wrong('clients are led to the side that refuses their writes', story);
  for (let i = 0; i < 5; i++) for (const one of [...world.processes]) if (one.ready()) world.step(one);
  if (world.processes.length > 0) throw wrong('no way forward: a client waits for ever', story);
  const { wal } = world.dbs[side];
  const { length } = wal;
  world.pooledWrite(pooler);
  for (let i = 0; i < 5; i++) for (const one of [...world.processes]) if (one.ready()) world.step(one);
  if (wal.length === length) throw wrong('a client is refused for ever', story);
}

function takeTheWay(way: Way, world: World, pooler: Pooler): void {
  const backwards = world.rollbackBegun;
  if (way === 'doctor') return byHand(world, pooler);
  const isRollback = !backwards && (way === 'rollback' || world.withdrawn);
  if (isRollback) world.runAlone(world.withdraw());
  if (world.withdrawn) return;
  const forward: readonly Side[] = backwards ? ['green'] : ['blue'];
  for (const from of isRollback ? (['blue', 'green'] as const) : forward) {
    for (let i = 0; i < 2; i++) world.runAlone(world.promote(from));
  }
}

/** `verdigris doctor --open --yes`, then what the doctor says of the poolers, as often as it says something is wrong. */
function byHand(world: World, pooler: Pooler): void {
  openByHand(world);
  for (let look = 1; look <= 4; look++) {
    const asked = { ...SETUP, verdict: judge(foundIn(world)), liveness: OVER };
    const findings = diagnosePoolers([pooler.found()], asked);
    for (const { what, next } of findings.filter(({ severity }) => severity === 'problem')) {
      const [, alias] = /give its entries host, port and dbname of "(\w+)"/.exec(next) ?? [];
      if (alias !== undefined) {
        const file = new EntryFile(pooler.file);
        file.point(ENTRY, alias);
        pooler.file = file.toString();
      }
      if (next.includes('RELOAD')) pooler.reload();
      // "see first that it leads where writes are"
      if (/RESUME/.test(next) && !/leads to/.test(what) && look > 1) pooler.isPaused = false;
    }
  }
}

const OVER = { state: 'over', why: 'it was terminated' } as const;

/** Where seldom anything else comes about. */
const LATE: Partial<Interleaving> = { moves: 0, isFrozen: true, mayEnd: false, end: 'nobody dies' };

const SEED = 20261130;

describe('a PgBouncer before the application', () => {
  it('never keeps its clients for ever nor leads them astray, loses none of their writes, and always has a way forward', () => {
    fc.assert(
      fc.property(INTERLEAVING, (interleaving) => void play(interleaving, null)),
      { numRuns: 500 },
    );
  });

  it('is paused, refuses clients that it leads to a closed side, and comes there and back in the interleavings that are explored', () => {
    const seen = { pauses: 0, refused: 0, back: 0 };
    fc.assert(
      fc.property(INTERLEAVING, (interleaving) => {
        const { pooler, dbs } = play(interleaving, null);
        seen.pauses += pooler?.seen.pauses ?? 0;
        seen.refused += pooler?.seen.refused ?? 0;
        if (dbs.blue.row.epoch === 3) seen.back++;
      }),
      { numRuns: 200, seed: SEED },
    );
    expect(Math.min(...Object.values(seen))).toBeGreaterThan(0);
  });

  it.each<[PoolerMutation, RegExp, Partial<Interleaving>?]>([
    ['nobody ends what a dead worker has paused', /paused for ever|share one connection/],
    ['a mark claims no pause', /paused for ever|comes to no end|waits for ever/],
    ['nobody goes on after a try that has failed', /paused for ever/],
    ['the epoch of the mark unchecked', /led to the side that refuses|share one connection/, LATE],
    ['the databases are not asked where writes are', /led to the side|paused for ever|share one connection/],
    ['a late pause has no owner', /paused for ever|share one connection/, { isFrozen: true, end: 'rollback' }],
  ])('with the rule broken: %s, the same search finds what goes wrong', (mutation, what, among = {}) => {
    const result = fc.check(
      fc.property(INTERLEAVING, (interleaving) => void play({ ...interleaving, ...among }, mutation)),
      { numRuns: 20_000, seed: SEED, endOnFailure: true },
    );
    expect(result.failed).toBe(true);
    expect(String(result.errorInstance)).toMatch(what);
  });
});
