import { CLEANED } from '../../src/postgres/doctor/clean.js';
import { routeInForce, type Found, type SideFound } from '../../src/postgres/doctor/inventory.js';
import { GREEN_LOST } from '../../src/postgres/doctor/open-blue.js';
import { planCleaning, type CleanAction, type CleanOptions } from '../../src/postgres/doctor/plan-cleaning.js';
import { RELEASED } from '../../src/postgres/doctor/read-state.js';
import { judge } from '../../src/postgres/doctor/who-is-primary.js';
import { otherSide, type Side } from '../../src/side.js';
import { session, type Db, type Session, type TableFence } from './database-model.js';
import { isAway, lookAt, MIGRATION } from './doctor-model.js';
import { ALWAYS, GivenUp, hasGivenUp, must, type Part, type Program } from './model-parts.js';
import { actorSession } from './promotion-model.js';
import { World, type Event } from './route-and-fence-model.js';

/*
 * `verdigris doctor --clean --yes` on the databases of the model: cleanUp() of doctor-command.ts and clean.ts as a generator, in
 * which each action is a step, or several. Who is primary and what is to be done (judge, planCleaning) is the product's.
 */

/** A rule of the cleaning, taken out of the model. */
export type CleaningMutation =
  /** refuseMoved() of clean.ts. */
  | 'cleaned by an old look'
  /** holdActors() of clean.ts. */
  | 'the lock of whoever acts is not taken'
  /** noteRelease() of clean.ts. */
  | 'a release is not written down'
  /** claimedEpoch of read-state.ts, by which hasBeenPrimary() goes. */
  | 'nobody knows with which epoch the run began'
  /** The refusal of planCleaning() while a decision is half done. */
  | 'a decision that is half done is taken for the side that had the writes'
  /** isOnlyWitness() of plan-cleaning.ts, by the outcome that open-blue.ts writes down. */
  | 'nobody knows that green was lost';

/** A cleaning as a person orders it. */
export interface Order {
  readonly options: CleanOptions;
  /** The side that it can't reach. */
  readonly away: Side | undefined;
  /** Before it, `--open --green-is-gone`: green had the writes, and a person says that it is lost for good. */
  readonly greenIsLost: boolean;
  /** Between its look and the locks, workers come to their end. */
  readonly isSlow: boolean;
}

export const OVER = { state: 'over', why: 'it was terminated' } as const;

/** The run is terminated at some point. Workers that have not heard of it go on, and the doctor cleans up beside them. */
export class CleanedWorld extends World {
  /** Sides that have been released by name. */
  readonly released = new Set<Side>();
  /** How many cleanings were refused, and how many have come to their end. */
  readonly seen = { refused: 0, done: 0, lost: 0 };
  /** Green was given up: should it come back, it takes writes until somebody closes it. */
  isGreenLost = false;
  #begun = 0;

  constructor(
    readonly broken: CleaningMutation | null,
    private readonly orders: readonly Order[],
  ) {
    super(null, false);
  }

  /** The newest decision, which nobody forgets. */
  get truth(): { readonly side: Side; readonly epoch: number } {
    return this.decided.reduce((a, b) => (a.epoch > b.epoch ? a : b));
  }

  /** Whether a side that does not have the writes may take some all the same: they are of no concern to the application. */
  isOnItsOwn(side: Side): boolean {
    if (this.released.has(side) || (side === 'green' && this.isGreenLost)) return true;
    return side === 'green' && this.#begun > 0 && this.decided.every((one) => one.side === 'blue');
  }

  override readonly counts = (side: Side): boolean => side === this.truth.side || !this.isOnItsOwn(side);

  override events(): Event[] {
    const events = super.events();
    const order = this.orders[this.#begun];
    if (!this.withdrawn) {
      events.push({ name: 'the run is terminated', happen: () => void (this.withdrawn = true) });
    } else if (order !== undefined) {
      const event = { name: `clean ${JSON.stringify(order)}`, happen: () => void this.clean(order) };
      for (let i = 0; i < 6; i++) events.push(event);
    }
    return events;
  }

  clean(order: Order): ReturnType<World['begin']> {
    this.#begun++;
    return this.begin('clean', (sessions) => cleaning(this, order, sessions));
  }
}

/** What the doctor sees of a side. */
export function seen(world: CleanedWorld, db: Db): SideFound {
  const one = lookAt(world, db);
  if (!one.reached || one.inventory.owner === null) return one;
  const { owner } = one.inventory;
  const known = {
    claimedEpoch: world.broken === 'nobody knows with which epoch the run began' ? db.row.epoch : owner.claimedEpoch,
    outcome: world.broken === 'nobody knows that green was lost' && owner.outcome !== null ? CLEANED : owner.outcome,
  };
  return { ...one, inventory: { ...one.inventory, owner: { ...owner, ...known } } };
}

/** examine() of inventory.ts: both sides, not at the same moment. */
function* examine(world: CleanedWorld, away: Side | undefined): Part<Found> {
  yield ALWAYS;
  const blue = away === 'blue' ? isAway('blue') : seen(world, world.dbs.blue);
  yield ALWAYS;
  const green = away === 'green' ? isAway('green') : seen(world, world.dbs.green);
  return { blue, green };
}

/** planOpeningBlue() and openBlue() of open-blue.ts. What blue does not have is lost: a person has accepted that. */
function* openBlue(world: CleanedWorld, sessions: Session[]): Part<void> {
  const { blue } = world.dbs;
  yield ALWAYS;
  const { epoch, writesOn } = blue.row;
  // Refused.
  if (!blue.schema || blue.exclusive !== null || writesOn !== 'green') return;
  const actor = yield* actorSession(world, sessions, blue, false);
  yield ALWAYS;
  must(actor.alive);
  Object.assign(world.feeds.blue, { subscribed: false, enabled: false, running: false });
  yield () => (blue.exclusive === null && blue.shared.size === 0 && blue.rowLock === null) || !actor.alive;
  must(actor.alive && blue.schema && blue.row.epoch === epoch && blue.row.writesOn === 'green');
  blue.row = { epoch: epoch + 2, writesOn: 'blue', opening: false };
  blue.outcome = GREEN_LOST;
  world.decided.push({ side: 'blue', epoch: epoch + 2 });
  world.isGreenLost = true;
  world.seen.lost++;
  world.acknowledged.clear();
  for (const [key, id] of blue.values) world.acknowledged.set(key, id);
  yield ALWAYS;
  must(actor.alive && blue.schema && blue.row.epoch === epoch + 2);
  blue.open = true;
}

function* cleaning(world: CleanedWorld, { options, away, greenIsLost, isSlow }: Order, sessions: Session[]): Program {
  if (greenIsLost && away === 'green') yield* openBlue(world, sessions);
  const found = yield* examine(world, away);
  const verdict = judge(found);
  const isGuessed = world.broken === 'a decision that is half done is taken for the side that had the writes';
  const plan = planCleaning(
    found,
    isGuessed && verdict.kind === 'nobody'
      ? { kind: 'certain', primary: otherSide(verdict.side), epoch: verdict.epoch, why: '' }
      : verdict,
    OVER,
    options,
  );
  if (plan.refused) {
    world.seen.refused++;
    return;
  }
  yield () => !isSlow || !world.processes.some(({ name }) => name.startsWith('promote'));
  const actors = yield* holdActors(world, found, sessions);
  for (const [side, actor] of actors) yield* refuseMoved(world, actor, found[side]);
  const failedSides = new Set<Side>();
  for (const action of plan.actions) {
    try {
      if (LAST.has(action.kind) && failedSides.has(action.side)) throw new GivenUp();
      const actor = actors.get(action.side);
      if (actor === undefined) throw new GivenUp();
      yield ALWAYS;
      must(actor.alive);
      yield* perform(world, actor, action, options);
    } catch (error) {
      if (!hasGivenUp(error)) throw error;
      failedSides.add(action.side);
    }
  }
  if (failedSides.size === 0) world.seen.done++;
}

const LAST: ReadonlySet<CleanAction['kind']> = new Set(['dropSchema', 'endOwnership', 'forgetRun']);

function* holdActors(world: CleanedWorld, found: Found, sessions: Session[]): Part<Map<Side, Session>> {
  const first = routeInForce(found)?.writesOn ?? 'blue';
  const actors = new Map<Side, Session>();
  for (const side of [first, otherSide(first)]) {
    if (!found[side].reached) continue;
    const db = world.dbs[side];
    const isLocked = world.broken !== 'the lock of whoever acts is not taken';
    actors.set(side, isLocked ? yield* actorSession(world, sessions, db, false) : session(sessions, db, false));
  }
  return actors;
}

function* refuseMoved(world: CleanedWorld, actor: Session, before: SideFound): Part<void> {
  yield ALWAYS;
  must(actor.alive);
  if (world.broken === 'cleaned by an old look') return;
  const now = seen(world, actor.db);
  must(now.reached && now.inventory.settled && standing(now) === standing(before));
}

/** standing() of clean.ts: the route and the flag. */
function standing(one: SideFound): string {
  if (!one.reached) return '';
  const { route, fenceOpen } = one.inventory;
  return `${route?.writesOn ?? ''} ${route?.epoch ?? ''} ${fenceOpen ?? ''}`;
}

function* perform(world: CleanedWorld, actor: Session, action: CleanAction, options: CleanOptions): Part<void> {
  const { db } = actor;
  const { side } = action;
  switch (action.kind) {
    case 'endSession': {
      const one = world.sessions().find(({ pid }) => pid === action.pid);
      if (one !== undefined) world.end(one);
      return;
    }
    case 'dropSubscription':
      Object.assign(world.feeds[side], { subscribed: false, enabled: false, running: false });
      return;
    case 'dropSlot':
      world.feeds[otherSide(side)].slot = null;
      return;
    case 'dropFence':
      if (options.release[side] === MIGRATION) world.released.add(side);
      if (action.released && db.schema && world.broken !== 'a release is not written down') {
        db.outcome = RELEASED;
        yield ALWAYS;
      }
      yield* dropTriggers(actor, ([, other]) => ['absent', other]);
      yield* dropTriggers(actor, ([one]) => [one, 'absent']);
      return;
    case 'dropCopy':
      db.values.clear();
      return;
    case 'endOwnership':
      if (db.schema) db.outcome ??= CLEANED;
      return;
    case 'dropSchema':
      yield () => db.rowLock === null && db.exclusive === null;
      must(actor.alive);
      Object.assign(db, { schema: false, open: false, fence: ['absent', 'absent'] });
      return;
    case 'takeReadsBack':
    case 'dropPublication':
    case 'dropIndex':
    case 'dropProof':
    case 'dropEventTrigger':
    case 'dropUpDown':
    case 'forgetRun':
      throw new Error(`nothing in the model calls for ${action.kind}`);
  }
}

type Fence = readonly [TableFence, TableFence];

/** Of one table, when nobody who has written it is in a transaction any more. */
function* dropTriggers(actor: Session, without: (fence: Fence) => Fence): Part<void> {
  const { db } = actor;
  yield () => (db.shared.size === 0 && db.unfenced.size === 0) || !actor.alive;
  must(actor.alive);
  db.fence = without(db.fence);
}
