import { otherSide, type Side } from '../../src/side.js';
import { session, type Change, type Db, type Feed, type Session } from './database-model.js';
import { ALWAYS, must, type Part, type Program } from './model-parts.js';
import type { WorkersPools } from './pooler-model.js';
import type { World } from './route-and-fence-model.js';

/*
 * Who writes in the model, and who moves writes: programs in the order of promote.ts, finish-promotion.ts and
 * promotion-decision.ts; the functions of schema verdigris are those of state.ts.
 */

/**
 * A transaction of the application: it begins, writes once and commits. One that loses its connection is rolled back.
 *
 * @returns whether the fence has let it through
 */
export function* writer(world: World, side: Side, change: Change): Part<boolean> {
  const db = world.dbs[side];
  const me = {};
  try {
    if (db.armed) {
      yield () => db.exclusive === null;
      if (!db.open) return false;
      db.shared.add(me);
    } else db.unfenced.add(me);
    yield ALWAYS;
    db.write(change);
    if (world.counts(side)) world.acknowledged.set(change.key, change.id);
    return true;
  } finally {
    db.shared.delete(me);
    db.unfenced.delete(me);
  }
}

/** openActorSession(): whoever held the actor's lock before loses that session. */
export function* actorSession(world: World, sessions: Session[], db: Db, ofWorker = true): Part<Session> {
  yield ALWAYS;
  if (db.actor !== null && world.mutation !== 'actor lock not waited for') world.end(db.actor);
  const one = session(sessions, db, ofWorker);
  db.actor = one;
  return one;
}

/**
 * activities/promotion-attempt.ts, tryPromotion() and finishPromotion().
 *
 * @param asked the epoch in which it was asked for
 */
export function* promoter(world: World, from: Side, asked: number, sessions: Session[]): Program {
  const [old, next] = [world.dbs[from], world.dbs[otherSide(from)]];
  const main = yield* actorSession(world, sessions, old);
  const to = yield* actorSession(world, sessions, next);
  const decision = yield* readDecisionAsActor(world, old, main);
  if (!decision.decided && world.mutation !== 'epoch unchecked') must(decision.epoch === asked);
  if (!decision.decided) yield* prepare(world, old, decision.epoch, from === 'blue');
  const epoch = decision.decided ? decision.epoch : yield* holdAndDecide(world, main, to, decision.epoch, sessions);
  yield* openFence(world, to, epoch);
  yield* finish(world, old, next, from === 'blue');
}

/** @param pools are paused before writers are asked to wait. Default: none */
export function* holdAndDecide(
  world: World,
  main: Session,
  to: Session,
  epoch: number,
  sessions: Session[],
  pools: WorkersPools | null = null,
): Part<number> {
  const old = main.db;
  // prepareHold(): what a try before has left.
  yield ALWAYS;
  must(to.alive);
  if (old.side === 'blue') world.feeds[old.side].slot = null;
  if (world.mutation === 'open before decide') yield* openFence(world, to, epoch + 1);
  if (pools !== null) yield* pools.pause(old.side, epoch);
  try {
    yield* hold(world, main, to, epoch);
  } catch (error) {
    world.release(main);
    if (pools !== null) yield* pools.releaseAfterTry();
    throw error;
  }
  main.inFlight = 'setval';
  yield () => main.committed || main.answerLost || !main.alive;
  if (main.committed && !main.answerLost) return epoch + 1;
  const after = yield* readDecision(world, old, session(sessions, old));
  if (!after.decided && pools !== null) yield* pools.releaseAfterTry();
  must(after.decided);
  return after.epoch;
}

/** From the lock to the row of the decision. */
function* hold(world: World, main: Session, to: Session, epoch: number): Part<void> {
  const [old, next] = [main.db, to.db];
  if (world.mutation !== 'lock skipped') {
    yield () => (old.exclusive === null && old.shared.size === 0) || !main.alive;
    must(main.alive);
    old.exclusive = main;
  }
  yield ALWAYS;
  must(main.alive && old.schema && old.armed && old.row.epoch === epoch && old.row.writesOn === old.side);
  const marker = old.wal.length;
  const incoming = world.feeds[next.side];
  if (world.mutation !== 'marker skipped') {
    yield () => (incoming.slot !== null && incoming.slot >= marker) || !main.alive;
    must(main.alive && incoming.slot !== null);
  }
  if (old.side === 'blue') {
    yield ALWAYS;
    must(to.alive);
    world.feeds[old.side].slot = next.wal.length;
  }
  // verdigris.decide
  yield () => old.rowLock === null || !main.alive;
  must(main.alive && old.schema);
  old.rowLock = main;
  must(old.row.epoch === epoch && old.row.writesOn === old.side);
  // Nobody can disarm any more: the guard of disarmFence() waits for the row.
  if (world.mutation !== 'fence checked before the row is locked') must(old.armed);
  main.pending = { epoch: epoch + 1, writesOn: next.side, opening: false };
  yield ALWAYS;
  must(main.alive);
}

/** preparePromotion(): the announcement, the disabled way back, the fence. */
export function* prepare(world: World, old: Db, epoch: number, feedBack: boolean): Part<void> {
  yield () => old.rowLock === null;
  must(old.schema);
  if (old.row.writesOn === old.side) old.row = { ...old.row, opening: true };
  yield ALWAYS;
  if (feedBack) world.feeds[old.side].subscribed = true;
  // CREATE TRIGGER waits for the running writers of the table.
  yield () => old.unfenced.size === 0 && old.rowLock === null;
  must(old.schema && old.row.epoch === epoch && old.row.writesOn === old.side);
  old.fence = ['armed', 'armed'];
}

/** promotion-decision.ts. */
export function* readDecision(world: World, db: Db, by: Session): Part<{ decided: boolean; epoch: number }> {
  yield ALWAYS;
  must(by.alive && db.schema);
  if (db.row.writesOn !== db.side) return { decided: true, epoch: db.row.epoch };
  if (!db.row.opening && db.open) return { decided: false, epoch: db.row.epoch };
  if (world.mutation === 'plain read of a COMMIT without an answer') yield ALWAYS;
  else yield () => (db.exclusive === null && db.shared.size === 0 && db.rowLock === null) || !by.alive;
  must(by.alive && db.schema);
  if (db.row.writesOn === db.side) db.open = true;
  return { decided: db.row.writesOn !== db.side, epoch: db.row.epoch };
}

/** The same by the holder of the actor's lock: whoever held it before is gone, with what it had not committed. */
export function* readDecisionAsActor(world: World, db: Db, by: Session): Part<{ decided: boolean; epoch: number }> {
  yield ALWAYS;
  must(by.alive && db.schema);
  const decided = db.row.writesOn !== db.side;
  if (decided || db.open) return { decided, epoch: db.row.epoch };
  return yield* readDecision(world, db, by);
}

/** verdigris.open_fence: the sequence is set before the transaction is committed, and stays set without it. */
export function* openFence(world: World, by: Session, epoch: number): Part<void> {
  const { db } = by;
  yield () => db.rowLock === null || !by.alive;
  must(by.alive && db.schema);
  db.rowLock = by;
  if (!(db.row.epoch === epoch && db.row.writesOn === db.side)) {
    if (world.mutation !== 'epoch unchecked') must(db.row.epoch === epoch - 1);
    by.pending = { epoch, writesOn: db.side, opening: false };
  }
  db.open = true;
  yield ALWAYS;
  must(by.alive);
  world.commit(by);
}

/** verdigris.close_fence. */
export function* closeFence(world: World, by: Session, epoch: number): Part<void> {
  const { db } = by;
  yield () => db.rowLock === null || !by.alive;
  must(by.alive && db.schema);
  if (world.mutation !== 'epoch unchecked') must(db.row.epoch === epoch && db.row.writesOn !== db.side);
  db.open = false;
}

/** disarmFence(): its guard is read in the transaction that changes the trigger. */
export function* disarm(world: World, db: Db, epoch: number): Part<void> {
  yield () => db.rowLock === null && db.shared.size === 0;
  must(db.schema);
  if (world.mutation !== 'epoch unchecked') must(db.row.epoch === epoch && db.row.writesOn === db.side);
  const [one, other] = db.fence.map((state) => (state === 'armed' ? 'disabled' : state));
  if (one !== undefined && other !== undefined) db.fence = [one, other];
}

/** withdrawOpening(): one statement, which waits for the row and looks at it again. */
export function* withdrawOpening(world: World, db: Db, epoch: number): Part<void> {
  yield () => db.rowLock === null;
  must(db.schema);
  const { row } = db;
  if (world.mutation !== 'epoch unchecked') must(row.epoch === epoch && row.writesOn === db.side);
  db.row = { ...row, opening: false };
}

/** ownership.ts: the run that had the databases is over, and this one wants blue as its blue. */
export function* claim(world: World, by: Session): Part<void> {
  const { db } = by;
  yield () => db.rowLock === null || !by.alive;
  must(by.alive && db.schema);
  db.rowLock = by;
  if (world.mutation === 'a claim opens what is closed') db.open = true;
  // findGivenAway()
  else must(db.open && db.row.writesOn === db.side);
  by.pending = {
    epoch: Math.max(...Object.values(world.dbs).map(({ row }) => row.epoch)) + 1,
    writesOn: 'blue',
    opening: false,
  };
  yield ALWAYS;
  must(by.alive);
  world.commit(by);
}

/** finish-promotion.ts. */
export function* finish(world: World, old: Db, next: Db, feedBack: boolean): Part<void> {
  const [incoming, back] = [world.feeds[next.side], world.feeds[old.side]];
  yield ALWAYS;
  must(next.schema && next.row.writesOn === next.side);
  const { epoch } = next.row;
  const early = world.mutation === 'reverse feed before the old one is off';
  if (early && feedBack) yield* enable(back);
  yield ALWAYS;
  incoming.enabled = false;
  yield () => !incoming.running;
  incoming.subscribed = false;
  yield ALWAYS;
  incoming.slot = null;
  if (!early && feedBack) yield* enable(back);
  yield* disarm(world, next, epoch);
}

function* enable(feed: Feed): Part<void> {
  yield ALWAYS;
  if (!feed.subscribed) return;
  feed.enabled = true;
  feed.running = true;
}
