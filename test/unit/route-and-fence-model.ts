import { otherSide, type Side } from '../../src/side.js';
import { ALWAYS, hasGivenUp, must, type Part, type Program } from './model-parts.js';
import { attempt, withdrawal } from './pooled-promotion-model.js';
import { client, type Pooler, type WorkersPools } from './pooler-model.js';

/*
 * Route, fence and feeds without databases. Programs are written as generators in the order of promote.ts,
 * finish-promotion.ts and promotion-decision.ts; the functions of schema verdigris are those of state.ts. Each `yield`
 * is a point at which anything else may happen: another program goes on, this one freezes for ever (a crash), the server
 * ends its sessions, an answer to COMMIT is lost.
 *
 * pooler-model.ts and pooled-promotion-model.ts add a PgBouncer to it, cleaning-model.ts `verdigris doctor --clean`.
 */

/** A rule of the design, taken out of the model: the property must then find what goes wrong. */
export type Mutation =
  | 'epoch unchecked'
  | 'reverse feed before the old one is off'
  | 'marker skipped'
  | 'open before decide'
  | 'lock skipped'
  | 'plain read of a COMMIT without an answer'
  | 'actor lock not waited for'
  | 'fence checked before the row is locked'
  | 'a claim opens what is closed';

export interface Change {
  readonly key: number;
  readonly id: number;
}

export interface Row {
  epoch: number;
  writesOn: Side;
  opening: boolean;
}

/** A session of a worker in one database, with the transaction that it has open. */
export class Session {
  static #pids = 0;
  readonly pid = ++Session.#pids;
  alive = true;
  /** The message `setval; COMMIT` while the server works on it. */
  inFlight: 'setval' | 'commit' | null = null;
  committed = false;
  answerLost = false;
  pending: Row | null = null;

  /** @param ofWorker not one of the doctor's. Default: true */
  constructor(
    readonly db: Db,
    readonly ofWorker = true,
  ) {}
}

/** The fence of a table. */
export type TableFence = 'absent' | 'armed' | 'disabled';

export class Db {
  row: Row = { epoch: 1, writesOn: 'blue', opening: false };
  /** Not under MVCC and not undone by a rollback: a sequence. */
  open: boolean;
  /** Of two tables: a change of both may be broken off after the first. */
  fence: readonly [TableFence, TableFence];
  /** Whether schema verdigris is there. */
  schema = true;
  /** How the run has ended here. */
  outcome: string | null = null;
  exclusive: Session | null = null;
  rowLock: Session | null = null;
  actor: Session | null = null;
  /** Writers that hold the fence's lock in shared mode. */
  readonly shared = new Set<object>();
  /** Writers whose statement began before the table was armed: arming waits for them. */
  readonly unfenced = new Set<object>();
  readonly wal: Change[] = [];
  readonly values = new Map<number, number>();

  constructor(readonly side: Side) {
    this.open = side === 'blue';
    this.fence = side === 'green' ? ['armed', 'armed'] : ['absent', 'absent'];
  }

  get armed(): boolean {
    return this.fence.every((state) => state === 'armed');
  }

  /** Whether an application that comes now can write. */
  get writable(): boolean {
    return this.open || !this.armed;
  }

  write(change: Change): void {
    this.wal.push(change);
    this.values.set(change.key, change.id);
  }
}

/** The feed that fills a side. */
interface Feed {
  subscribed: boolean;
  enabled: boolean;
  /** Its worker: stops some time after the subscription was disabled. */
  running: boolean;
  /** The slot's position in the source's WAL; null while there is none. */
  slot: number | null;
}

export interface Process {
  readonly name: string;
  readonly program: Part<unknown>;
  readonly sessions: Session[];
  /** A client of the pooler's. */
  readonly isPooled: boolean;
  ready: () => boolean;
}

export interface Event {
  readonly name: string;
  readonly happen: () => void;
  /** Whether the program of which this is a step can go on. */
  readonly goesOn?: () => boolean;
}

/** Of many steps: named less often they would not get far. */
const IS_LONG = /^(promote|clean)/;
/** More than there are at any time. */
const EVENTS = 1_000;
const MOST_STEPS = 16;
const KEYS = 2;
const MOST_WRITERS = 10;
/** More of them in one interleaving would keep every program from getting far. */
const MOST_ACCIDENTS = 3;

export class World {
  readonly dbs: Readonly<Record<Side, Db>> = { blue: new Db('blue'), green: new Db('green') };
  readonly feeds: Readonly<Record<Side, Feed>> = {
    green: { subscribed: true, enabled: true, running: true, slot: 0 },
    blue: { subscribed: false, enabled: false, running: false, slot: null },
  };
  /** The last acknowledged write of each key. */
  readonly acknowledged = new Map<number, number>();
  /** Epochs that workers have known, and which may come back to mind late. */
  readonly decided: { readonly side: Side; readonly epoch: number }[] = [{ side: 'blue', epoch: 1 }];
  readonly processes: Process[] = [];
  /** Sessions whose worker has gone while the server works on their COMMIT: it hears of that afterwards. */
  readonly #orphans: Session[] = [];
  rollbackBegun = false;
  /** Retired, rolled back or given up: its feeds are gone, nobody promotes any more, and another run may begin. */
  over = false;
  #claims = 0;
  #writes = 0;
  #promoters = 0;
  #late = 0;
  #accidents = 0;
  /** The last epoch whose promotion has been finished in order. */
  finished = 1;
  /** How often the run has ended its tries (ended-tries.ts). */
  triesEnded = 0;
  /** The run was rolled back before a decision, or terminated: no attempt of it begins any more. */
  withdrawn = false;
  #withdrawals = 0;
  /** Goes on when all others have come to an end. */
  #frozen: Process | undefined;
  /** Attempts that could not let go of the pooler: their activity is begun again. */
  readonly owed = new Set<object>();

  /**
   * @param mayEnd whether the run may be over, or rolled back, before every worker dies, and others begin: fewer get through a
   * rollback then
   * @param pooler between applications and the databases. Default: none
   */
  constructor(
    readonly mutation: Mutation | null,
    readonly mayEnd: boolean,
    readonly pooler: Pooler | null = null,
  ) {}

  /** Everything that can happen now. Promoters are named more often than accidents, or nothing would get far. */
  events(): Event[] {
    const events: Event[] = [];
    const add = (name: string, happen: () => void, times = 1): void => {
      for (let i = 0; i < times; i++) events.push({ name, happen });
    };
    for (const process of this.processes) {
      if (process === this.#frozen || !process.ready()) continue;
      const goesOn = (): boolean => this.processes.includes(process) && process.ready();
      const event = { name: process.name, happen: () => this.step(process), goesOn };
      for (let i = 0; i < (IS_LONG.test(process.name) ? 12 : 4); i++) events.push(event);
    }
    for (const side of ['blue', 'green'] as const) {
      const feed = this.feeds[side];
      if (this.canApply(side)) add(`apply on ${side}`, () => this.apply(side), 6);
      if (feed.running && !feed.enabled) add(`the worker on ${side} stops`, () => (feed.running = false), 3);
    }
    for (const session of this.sessions()) {
      if (session.inFlight !== null) {
        add(`the server goes on with ${session.inFlight}`, () => this.goOn(session), 6);
        if (this.#accidents < MOST_ACCIDENTS) add('an answer is lost', () => this.#loseAnswer(session), 2);
      }
      if (this.#accidents >= MOST_ACCIDENTS) continue;
      add(`the server ends a session on ${session.db.side}`, () => {
        this.#accidents++;
        this.end(session);
      });
    }
    this.#beginnings(add);
    if (this.pooler !== null) this.#ofPooler(this.pooler, add);
    return events;
  }

  #ofPooler(pooler: Pooler, add: (name: string, happen: () => void, times?: number) => void): void {
    if (this.#writes < MOST_WRITERS) add('a client writes', () => this.pooledWrite(pooler), 4);
    if (!pooler.isRunning) add('the pooler starts', () => pooler.start(), 4);
    else if (this.#accidents < MOST_ACCIDENTS) {
      add('the pooler ends', () => {
        this.#accidents++;
        this.endPooler(pooler);
      });
      if (pooler.isPaused) {
        add('somebody resumes by hand', () => {
          this.#accidents++;
          pooler.isPaused = false;
        });
      }
    }
    if (this.#withdrawals < 1 && !this.rollbackBegun && this.mayEnd) {
      add('a rollback before the decision', () => {
        this.#withdrawals++;
        this.withdraw();
      });
    }
  }

  pooledWrite(pooler: Pooler): void {
    const write = (_: Session[], id: number): Program => client(this, pooler, { key: id % KEYS, id });
    this.begin('write', write, true);
  }

  /** Its clients lose their connections, and what they have not committed. */
  endPooler(pooler: Pooler): void {
    pooler.end();
    for (const process of this.processes.filter(({ isPooled }) => isPooled)) {
      process.program.return(undefined);
      this.processes.splice(this.processes.indexOf(process), 1);
    }
  }

  withdraw(): Process {
    this.withdrawn = true;
    return this.begin('withdraw', (sessions) => withdrawal(this, sessions));
  }

  #loseAnswer(session: Session): void {
    this.#accidents++;
    session.answerLost = true;
  }

  #beginnings(add: (name: string, happen: () => void, times?: number) => void): void {
    if (this.#writes < MOST_WRITERS) {
      for (const side of ['blue', 'green'] as const) {
        add(`a write on ${side}`, () => this.begin('write', (_, id) => writer(this, side, { key: id % KEYS, id })), 2);
      }
    }
    if (this.mayEnd && this.pooler === null && !this.over && this.#promoters > 0 && this.#isSettled())
      add('the run is over', () => this.#endRun());
    if (this.over && this.#claims < 2) {
      add('a new run claims blue', () => {
        this.#claims++;
        this.begin('claim', (s) => claim(this, session(s, this.dbs.blue)));
      });
    }
    if (this.#promoters < 3 && !this.over && !this.withdrawn) {
      const from = this.wayBackIsLive() ? 'green' : 'blue';
      if (from === 'green' || !this.rollbackBegun) add(`promote from ${from}`, () => this.promote(from));
    }
    if (this.#late >= 3) return;
    for (const { side, epoch } of this.decided) {
      const other = otherSide(side);
      const late = (name: string, program: (s: Session[]) => Program): void =>
        add(`late ${name}, epoch ${epoch}`, () => {
          this.#late++;
          this.begin('late', program);
        });
      late(`open of ${side}`, (s) => openFence(this, session(s, this.dbs[side]), epoch));
      late(`close of ${other}`, (s) => closeFence(this, session(s, this.dbs[other]), epoch));
      late(`withdrawal by ${other}`, () => withdrawOpening(this, this.dbs[other], epoch - 1));
      late(`disarming of ${side}`, () => disarm(this, this.dbs[side], epoch));
    }
  }

  /** No promoter is under way, and one side has the writes by its own row. */
  #isSettled(): boolean {
    if (this.processes.some(({ name }) => name.startsWith('promote')) || this.#orphans.some(({ alive }) => alive))
      return false;
    const { row, open } = this.dbs[this.dbs.green.row.writesOn];
    return open && row.epoch === this.dbs.green.row.epoch && !this.dbs.blue.row.opening && !this.dbs.green.row.opening;
  }

  /** retire, or the compensations of a rollback. */
  #endRun(): void {
    this.over = true;
    for (const feed of Object.values(this.feeds))
      Object.assign(feed, { subscribed: false, enabled: false, slot: null });
  }

  promote(from: Side): Process {
    this.#promoters++;
    if (from === 'green') this.rollbackBegun = true;
    const { epoch } = this.dbs[from].row;
    return this.begin(`promote from ${from}`, (sessions) =>
      this.pooler === null ? promoter(this, from, epoch, sessions) : attempt(this, this.pooler, from, epoch, sessions),
    );
  }

  /**
   * Where a search begins that would seldom come so far: writes have been moved by whole promotions, there and back, and
   * another one is under way.
   *
   * @param steps that it has done
   * @param isFrozen whether it stays there until all others have come to an end
   */
  beginWith(moves: number, steps: number, isFrozen = false): void {
    for (let move = 0; move < moves; move++) this.runAlone(this.promote(move % 2 === 0 ? 'blue' : 'green'));
    if (moves === 2) return;
    const promotion = this.promote(moves === 0 ? 'blue' : 'green');
    this.#promoters = 1;
    for (let step = 0; step < steps && this.processes.includes(promotion); step++) {
      this.background();
      if (promotion.ready()) this.step(promotion);
    }
    if (isFrozen) this.#frozen = promotion;
  }

  begin(name: string, program: (sessions: Session[], id: number) => Part<unknown>, isPooled = false): Process {
    const sessions: Session[] = [];
    const id = name === 'write' ? ++this.#writes : 0;
    const process: Process = { name, program: program(sessions, id), sessions, ready: ALWAYS, isPooled };
    this.processes.push(process);
    return process;
  }

  /**
   * Something that can happen now, by a number: which, and of a program how many steps in a row.
   *
   * @returns its name; undefined when nothing can happen
   */
  happen(choice: number, after: () => void): string | undefined {
    const events = this.events();
    const event = events[choice % events.length];
    if (event === undefined) return undefined;
    const most = Math.floor(choice / EVENTS) % MOST_STEPS;
    for (let step = 0; step === 0 || (step <= most && event.goesOn?.() === true); step++) {
      event.happen();
      after();
    }
    return event.name;
  }

  /** Lets a program go on to its next point. */
  step(process: Process): void {
    try {
      const next = process.program.next();
      if (next.done !== true) {
        process.ready = next.value;
        return;
      }
    } catch (error) {
      if (!hasGivenUp(error)) throw error;
    }
    for (const one of process.sessions) {
      if (one.inFlight === null) this.end(one);
      else this.#orphans.push(one);
    }
    this.processes.splice(this.processes.indexOf(process), 1);
  }

  sessions(): Session[] {
    return [...this.#orphans, ...this.processes.flatMap(({ sessions }) => sessions)].filter((one) => one.alive);
  }

  /** The server rolls back what a session has not committed; a sequence's value stays. */
  end(one: Session): void {
    one.alive = false;
    one.inFlight = null;
    this.release(one);
    if (one.db.actor === one) one.db.actor = null;
  }

  release(one: Session): void {
    one.pending = null;
    if (one.db.exclusive === one) one.db.exclusive = null;
    if (one.db.rowLock === one) one.db.rowLock = null;
  }

  commit(one: Session): void {
    if (one.pending !== null) {
      one.db.row = one.pending;
      if (!this.decided.some(({ epoch }) => epoch === one.db.row.epoch)) {
        this.decided.push({ side: one.db.row.writesOn, epoch: one.db.row.epoch });
      }
    }
    this.release(one);
  }

  goOn(one: Session): void {
    if (one.inFlight === 'setval') {
      one.db.open = false;
      one.inFlight = 'commit';
    } else {
      this.commit(one);
      one.committed = true;
      one.inFlight = null;
      if (this.#orphans.includes(one)) this.end(one);
    }
  }

  canApply(side: Side): boolean {
    const { running, slot } = this.feeds[side];
    return running && slot !== null && slot < this.dbs[otherSide(side)].wal.length;
  }

  /** Applied changes are in the WAL as any other: a feed in the other direction would send them on. */
  apply(side: Side): void {
    const feed = this.feeds[side];
    const change = this.dbs[otherSide(side)].wal[feed.slot ?? 0];
    if (change === undefined) return;
    this.dbs[side].write(change);
    feed.slot = (feed.slot ?? 0) + 1;
  }

  /** Whether what is written on a side is the application's data. Always; but see CleanedWorld. */
  readonly counts: (side: Side) => boolean = ALWAYS;

  wayBackIsLive(): boolean {
    return this.feeds.blue.enabled && this.dbs.green.row.writesOn === 'green';
  }

  /**
   * Every worker has died; the servers end what was open, applications finish. Then one worker alone does what the run
   * asks for, as the next attempt of the activity does.
   */
  recover(commitInFlight: boolean): void {
    this.die(commitInFlight);
    const from = this.rollbackBegun ? 'green' : 'blue';
    for (let i = 1; i <= 3 && !this.over; i++) this.runAlone(this.promote(from));
    for (let i = 0; i < 100; i++) this.background();
  }

  /** @param commitInFlight whether a COMMIT that a server works on goes through */
  die(commitInFlight: boolean): void {
    for (const one of this.sessions()) {
      while (commitInFlight && one.inFlight !== null) this.goOn(one);
      this.end(one);
    }
    for (const process of [...this.processes]) {
      if (process.name !== 'write') this.processes.splice(this.processes.indexOf(process), 1);
    }
  }

  /** The worker that was frozen goes on for so many steps. */
  wakeUp(steps: number): void {
    const process = this.#frozen;
    this.#frozen = undefined;
    for (let step = 0; step < steps && process !== undefined && this.processes.includes(process); step++) {
      if (process.ready()) this.step(process);
    }
  }

  /** One worker, while applications write on. @throws Error when it waits for ever */
  runAlone(worker: Process): void {
    for (let i = 0; i < 300 && this.processes.length > 0; i++) {
      this.background();
      for (const process of [...this.processes]) if (process.ready()) this.step(process);
    }
    if (this.processes.includes(worker)) throw new Error('no way forward: the worker waits for ever');
  }

  /**
   * Nobody dies, and nothing new begins: every program comes to its end. A session whose hold lasts is ended by its server;
   * clients may wait on.
   */
  comeToAnEnd(): void {
    for (let i = 0; i < 1_000; i++) {
      this.background();
      const ready = this.processes.filter((process) => process !== this.#frozen && process.ready());
      for (const process of ready) if (process.ready()) this.step(process);
      if (ready.length > 0) continue;
      const waiting = this.sessions().filter((one) => this.#frozen?.sessions.includes(one) !== true);
      if (waiting.length > 0) for (const one of waiting) this.end(one);
      else if (this.#frozen === undefined) return;
      else this.#frozen = undefined;
    }
    throw new Error('no way forward: a program comes to no end');
  }

  /** What goes on by itself. */
  background(): void {
    for (const side of ['blue', 'green'] as const) {
      const feed = this.feeds[side];
      if (this.canApply(side)) this.apply(side);
      if (!feed.enabled) feed.running = false;
    }
    for (const one of this.sessions()) if (one.inFlight !== null) this.goOn(one);
  }
}

export function session(sessions: Session[], db: Db, ofWorker = true): Session {
  const one = new Session(db, ofWorker);
  sessions.push(one);
  return one;
}

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
function* promoter(world: World, from: Side, asked: number, sessions: Session[]): Program {
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
function* closeFence(world: World, by: Session, epoch: number): Part<void> {
  const { db } = by;
  yield () => db.rowLock === null || !by.alive;
  must(by.alive && db.schema);
  if (world.mutation !== 'epoch unchecked') must(db.row.epoch === epoch && db.row.writesOn !== db.side);
  db.open = false;
}

/** disarmFence(): its guard is read in the transaction that changes the trigger. */
function* disarm(world: World, db: Db, epoch: number): Part<void> {
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
function* claim(world: World, by: Session): Part<void> {
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
