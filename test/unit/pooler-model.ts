import { EntryFile } from '../../src/pgbouncer/entry.js';
import type { PoolerFound } from '../../src/pgbouncer/examine.js';
import { notLoaded, tooLate } from '../../src/pgbouncer/instance-errors.js';
import { claimsPauses, markName, parseMark, type Mark } from '../../src/pgbouncer/mark.js';
import { isSameMark, Marking } from '../../src/pgbouncer/marking.js';
import { SETTINGS_OF_PAUSE, settingsOfPause } from '../../src/pgbouncer/pause-settings.js';
import { Turn } from '../../src/pgbouncer/turn.js';
import { VerdigrisError } from '../../src/errors.js';
import { promotionBlocked } from '../../src/postgres/hold.js';
import type { WritesAre } from '../../src/postgres/pools.js';
import type { Side } from '../../src/side.js';
import type { Change } from './database-model.js';
import { ALWAYS, GivenUp, hasGivenUp, must, type Part, type Program } from './model-parts.js';
import { writer } from './promotion-model.js';
import type { World } from './route-and-fence-model.js';

/*
 * A PgBouncer before the application, and what a worker does to it: pgbouncer-pools.ts and instance.ts as generators, each command
 * of the admin console and each change of the file a step of its own. What the file is to say, whose a pause is and who may
 * act (Marking, Turn, EntryFile, claimsPauses) is the product's.
 */

/** A rule of the poolers', taken out of the model. */
export type PoolerMutation =
  /** release() (pgbouncer-pools.ts) does nothing at the beginning of an attempt, and of what follows the move. */
  | 'nobody ends what a dead worker has paused'
  /** claimsPauses() (mark.ts): a pause is only ended by who has made it. */
  | 'a mark claims no pause'
  /** #resumeAfter(), #giveUp() (pgbouncer-pools.ts), the catch of holdAndDecide() (promote.ts), giveTriesUp(). */
  | 'nobody goes on after a try that has failed'
  /** Marking.marked(): a file of a later epoch is not written. */
  | 'the epoch of the mark unchecked'
  /** release() goes by what the worker knows. */
  | 'the databases are not asked where writes are'
  /** `overtaken` of mark.ts is not written. */
  | 'a late pause has no owner';

const POOLER = { connection: 'p', config: {}, file: 'app.ini' } as const;
export const ENTRY = 'app';
export const SETUP = { migration: 'm', databases: [ENTRY], aliases: { blue: 'app_blue', green: 'app_green' } } as const;
const MARK = markName(SETUP.migration);
const FILE = `[databases]
app = host=blue dbname=app pool_size=10
app_blue = host=blue dbname=app
app_green = host=green dbname=app
`;
const QUIET = settingsOfPause(new Map(SETTINGS_OF_PAUSE.map(([name, value]) => [name, String(value)]))) ?? null;

interface Loaded {
  readonly leadsTo: Side;
  readonly mark: Mark | undefined;
}

/** Of a text of the file. Asked all the time, of few texts. */
function read(text: string): Loaded {
  const known = texts.get(text);
  if (known !== undefined) return known;
  const entries = new EntryFile(text);
  const leadsTo = entries.parameter(ENTRY, 'host') === 'green' ? 'green' : 'blue';
  const loaded = { leadsTo, mark: parseMark(entries.parameter(MARK, 'dbname')) } as const;
  if (texts.size > 1_000) texts.clear();
  texts.set(text, loaded);
  return loaded;
}

const texts = new Map<string, Loaded>();

/** The process. */
export class Pooler {
  file = FILE;
  #loaded = FILE;
  isRunning = true;
  isPaused = false;
  /** Whether the settings of a pause are in force. */
  isQuiet = false;
  /** How often it has been started: a session with its console ends with it. */
  starts = 0;
  /** Clients in a transaction. */
  readonly busy = new Set<object>();
  /** What the search has come by. */
  readonly seen = { pauses: 0, refused: 0 };

  constructor(readonly mutation: PoolerMutation | null = null) {}

  get shown(): Loaded & { readonly isPaused: boolean } {
    return { ...read(this.#loaded), isPaused: this.isPaused };
  }

  reload(): void {
    this.#loaded = this.file;
    this.isQuiet = false;
  }

  end(): void {
    Object.assign(this, { isRunning: false, isPaused: false });
    this.busy.clear();
  }

  start(): void {
    this.isRunning = true;
    this.starts++;
    this.reload();
  }

  /** As `verdigris doctor` sees it (examine.ts). */
  found(): PoolerFound {
    const { leadsTo, mark } = this.shown;
    return {
      ...{ connection: POOLER.connection, reached: true, leadsTo, knownEntries: true },
      paused: this.isPaused ? [ENTRY] : [],
      marks: mark === undefined ? [] : [{ entry: MARK, ...mark }],
      quiet: this.isQuiet ? QUIET : null,
      pausedAsAWhole: false,
      differs: read(this.file).leadsTo === leadsTo ? null : `the entry "${ENTRY}" leads elsewhere`,
    };
  }
}

/** Waits while it is paused; then its transaction is one of the side that the entry leads to. */
export function* client(world: World, pooler: Pooler, change: Change): Program {
  yield () => pooler.isRunning && !pooler.isPaused;
  const me = {};
  pooler.busy.add(me);
  try {
    const { leadsTo } = pooler.shown;
    const isDone = yield* writer(world, leadsTo, change);
    if (!isDone) pooler.seen.refused++;
  } finally {
    pooler.busy.delete(me);
  }
}

/** What instance.ts meets where nothing listens, and where its session with the console has ended. */
class NotRunning extends GivenUp {}
class ConsoleLost extends GivenUp {}

/** pgBouncerPools() of one worker, with its Instance. */
export class WorkersPools {
  readonly #turn = new Turn();
  readonly #marking = new Marking(POOLER, SETUP, this.#turn);
  readonly mutation: PoolerMutation | null;
  #wanted: WritesAre | undefined;
  /** This worker has paused it, or was about to. */
  #isOurs = false;
  #settings: 'unknown' | 'quiet' | 'configured' = 'unknown';
  /** Of which start of the process its session is. */
  #console: number | undefined;

  constructor(
    private readonly world: World,
    private readonly pooler: Pooler,
  ) {
    this.mutation = pooler.mutation;
  }

  *prepare(from: Side, epoch: number): Part<void> {
    const isThere = yield* this.#reach(from);
    this.#want({ side: from, epoch });
    if (isThere) yield* this.#refuseUnready(from);
    this.#turn.announce();
    if (isThere) yield* this.#prove(from, epoch);
  }

  *pause(from: Side, epoch: number): Part<void> {
    const isThere = yield* this.#reach(from);
    this.#want({ side: from, epoch });
    this.#turn.announce();
    if (!isThere) return;
    try {
      yield* this.#prove(from, epoch);
      // becomeQuiet()
      this.#settings = 'quiet';
      yield* this.#command();
      this.pooler.isQuiet = true;
      // #refuseIfOvertaken()
      const now = yield* this.#whereWritesAre();
      if (now !== undefined && now.epoch > epoch) throw epochIsOver(epoch);
      this.#marking.refuseUnlessAnnounced((yield* this.#look()).mark, { side: from, epoch });
      this.#isOurs = true;
      yield* this.#command();
      this.pooler.isPaused = true;
      // Instance.pause(): it answers when nobody is at work any more, and never when somebody else has resumed.
      yield ALWAYS;
      if (!this.pooler.isPaused || this.pooler.busy.size > 0) yield* this.#giveUp();
      const { mark, isPaused } = yield* this.#look();
      this.#marking.refuseUnlessAnnounced(mark, { side: from, epoch });
      if (!isPaused) yield* this.#giveUp();
      this.pooler.seen.pauses++;
    } catch (error) {
      if (hasGivenUp(error)) yield* this.#resumeAfter(error);
      throw error;
    }
  }

  /** Never fails. */
  *point(side: Side, epoch: number): Part<void> {
    this.#want({ side, epoch });
    try {
      yield* this.#load({ side, epoch, state: 'moving' });
    } catch (error) {
      if (!hasGivenUp(error)) throw error;
    }
  }

  /** @returns whether it is released */
  *release(): Part<boolean> {
    for (let round = 1; ; round++) {
      const wanted = yield* this.#whereWritesAre();
      if (wanted === undefined) return true;
      const isReleased = yield* this.#releaseOne(wanted);
      const now = yield* this.#whereWritesAre();
      if (now?.epoch === wanted.epoch || round === ROUNDS) return isReleased;
    }
  }

  /** What a try does that has failed. */
  *releaseAfterTry(): Part<void> {
    if (this.mutation !== 'nobody goes on after a try that has failed') yield* this.release();
  }

  /** releaseAll() of pools.ts: what is still held then is for the next attempt. */
  *releaseAll(): Part<void> {
    if (this.mutation === 'nobody ends what a dead worker has paused') return;
    must((yield* this.release()) || (yield* this.release()));
    this.world.owed.clear();
  }

  #want(wanted: WritesAre): void {
    if (this.#wanted === undefined || wanted.epoch >= this.#wanted.epoch) this.#wanted = wanted;
  }

  /** NewestRoute.read(), of both sides at once. */
  *#whereWritesAre(): Part<WritesAre | undefined> {
    if (this.mutation === 'the databases are not asked where writes are') return this.#wanted;
    yield ALWAYS;
    for (const { row, schema } of Object.values(this.world.dbs)) {
      if (schema) this.#want({ side: row.writesOn, epoch: row.epoch });
    }
    return this.#wanted;
  }

  /** @returns whether it runs: one that does not stands in the way on the way to green alone */
  *#reach(from: Side): Part<boolean> {
    for (let look = 1; ; look++) {
      try {
        yield* this.#look();
        return true;
      } catch (error) {
        this.#console = undefined;
        if (from === 'green' && error instanceof NotRunning) return false;
        if (from === 'green' || look === 2) throw error;
      }
    }
  }

  *#refuseUnready(from: Side): Part<void> {
    const { mark, isPaused, leadsTo } = yield* this.#look();
    this.#marking.refuseOthersTurn(mark);
    if (isPaused && !this.#claims(mark)) throw promotionBlocked('it is paused, and not by Verdigris');
    if (leadsTo !== from) throw promotionBlocked('it leads elsewhere');
  }

  *#prove(from: Side, epoch: number): Part<void> {
    yield* this.#refuseUnready(from);
    yield* this.#load({ side: from, epoch, state: 'moving' });
  }

  *#giveUp(): Part<never> {
    yield* this.releaseAfterTry();
    throw promotionBlocked('it did not come to rest');
  }

  *#resumeAfter(error: unknown): Part<void> {
    if (!(error instanceof VerdigrisError && error.type === 'StaleEpoch')) {
      yield* this.releaseAfterTry();
      return;
    }
    try {
      // Instance.giveBack()
      const { mark } = yield* this.#look();
      if (mark?.state === 'settled') yield* this.#settle(mark);
    } catch (late) {
      if (!hasGivenUp(late)) throw late;
    }
  }

  *#releaseOne(wanted: WritesAre): Part<boolean> {
    for (let attempt = 1; ; attempt++) {
      try {
        yield* this.#settle(wanted);
        this.#isOurs = false;
        return true;
      } catch (error) {
        if (!hasGivenUp(error)) throw error;
        this.#console = undefined;
        if (isInOtherHands(error)) return true;
        if (!this.#isOurs && this.#isUntouched(wanted)) return true;
        if (error instanceof NotRunning) return yield* this.#writeOnly(wanted);
        if (attempt === 2) return false;
      }
    }
  }

  #isUntouched({ side, epoch }: WritesAre): boolean {
    const { mark } = read(this.pooler.file);
    return mark === undefined || isSameMark(mark, { side, epoch, state: 'settled' });
  }

  *#writeOnly({ side, epoch }: WritesAre): Part<boolean> {
    this.#takeOver(undefined);
    try {
      yield* this.#write({ side, epoch, state: 'settled' });
      return true;
    } catch (error) {
      if (!hasGivenUp(error)) throw error;
      return isInOtherHands(error);
    }
  }

  // Instance

  *#command(): Part<void> {
    yield ALWAYS;
    if (!this.pooler.isRunning) throw this.#console === undefined ? new NotRunning() : new ConsoleLost();
    this.#console ??= this.pooler.starts;
    if (this.#console !== this.pooler.starts) throw new ConsoleLost();
  }

  *#look(): Part<Pooler['shown']> {
    yield* this.#command();
    return this.pooler.shown;
  }

  *#load(mark: Mark): Part<Pooler['shown']> {
    yield* this.#write(mark);
    yield* this.#reload();
    const loaded = yield* this.#look();
    this.#marking.refuseOthersTurn(loaded.mark);
    if (loaded.leadsTo !== mark.side || !isSameMark(loaded.mark, this.#marking.signed(mark))) throw notLoaded(POOLER);
    return loaded;
  }

  /** changeFile(): what others have written since it was read is changed, and not taken back. */
  *#write(mark: Mark): Part<void> {
    yield ALWAYS;
    const { file } = this.pooler;
    const unchecked = this.mutation === 'the epoch of the mark unchecked' && (read(file).mark?.epoch ?? 0) > mark.epoch;
    const text = this.#marking.marked(unchecked ? FILE : file, mark);
    this.pooler.file = this.mutation === 'a late pause has no owner' ? text.replace('_overtaken', '') : text;
  }

  *#reload(): Part<void> {
    yield* this.#command();
    this.pooler.reload();
    this.#settings = 'configured';
  }

  #takeOver(loaded: Mark | undefined): void {
    this.#turn.takeOver(loaded);
    this.#turn.takeOver(read(this.pooler.file).mark);
  }

  #claims(mark: Mark | undefined): boolean {
    return this.mutation !== 'a mark claims no pause' && claimsPauses(mark);
  }

  *#settle({ side, epoch }: WritesAre): Part<void> {
    const { mark, isPaused, leadsTo } = yield* this.#look();
    if (mark !== undefined && mark.epoch > epoch) throw tooLate(POOLER, mark, { epoch });
    yield ALWAYS;
    this.#takeOver(mark);
    const isOurs = this.#isOurs;
    if (mark === undefined && !isOurs) return;
    this.#marking.refuseOthersTurn(mark);
    const isToBeResumed = isPaused && (isOurs || this.#claims(mark));
    const overtaken = this.#marking.leavesLateOne(mark);
    const mayHoldSettings = isToBeResumed || isOurs || overtaken || this.#settings === 'quiet';
    if (leadsTo !== side) yield* this.#load({ side, epoch, state: 'moving' });
    if (isToBeResumed) yield* this.#resume(epoch);
    const settled: Mark = { side, epoch, state: 'settled', overtaken };
    if (isSameMark(mark, settled) && !mayHoldSettings) {
      yield* this.#write(settled);
      return;
    }
    const loaded = yield* this.#load(settled);
    if (loaded.mark?.overtaken === true && loaded.isPaused) yield* this.#settle({ side, epoch });
  }

  *#resume(epoch: number): Part<void> {
    if (this.#settings !== 'configured') yield* this.#reload();
    const { mark } = yield* this.#look();
    if (mark !== undefined && mark.epoch > epoch) throw tooLate(POOLER, mark, { epoch });
    this.#marking.refuseOthersTurn(mark);
    yield* this.#command();
    this.pooler.isPaused = false;
  }
}

const ROUNDS = 5;

function isInOtherHands(error: unknown): boolean {
  return error instanceof VerdigrisError && (error.type === 'StaleEpoch' || error.type === 'PromotionBlocked');
}

function epochIsOver(epoch: number): VerdigrisError {
  return new VerdigrisError({ type: 'StaleEpoch', message: `epoch ${epoch} is over`, nextStep: 'nothing' });
}
