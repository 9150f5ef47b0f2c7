import { otherSide, type Side } from '../../src/side.js';
import { Db, session, type Feed, type Session } from './database-model.js';
import { ALWAYS, hasGivenUp, type Part, type Program } from './model-parts.js';
import { attempt, withdrawal } from './pooled-promotion-model.js';
import { client, type Pooler } from './pooler-model.js';
import { claim, closeFence, disarm, openFence, promoter, withdrawOpening, writer } from './promotion-model.js';

/*
 * Route, fence and feeds without databases: all that can happen in them, in any order. Programs are written as generators
 * (promotion-model.ts). Each `yield` is a point at which anything else may happen: another program goes on, this one
 * freezes for ever (a crash), the server ends its sessions, an answer to COMMIT is lost.
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
