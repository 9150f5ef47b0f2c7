import { otherSide, type Side } from '../../src/side.js';
import { session, type Db, type Session } from './database-model.js';
import { ALWAYS, hasGivenUp, must, type Part, type Program } from './model-parts.js';
import { WorkersPools, type Pooler } from './pooler-model.js';
import {
  actorSession,
  finish,
  holdAndDecide,
  openFence,
  prepare,
  readDecision,
  readDecisionAsActor,
  withdrawOpening,
} from './promotion-model.js';
import type { World } from './route-and-fence-model.js';

/* An attempt of the activity `promote` with what follows it, and the end of its tries, where there is a pooler. */

/**
 * activities/promotion-attempt.ts and promotion-finish.ts.
 *
 * @param epoch the one in which it was asked for
 */
export function* attempt(world: World, pooler: Pooler, from: Side, epoch: number, sessions: Session[]): Program {
  const [old, next] = [world.dbs[from], world.dbs[otherSide(from)]];
  const pools = new WorkersPools(world, pooler);
  const own = session(sessions, old);
  yield ALWAYS;
  const tries = world.triesEnded;
  let moved: number;
  try {
    const earlier = yield* decidedByEarlierAttempt(world, old, own, sessions);
    if (!earlier) {
      // prepareTries()
      yield* pools.releaseAll();
      yield* prepare(world, old, epoch, from === 'blue');
      yield* pools.prepare(from, epoch);
    }
    // tryPromotion()
    const main = yield* actorSession(world, sessions, old);
    const to = yield* actorSession(world, sessions, next);
    const decision = yield* readDecisionAsActor(world, old, main);
    if (!decision.decided) must(decision.epoch === epoch && (from === 'green' || world.triesEnded === tries));
    moved = decision.decided ? decision.epoch : yield* holdAndDecide(world, main, to, epoch, sessions, pools);
    yield* openFence(world, to, moved);
    yield* pools.point(next.side, moved);
    yield* pools.release();
  } catch (error) {
    if (hasGivenUp(error)) yield* giveTriesUp(world, pools, old, epoch, { own, sessions });
    throw error;
  }
  for (const one of sessions) world.end(one);
  yield* new WorkersPools(world, pooler).releaseAll();
  yield* finish(world, old, next, from === 'blue');
  world.finished = Math.max(world.finished, moved);
}

/** Where the try is announced still, whoever acts is ended first (askDecision()). */
function* decidedByEarlierAttempt(world: World, old: Db, own: Session, sessions: Session[]): Part<boolean> {
  yield ALWAYS;
  must(own.alive && old.schema);
  if (!old.row.opening) return (yield* readDecision(world, old, own)).decided;
  const actor = yield* actorSession(world, sessions, old);
  const { decided } = yield* readDecisionAsActor(world, old, actor);
  world.end(actor);
  return decided;
}

/** activities/promotion-withdraw.ts: what has been decided is left as it is. */
function* giveTriesUp(
  world: World,
  pools: WorkersPools,
  old: Db,
  epoch: number,
  { own, sessions }: { readonly own: Session; readonly sessions: Session[] },
): Part<void> {
  // The sessions of the try are closed.
  for (const one of sessions) if (one !== own && one.inFlight === null) world.end(one);
  world.owed.add(pools);
  try {
    yield* withdrawOpening(world, old, epoch);
  } catch (error) {
    if (!hasGivenUp(error)) throw error;
  }
  const { decided } = yield* readDecision(world, old, session(sessions, old));
  if (pools.mutation !== 'nobody goes on after a try that has failed' && !decided) yield* pools.releaseAll();
  world.owed.delete(pools);
}

/** withdrawPromotion: a rollback before the decision. */
export function* withdrawal(world: World, sessions: Session[]): Program {
  const { pooler } = world;
  const { blue } = world.dbs;
  const own = session(sessions, blue);
  yield ALWAYS;
  must(own.alive && pooler !== null);
  const { epoch } = blue.row;
  world.triesEnded++;
  // refuseDecided()
  const actor = yield* actorSession(world, sessions, blue);
  const { decided } = yield* readDecisionAsActor(world, blue, actor);
  // WritesOnGreen: the run finishes what was decided, and moves the writes back.
  if (decided) world.withdrawn = false;
  must(!decided);
  world.end(actor);
  yield* withdrawOpening(world, blue, epoch);
  if (pooler !== null) yield* new WorkersPools(world, pooler).releaseAll();
}
