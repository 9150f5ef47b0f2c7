import { VerdigrisError } from '../errors.js';
import { withoutNextStep } from '../failure-text.js';
import { promotionBlocked } from '../postgres/hold.js';
import {
  notReleased,
  PoolerAway,
  PoolerAwaited,
  type Pools,
  type Unreleased,
  type WritesAre,
} from '../postgres/pools.js';
import { otherSide, type Side } from '../side.js';
import type { ClientPool } from './client-pools.js';
import { ConsoleLost, ConsoleRefused, isNotRunning } from './console.js';
import { Instance } from './instance.js';
import { claimsPauses, markName, type Mark } from './mark.js';
import type { PgBouncers } from './pgbouncer.js';
import { Turn } from './turn.js';
import { tlsFault } from '../postgres/tls-fault.js';
import { within } from '../timing.js';

/** What the pools ask of the databases; each may be left out. */
export interface DatabasesAsked {
  /** Where writes are, by the newest route row. Without it: where the last pause or point was. */
  readonly whereWritesAre?: () => Promise<WritesAre | undefined>;
  /** Describes the open transactions of these backends of a side that are older than so many ms, for people. */
  readonly openTransactions?: (side: Side, pids: readonly number[], olderThanMs: number) => Promise<string | null>;
  /** Describes those of these backends that have had no transaction for so many ms, for people. */
  readonly heldSessions?: (side: Side, pids: readonly number[], forMs: number) => Promise<string | null>;
  /** What stops this PgBouncer from being led to the other side; empty when nothing does. Asked by prepare(). */
  readonly obstacles?: (instance: Instance, to: Side) => Promise<readonly string[]>;
  /** Hears of entries whose clients have got no server connection after they were led to a side. */
  readonly unserved?: (what: string, side: Side, pools: readonly ClientPool[]) => void;
  /** Hears of one that could not be led to a side, moved or not, since nothing listens at its address. */
  readonly notTold?: (what: string, side: Side) => void;
  readonly close?: () => Promise<void>;
}

/** How often release() looks whether writes have been moved meanwhile. */
const ROUNDS = 5;
/**
 * How long a look waits for promotions of other migrations: most are over sooner, and nobody's clients wait but theirs.
 * Whoever asks comes again, and looks at all else anew.
 */
const OTHERS_OVER_WITHIN_MS = 3_000;
/** How long all are waited for that load where to go: they do within milliseconds. */
const POINTED_WITHIN_MS = 500;

/**
 * All PgBouncers of a migration as one: all are paused or none, and all are released whatever happens. Runs on what is
 * there: a worker that takes over finds pauses by asking, and marks tell which are ours. One worker's try has one of
 * these: when another one has announced a pause since, it leaves that alone.
 *
 * @example
 * const pools = pgBouncerPools({ migration, instances, databases: ['orders'], aliases, pauseTimeoutMs: 1_000 });
 * await pools.pause('blue', epoch);          // throws: nothing is paused
 * await pools.point('green', epoch + 1);
 * const unreleased = await pools.release();  // again until it is empty
 * await pools.close();
 */
export function pgBouncerPools(setup: PgBouncers, asked: DatabasesAsked = {}): Pools {
  return new PgBouncerPools(setup, asked);
}

class PgBouncerPools implements Pools {
  readonly #instances: readonly Instance[];
  /** Where the entries are to lead, as far as this worker knows. */
  #wanted: WritesAre | undefined;
  /** Those that this worker has paused or was about to pause. */
  readonly #ours = new Set<Instance>();
  /** What point() has begun, which never fails. */
  readonly #loading = new Map<Instance, Promise<void>>();
  readonly #turn = new Turn();

  constructor(
    private readonly setup: PgBouncers,
    private readonly asked: DatabasesAsked,
  ) {
    this.#instances = setup.instances.map((pooler) => new Instance(pooler, setup, this.#turn));
  }

  async prepare(from: Side, epoch: number): Promise<void> {
    const live = await this.#reach(from);
    this.#want({ side: from, epoch });
    await allDone(live.map((instance) => this.#refuseUnready(instance, from, epoch)));
    if (from === 'blue') await this.#untilOthersAreOver(live);
    this.#turn.announce();
    try {
      await allDone(live.map((instance) => this.#prove(instance, from, epoch)));
      await this.#refuseObstacles(live, from);
    } catch (error) {
      // Whose turn it is must not meet a mark of one that waits.
      if (error instanceof PoolerAwaited) await this.release();
      throw error;
    }
  }

  async #refuseObstacles(live: readonly Instance[], from: Side): Promise<void> {
    const { obstacles } = this.asked;
    if (obstacles === undefined) return;
    const found = (await Promise.all(live.map((instance) => obstacles(instance, otherSide(from))))).flat();
    if (found.length === 0) return;
    await allDone(live.map((instance) => this.#refuseLost(instance, from)));
    throw promotionBlocked(found.join('; '));
  }

  /** What is found of one that ends meanwhile says no more than that. */
  async #refuseLost(instance: Instance, from: Side): Promise<void> {
    try {
      await instance.look();
    } catch (error) {
      await instance.close();
      throw awaitedOr(blockedBy, error, from);
    }
  }

  async pause(from: Side, epoch: number): Promise<void> {
    const live = await this.#reach(from);
    this.#want({ side: from, epoch });
    try {
      await this.#refuseLongTransactions(live, from);
    } catch (error) {
      throw awaitedOr(refusedOrAsItIs, error, from);
    }
    this.#turn.announce();
    try {
      await allDone(
        live.map(async (instance) => {
          await this.#prove(instance, from, epoch);
          await instance.openPauses();
          await instance.becomeQuiet();
        }),
      );
      await this.#refuseIfOvertaken(live, from, epoch);
      for (const instance of live) this.#ours.add(instance);
      const { pauseTimeoutMs } = this.setup;
      const results = await allDone(
        live.map(async (instance) => {
          await instance.untilNobodyLogsIn(pauseTimeoutMs);
          return { instance, result: await instance.pause({ side: from, epoch }, pauseTimeoutMs) };
        }),
      );
      const late = results.flatMap(({ instance, result }) =>
        result === 'paused' ? [] : [{ instance, pids: result.busyBackends }],
      );
      if (late.length > 0) await this.#giveUp(late, from);
    } catch (error) {
      await this.#resumeAfter(error);
      throw awaitedOr(refusedOrAsItIs, error, from);
    }
  }

  /** One that is slow does not keep the clients of the others waiting: its own release waits for it. */
  async point(side: Side, epoch: number): Promise<void> {
    this.#want({ side, epoch });
    for (const instance of this.#instances) {
      const loading = instance.load({ side, epoch, state: 'moving' }).then(
        () => undefined,
        () => undefined,
      );
      this.#loading.set(instance, loading);
    }
    await within(Promise.all(this.#loading.values()), POINTED_WITHIN_MS, undefined);
  }

  async release(): Promise<readonly Unreleased[]> {
    for (let round = 1; ; round++) {
      const wanted = await this.#whereWritesAre();
      if (wanted === undefined) return this.#maybePaused();
      const unreleased = (
        await Promise.all(this.#instances.map((instance) => this.#releaseOne(instance, wanted)))
      ).flat();
      // A worker that was frozen meanwhile may have led them back to where writes were before.
      const now = await this.#whereWritesAre();
      if (now?.epoch === wanted.epoch || round === ROUNDS) return unreleased;
    }
  }

  /** Those that may hold clients by a pause of ours, while nobody says where these are to go. */
  async #maybePaused(): Promise<readonly Unreleased[]> {
    const may = await Promise.all(this.#instances.map((instance) => instance.mayBePaused()));
    const why = 'neither database says where writes are, so its clients are not led there';
    return this.#instances.flatMap(({ pooler }, i) => (may[i] === true ? [{ pooler: pooler.connection, why }] : []));
  }

  async close(): Promise<void> {
    await Promise.all([...this.#instances.map((instance) => instance.close()), this.asked.close?.()]);
  }

  #want(wanted: WritesAre): void {
    if (this.#wanted === undefined || wanted.epoch >= this.#wanted.epoch) this.#wanted = wanted;
  }

  async #whereWritesAre(): Promise<WritesAre | undefined> {
    const found = await this.asked.whereWritesAre?.().catch(() => undefined);
    if (found !== undefined) this.#want(found);
    return this.#wanted;
  }

  /**
   * Those that run. On the way to green, one that does not is a reason to wait: somebody may be about to start it. On the
   * way back it must not stand in the way: nobody comes to it any more, and it reads the file when it starts.
   */
  async #reach(from: Side): Promise<readonly Instance[]> {
    const reached = await Promise.all(
      this.#instances.map(async (instance) => {
        try {
          await this.#look(instance, from);
          return [instance];
        } catch (error) {
          await instance.close();
          if (from === 'green' && isNotRunning(error)) return [];
          throw awaitedOr(blockedBy, error, from);
        }
      }),
    );
    return reached.flat();
  }

  /** A session that has ended says nothing of a PgBouncer that was restarted: on the way to green a new one does. */
  async #look(instance: Instance, from: Side): Promise<void> {
    try {
      await instance.look();
    } catch (error) {
      if (from === 'green' || (error instanceof VerdigrisError && !(error instanceof ConsoleLost))) throw error;
      await instance.close();
      await instance.look();
    }
  }

  /** @throws VerdigrisError PromotionBlocked when it is in other hands, or leads elsewhere. Looks only. */
  async #refuseUnready(instance: Instance, from: Side, epoch: number): Promise<void> {
    const { connection } = instance.pooler;
    const { paused, mark, leadsTo } = await instance.look();
    instance.refuseOthersTurn(mark);
    await this.#refuseEarlierRun(instance, mark, epoch);
    if (paused.length > 0 && !claimsPauses(mark)) {
      throw promotionBlocked(`"${paused.join('", "')}" is paused on PgBouncer "${connection}", and not by Verdigris`);
    }
    await instance.refusePausedAsAWhole();
    if (leadsTo !== from) {
      const where = leadsTo ?? 'neither blue nor green';
      throw promotionBlocked(`PgBouncer "${connection}" leads to ${where}, while writes are on ${from}`);
    }
  }

  /**
   * Waits a while for promotions of other migrations. Nothing is announced meanwhile: of two that hold one PgBouncer each and
   * wait for the other's, neither would come to its end.
   *
   * @throws PoolerTaken
   */
  async #untilOthersAreOver(live: readonly Instance[]): Promise<void> {
    try {
      await allDone(live.map((instance) => instance.refuseOtherPromotions(OTHERS_OVER_WITHIN_MS)));
    } catch (error) {
      throw blockedBy(error);
    }
  }

  /** Shows that it loads what we write, before anybody has to wait: the entries lead where they did. */
  async #prove(instance: Instance, from: Side, epoch: number): Promise<void> {
    try {
      await this.#refuseUnready(instance, from, epoch);
      // The way back waits for nobody else's promotion: no longer than a pause of it lasts.
      if (from === 'blue') await instance.refuseOtherPromotions(0);
      await instance.load({ side: from, epoch, state: 'moving' });
      // Of two that announce at once, at least one sees the other.
      if (from === 'blue') await instance.refuseOtherPromotions(0);
    } catch (error) {
      if (error instanceof VerdigrisError && error.type === 'StaleEpoch') throw error;
      throw awaitedOr(blockedBy, error, from);
    }
  }

  /**
   * A mark of a later epoch than the databases have is no decision of this run: one of an earlier run of the name has begun by
   * a clock that was ahead. Nobody goes on there, so people are told.
   */
  async #refuseEarlierRun({ pooler }: Instance, mark: Mark | undefined, epoch: number): Promise<void> {
    if (mark?.state !== 'settled' || mark.epoch <= epoch) return;
    const now = await this.asked.whereWritesAre?.().catch(() => undefined);
    if (now === undefined || now.epoch > epoch) return;
    throw promotionBlocked(
      `PgBouncer "${pooler.connection}" has the mark of an earlier run of this name, of epoch ${mark.epoch}, as a clock that was ahead makes it; this run is at epoch ${epoch}. Remove the entry "${markName(this.setup.migration)}" from ${pooler.file} and RELOAD`,
    );
  }

  /** Whoever was frozen since it announced the pause must not pause for writes that others have moved. */
  async #refuseIfOvertaken(live: readonly Instance[], from: Side, epoch: number): Promise<void> {
    const now = await this.#whereWritesAre();
    if (now !== undefined && now.epoch > epoch) throw epochIsOver(now.epoch, epoch);
    await allDone(live.map((instance) => instance.refuseUnlessAnnounced({ side: from, epoch })));
  }

  /** A transaction that is older than the pause may take would only make clients wait for nothing. */
  async #refuseLongTransactions(live: readonly Instance[], from: Side): Promise<void> {
    const { openTransactions } = this.asked;
    if (openTransactions === undefined) return;
    const pids = (await Promise.all(live.map((instance) => instance.busyBackends()))).flat();
    if (pids.length === 0) return;
    const old = await openTransactions(from, pids, this.setup.pauseTimeoutMs);
    if (old !== null) throw promotionBlocked(`PgBouncer would have to wait for ${old}`);
  }

  /** Somebody's transaction did not end in time: everybody goes on first, then who was in the way is described. */
  async #giveUp(
    late: readonly { readonly instance: Instance; readonly pids: readonly number[] | undefined }[],
    from: Side,
  ): Promise<never> {
    const unreleased = await this.release();
    const names = late.map(({ instance }) => `"${instance.pooler.connection}"`).join(', ');
    const pids = late.flatMap((one) => one.pids ?? []);
    const who = await this.#whoIsAt(pids, from).catch(() => null);
    const nobody = late.some((one) => one.pids === undefined) ? 'a console that does not answer' : 'nobody any more';
    const blocked = promotionBlocked(
      `PgBouncer ${names} did not come to rest within ${this.setup.pauseTimeoutMs} ms. In the way: ${who ?? nobody}`,
    );
    throw unreleased.length === 0 ? blocked : notReleased(unreleased, blocked);
  }

  /** A client in session mode, or one that replicates, keeps its server connection without a transaction as well. */
  async #whoIsAt(pids: readonly number[], from: Side): Promise<string | null | undefined> {
    const { openTransactions, heldSessions } = this.asked;
    return (await openTransactions?.(from, pids, 0)) ?? (await heldSessions?.(from, pids, this.setup.pauseTimeoutMs));
  }

  async #resumeAfter(error: unknown): Promise<void> {
    if (error instanceof VerdigrisError && error.type === 'StaleEpoch') {
      await Promise.allSettled(this.#instances.map((instance) => instance.giveBack(this.#ours.has(instance))));
      return;
    }
    const unreleased = await this.release();
    if (unreleased.length > 0) throw notReleased(unreleased, error);
  }

  async #releaseOne(instance: Instance, wanted: WritesAre): Promise<readonly Unreleased[]> {
    await this.#loading.get(instance);
    for (let attempt = 1; ; attempt++) {
      try {
        await instance.settle(wanted, this.#ours.has(instance));
        this.#ours.delete(instance);
        this.#tellUnserved(instance, wanted);
        return [];
      } catch (error) {
        await instance.close();
        if (isInOtherHands(error)) return [];
        if (isNotRunning(error)) this.#tellNotTold(instance, wanted);
        if (!this.#ours.has(instance) && (await instance.isUntouched(wanted))) return [];
        if (isNotRunning(error)) return await this.#writeOnly(instance, wanted);
        if (attempt >= 2) return [{ pooler: instance.pooler.connection, why: whyOf(error) }];
      }
    }
  }

  #tellUnserved(instance: Instance, { side }: WritesAre): void {
    const unserved = instance.takeUnserved();
    if (unserved.length === 0) return;
    const whose = unserved.map(({ database, user }) => `"${database}" (user "${user}")`).join(', ');
    const pooler = instance.pooler.connection;
    this.asked.unserved?.(
      `clients of ${whose} have got no connection to ${side} through PgBouncer "${pooler}"`,
      side,
      unserved.map(({ database, user }) => ({ pooler, database, user })),
    );
  }

  /**
   * One that has ended has no clients. One that is told to end by SIGTERM has from 1.23 on: it closes its address, and goes
   * on with those who are connected, by what it has loaded.
   */
  #tellNotTold({ pooler: { connection } }: Instance, { side }: WritesAre): void {
    this.asked.notTold?.(
      `nothing listens at the address of PgBouncer "${connection}", so it has not been told that writes are on ${side}. If it is shutting down (from 1.23 on SIGTERM waits for its clients), they stay on ${otherSide(side)}, which refuses their writes, until they leave: SIGQUIT ends it. Nothing, if it has ended: it reads its file when it starts`,
      side,
    );
  }

  /** It does not run. When it starts it is not paused, and leads where its file says. */
  async #writeOnly(instance: Instance, wanted: WritesAre): Promise<readonly Unreleased[]> {
    try {
      await instance.settleFile(wanted);
      return [];
    } catch (error) {
      if (isInOtherHands(error)) return [];
      return [{ pooler: instance.pooler.connection, why: whyOf(error) }];
    }
  }
}

/** Like Promise.all, but a failure waits for the others: what undoes it must not overtake them. */
async function allDone<T>(work: readonly Promise<T>[]): Promise<T[]> {
  await Promise.allSettled(work);
  return Promise.all(work);
}

/** Another worker has gone on there since: it, or whoever comes after it, lets its clients go on. */
function isInOtherHands(error: unknown): boolean {
  return error instanceof VerdigrisError && (error.type === 'StaleEpoch' || error.type === 'PromotionBlocked');
}

function epochIsOver(now: number, epoch: number): VerdigrisError {
  return new VerdigrisError({
    type: 'StaleEpoch',
    message: `writes are at epoch ${now}; this worker was about to pause for epoch ${epoch}`,
    nextStep: 'nothing: whoever moved the writes since goes on',
  });
}

function blockedBy(error: unknown): VerdigrisError {
  if (error instanceof VerdigrisError && error.type === 'PromotionBlocked') return error;
  return promotionBlocked(whyOf(error), error);
}

/** Whether waiting can help: not where the user, its password or TLS is refused. */
function isAway(error: unknown): boolean {
  if (!(error instanceof VerdigrisError) || error.type !== 'ConnectionFailed') return false;
  return error.retryable && tlsFault(error.cause) === undefined;
}

function awayBy(error: unknown): PoolerAway {
  const { what, nextStep } = blockedBy(error);
  return new PoolerAway({ type: 'PromotionBlocked', message: what, nextStep, cause: error });
}

/** On the way to green, one that is away is waited for; on the way back nothing is. */
function awaitedOr(otherwise: (error: unknown) => unknown, error: unknown, from: Side): unknown {
  return from === 'blue' && isAway(error) ? awayBy(error) : otherwise(error);
}

/** Nothing has happened where a console refuses: people mend that, and approve again. */
function refusedOrAsItIs(error: unknown): unknown {
  return error instanceof ConsoleRefused ? blockedBy(error) : error;
}

function whyOf(error: unknown): string {
  return withoutNextStep(error instanceof Error ? error.message : String(error));
}
