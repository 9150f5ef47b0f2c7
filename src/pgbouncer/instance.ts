import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { VerdigrisError } from '../errors.js';
import type { WritesAre } from '../postgres/pools.js';
import type { Side } from '../side.js';
import { Console, type ShownDatabase, type ShownPool } from './console.js';
import { EntryFile } from './entry.js';
import { inOtherPromotion, notLoaded, notWritten, pausedAsAWhole, silent, tooLate } from './instance-errors.js';
import { claimsPauses, markName, movingOthers, parseMark, type Mark } from './mark.js';
import { isSameMark, Marking } from './marking.js';
import { SETTINGS_OF_PAUSE, settingsOfPause } from './pause-settings.js';
import type { PgBouncer, PgBouncers } from './pgbouncer.js';
import { Turn } from './turn.js';
import { reopensAtReload } from './version.js';
import { changeFile } from '../replace-file.js';
import { pause, within } from '../timing.js';

/** How long to wait for a moment in which no server connection is logging in, and how long for clients to be served. */
const NO_LOGIN_WITHIN_MS = 300;
/** How long a RELOAD that would end logins waits for a moment without one, and how long while our own clients wait. */
const NO_LOGIN_BEFORE_RELOAD_MS = 2_000;
const NO_LOGIN_WHILE_PAUSED_MS = 50;
/** While the clients of others wait: an answer takes a millisecond, and one that does not come is not waited for. */
const SAYS_WITHIN_MS = 200;
const SERVED_WITHIN_MS = 2_000;
/** Longer than a promotion keeps its clients waiting. */
const OTHERS_PAUSE_MS = 5_000;

/** Where an entry `*` leads clients of names that have no entry. */
export interface Fallback {
  readonly host: string | null;
  readonly port: number;
  /** Undefined: the name that the client gives. */
  readonly database: string | undefined;
}

/** What a PgBouncer has loaded. */
export interface Loaded {
  readonly paused: readonly string[];
  readonly mark: Mark | undefined;
  /** The side that all entries lead to; undefined when they differ, or lead elsewhere. */
  readonly leadsTo: Side | undefined;
}

/** One PgBouncer, as one worker acts on it. Every step looks, then acts. */
export class Instance {
  #control: Promise<Console> | undefined;
  #pauses: Console[] = [];
  /** Connections that it opens now would be closed by a pause. */
  #mayBePaused = false;
  /** As far as this worker knows: `quiet` since becomeQuiet(), `configured` since RELOAD. */
  #settings: 'unknown' | 'quiet' | 'configured' = 'unknown';
  #unserved: readonly ShownPool[] = [];
  /** Asked once: before clients wait. */
  #reopens: boolean | undefined;
  readonly #marking: Marking;

  /** @param turn of the worker, the same for all that it pauses together. Default: a new one. */
  constructor(
    readonly pooler: PgBouncer,
    private readonly setup: PgBouncers,
    private readonly turn = new Turn(),
  ) {
    this.#marking = new Marking(pooler, setup, turn);
  }

  /** The session for everything but PAUSE: it is there before PAUSE is sent, so that RESUME never has to wait for one. */
  async control(): Promise<Console> {
    this.#control ??= Console.open(this.pooler, { migration: this.setup.migration });
    try {
      return await this.#control;
    } catch (error) {
      this.#control = undefined;
      throw error;
    }
  }

  /** Whose clients waited when a pause was over, and got no server connection: they wait on, or were sent away. Told once. */
  takeUnserved(): readonly ShownPool[] {
    const unserved = this.#unserved;
    this.#unserved = [];
    return unserved;
  }

  /** Forgets the sessions: the next step opens new ones. */
  async close(): Promise<void> {
    this.#dropPauses();
    const control = await this.#control?.catch(() => undefined);
    this.#control = undefined;
    control?.close();
  }

  async look(): Promise<Loaded> {
    const rows = await (await this.control()).databases();
    const entries = rows.filter(({ name }) => this.setup.databases.includes(name));
    const mark = rows.find(({ name }) => name === markName(this.setup.migration))?.database;
    return {
      paused: entries.filter(({ paused }) => paused).map(({ name }) => name),
      mark: parseMark(mark),
      leadsTo: this.#sideOf(entries, rows),
    };
  }

  #sideOf(entries: readonly ShownDatabase[], rows: readonly ShownDatabase[]): Side | undefined {
    if (entries.length < this.setup.databases.length) return undefined;
    return (['blue', 'green'] as const).find((side) => {
      const alias = rows.find(({ name }) => name === this.setup.aliases[side]);
      return alias !== undefined && entries.every((entry) => isSameTarget(entry, alias));
    });
  }

  /**
   * Writes the file so that the entries lead to the mark's side, has it loaded, and shows that it is. A mark that is
   * `moving` gets this worker's token.
   *
   * @returns what it has loaded then
   * @throws VerdigrisError StaleEpoch when the file is of a later epoch; PromotionBlocked when another worker has announced
   * a pause since; PoolNotReleased when it is not loaded.
   */
  async load(mark: Mark): Promise<Loaded> {
    const reachDisk = await this.write(mark);
    await this.#reload();
    const loaded = await this.look();
    this.refuseOthersTurn(loaded.mark);
    const isLoaded = loaded.leadsTo === mark.side && isSameMark(loaded.mark, this.#marking.signed(mark));
    if (!isLoaded) throw notLoaded(this.pooler);
    await reachDisk();
    return loaded;
  }

  /** Only the file. @throws VerdigrisError StaleEpoch, PromotionBlocked as load() does; PoolNotReleased */
  async write(mark: Mark): Promise<() => Promise<void>> {
    try {
      return await changeFile(this.pooler.file, (text) => this.#marking.marked(text, mark));
    } catch (error) {
      if (error instanceof VerdigrisError) throw error;
      throw notWritten(this.pooler, error);
    }
  }

  /** Its mark as the file has it; undefined when there is none, or the file can't be read. */
  async #written(): Promise<Mark | undefined> {
    const text = await readFile(this.pooler.file, 'utf8').catch(() => '');
    return parseMark(new EntryFile(text).parameter(markName(this.setup.migration), 'dbname'));
  }

  /** A new worker ends what those before have announced: what is loaded, and what they only came to write. */
  async #takeOver(loaded: Mark | undefined): Promise<void> {
    if (!this.turn.isNew) return;
    this.turn.takeOver(loaded);
    this.turn.takeOver(await this.#written());
  }

  /** What it shows otherwise than its file says, in words; undefined when they agree. Looks only. */
  async differsFromFile(): Promise<string | undefined> {
    const entries = await this.entries();
    const rows = await (await this.control()).databases();
    for (const name of [...this.setup.databases, this.setup.aliases.blue, this.setup.aliases.green]) {
      if (!entries.has(name)) return `the file has no entry "${name}"`;
      const row = rows.find((shown) => shown.name === name);
      const says = [
        entries.parameter(name, 'host') ?? '',
        Number(entries.parameter(name, 'port') ?? 5432),
        entries.parameter(name, 'dbname') ?? name,
      ];
      const shows = [row?.host ?? '', row?.port, row?.database];
      if (says.some((value, i) => value !== shows[i])) return `the entry "${name}" leads elsewhere`;
    }
    return undefined;
  }

  /** @throws VerdigrisError PromotionBlocked while somebody has paused all of it, which no entry shows. Looks only. */
  async refusePausedAsAWhole(): Promise<void> {
    if ((await (await this.control()).isPausedAsAWhole()) === true) throw pausedAsAWhole(this.pooler);
  }

  /** Entries whose own limits stand above those that becomeQuiet() changes for all. Looks at the file only. */
  async ownLimits(): Promise<readonly string[]> {
    const entries = await this.entries();
    const has = (database: string, name: string): boolean => Number(entries.parameter(database, name) ?? 0) > 0;
    return this.setup.databases.filter((name) => has(name, 'min_pool_size') || has(name, 'max_db_connections'));
  }

  /** Its file, as it is now. */
  async entries(): Promise<EntryFile> {
    return new EntryFile(await readFile(this.pooler.file, 'utf8'));
  }

  /** The entry `*` of its file; undefined when it has none. Looks at the file only. */
  async fallback(): Promise<Fallback | undefined> {
    const entries = await this.entries();
    if (!entries.has('*')) return undefined;
    const of = (key: string): string | undefined => entries.parameter('*', key);
    return { host: of('host') ?? null, port: Number(of('port') ?? 5432), database: of('dbname') };
  }

  /** Whether its file says that no pause of ours can be open and that it leads where writes are. */
  async isUntouched({ side, epoch }: WritesAre): Promise<boolean> {
    try {
      const entries = await this.entries();
      const mark = parseMark(entries.parameter(markName(this.setup.migration), 'dbname'));
      return mark === undefined || isSameMark(mark, { side, epoch, state: 'settled' });
    } catch {
      return false;
    }
  }

  /** Whether a pause of ours may be open: by what it shows, or where it can't be asked by its file. Looks only. */
  async mayBePaused(): Promise<boolean> {
    try {
      const { mark, paused } = await this.look();
      return mark?.state === 'moving' || (paused.length > 0 && claimsPauses(mark));
    } catch {
      await this.close();
      return (await this.#written())?.state === 'moving';
    }
  }

  /**
   * A PAUSE closes connections that are logging in, and PgBouncer takes that for a server that refuses logins: after RESUME
   * it turns clients away until it has logged in again. So none is opened any more where one is in use (clients wait for
   * those that are there), none for the sake of min_pool_size, which it would go on to do while it is paused, and the
   * PAUSE waits for the last one (untilNobodyLogsIn). All of it until the next RELOAD.
   */
  async becomeQuiet(): Promise<void> {
    const control = await this.control();
    this.#mayBePaused = true;
    this.#settings = 'quiet';
    for (const [name, value] of SETTINGS_OF_PAUSE) await control.set(name, String(value));
  }

  /**
   * Comes right before PAUSE: a pool without a connection opens one for the next client that asks. The others may be paused
   * already, so one that does not even answer is not waited for, nor told to pause.
   *
   * @throws VerdigrisError PromotionBlocked when it has not answered within `answersWithinMs`
   */
  async untilNobodyLogsIn(answersWithinMs: number): Promise<void> {
    const control = await this.control();
    const deadline = performance.now() + NO_LOGIN_WITHIN_MS;
    for (;;) {
      const pools = await within(control.pools(), answersWithinMs, undefined);
      if (pools === undefined) throw silent(this.pooler, answersWithinMs);
      const isLoggingIn = this.#ours(pools).some((pool) => pool.serversInLogin > 0);
      const isBusy = isLoggingIn || this.#waitForFirstServer(pools);
      if (!isBusy || performance.now() > deadline) return;
      await sleep(2);
    }
  }

  /** Opens the sessions that PAUSE will be sent on: one for each entry, since each waits for its own answer. */
  async openPauses(): Promise<void> {
    this.#dropPauses();
    for (const opened of await Promise.allSettled(this.#openForEach())) {
      if (opened.status === 'rejected') throw opened.reason;
      this.#pauses.push(opened.value);
    }
  }

  #openForEach(): Promise<Console>[] {
    const { databases, migration } = this.setup;
    return databases.map(() => Console.open(this.pooler, { migration }));
  }

  /**
   * The last look before a pause: between the announcement and now this worker may have been frozen, and others gone on.
   *
   * @throws VerdigrisError StaleEpoch, PromotionBlocked
   */
  async refuseUnlessAnnounced(announced: WritesAre): Promise<void> {
    const { mark } = await this.look();
    this.#marking.refuseUnlessAnnounced(mark, announced);
  }

  /**
   * Refuses while another worker is at work there, who has announced a pause since this one did. Looks only.
   *
   * @throws VerdigrisError PromotionBlocked
   */
  refuseOthersTurn(mark: Mark | undefined): void {
    this.#marking.refuseOthersTurn(mark);
  }

  /**
   * Refuses while the promotion of another migration is under way here: RELOAD and the settings of a pause are of the whole
   * process. A mark alone, which a run that is gone may have left, does not count. Looks only.
   *
   * @param overWithinMs how long it may take to be over
   * @throws PoolerTaken
   */
  async refuseOtherPromotions(overWithinMs: number): Promise<void> {
    const deadline = performance.now() + overWithinMs;
    for (;;) {
      const others = await this.#othersAtWork();
      if (others.length === 0) return;
      if (performance.now() >= deadline) throw inOtherPromotion(this.pooler, others);
      await pause(50, 150);
    }
  }

  /** Other migrations that have announced a pause, and have somebody at it, or the settings of a pause in force. */
  async #othersAtWork(): Promise<readonly string[]> {
    const control = await this.control();
    const moving = movingOthers(await control.databases(), this.setup.migration);
    if (moving.length === 0) return [];
    const isPause = this.#settings !== 'quiet' && settingsOfPause(await control.settings()) !== undefined;
    return isPause ? moving : control.withSessions(moving);
  }

  /**
   * Pauses every entry. PgBouncer answers every PAUSE that waits when it comes to rest, whoever has asked: that it is this
   * worker's pause is seen by the mark.
   *
   * @returns what its clients were at, when it has not come to rest within the time; undefined when it does not say that.
   * @throws VerdigrisError StaleEpoch, PromotionBlocked when it is not: settle() then ends it, or leaves it to whose it is.
   */
  async pause(
    announced: WritesAre,
    withinMs: number,
  ): Promise<'paused' | { readonly busyBackends: readonly number[] | undefined }> {
    const deadline = performance.now() + withinMs;
    try {
      const all = Promise.all(this.setup.databases.map((database, i) => this.#pauses[i]?.pause(database)));
      if ((await within(all, withinMs, 'late')) === 'late')
        return { busyBackends: await within(this.busyBackends(), SAYS_WITHIN_MS, undefined) };
      const seen = await within(this.look(), Math.max(SAYS_WITHIN_MS, deadline - performance.now()), undefined);
      if (seen === undefined) return { busyBackends: undefined };
      const { paused, mark } = seen;
      this.#marking.refuseUnlessAnnounced(mark, announced);
      if (paused.length < this.setup.databases.length) return { busyBackends: [] };
      return 'paused';
    } finally {
      // Its PAUSE may never be answered, not even after RESUME: what asked is dropped.
      this.#dropPauses();
    }
  }

  /** Process ids, on the database server, of what clients of the entries are at. */
  async busyBackends(): Promise<number[]> {
    return (await this.control()).busyBackends(this.setup.databases);
  }

  /**
   * Brings it to where writes are and lets its clients go on. A pause of somebody else's is left alone: ours has a mark,
   * and this worker's own token, or that of one before it.
   *
   * @param isOurs whether this worker has asked for the pause.
   * @throws VerdigrisError StaleEpoch, PromotionBlocked when another worker is at work there, who will end the pause.
   */
  async settle({ side, epoch }: WritesAre, isOurs: boolean): Promise<void> {
    const { mark, paused, leadsTo } = await this.look();
    if (mark !== undefined && mark.epoch > epoch) throw tooLate(this.pooler, mark, { epoch });
    await this.#takeOver(mark);
    // Never touched by us: neither its entries nor a pause are ours to change.
    if (mark === undefined && !isOurs) return;
    this.refuseOthersTurn(mark);
    const isPaused = paused.length > 0 && (isOurs || claimsPauses(mark));
    const overtaken = this.#marking.leavesLateOne(mark);
    const mayHoldSettings = isPaused || isOurs || overtaken || this.#settings === 'quiet';
    this.#mayBePaused = isPaused;
    if (leadsTo !== side) await this.load({ side, epoch, state: 'moving' });
    if (isPaused) await this.#resume(paused, epoch);
    const settled: Mark = { side, epoch, state: 'settled', overtaken };
    // RELOAD gives the settings their configured values back. Without need of it, only the file may have been spoilt.
    if (isSameMark(mark, settled) && !mayHoldSettings) return (await this.write(settled))();
    const loaded = await this.load(settled);
    // A late PAUSE that came after the look above: whoever sent it has left it alone if it saw the mark from before.
    if (loaded.mark?.overtaken === true && loaded.paused.length > 0) await this.settle({ side, epoch }, isOurs);
  }

  /** For one that does not run: when it starts it is not paused, and leads where its file says. */
  async settleFile({ side, epoch }: WritesAre): Promise<void> {
    await this.#takeOver(undefined);
    const reachDisk = await this.write({ side, epoch, state: 'settled' });
    await reachDisk();
  }

  async #resume(paused: readonly string[], epoch: number): Promise<void> {
    const control = await this.control();
    if (this.#settings !== 'configured') await this.#reload();
    await control.set('server_login_retry', '0');
    // This worker may have been frozen since it looked, and another one have paused.
    const { mark } = await this.look();
    if (mark !== undefined && mark.epoch > epoch) throw tooLate(this.pooler, mark, { epoch });
    this.refuseOthersTurn(mark);
    for (const database of paused) await control.resume(database);
    this.#mayBePaused = false;
    await this.#served();
  }

  /** What a worker that comes too late gives back, unless somebody is at work who will. */
  async giveBack(isOurs: boolean): Promise<void> {
    const { mark } = await this.look();
    if (mark?.state === 'settled') await this.settle(mark, isOurs);
  }

  async #reload(): Promise<void> {
    const control = await this.control();
    await this.#letOthersPause(control);
    await this.#untilReloadEndsNoLogin(control);
    await control.reload();
    this.#settings = 'configured';
    if (this.#mayBePaused) await control.set('min_pool_size', '0');
  }

  /**
   * With TLS to the databases, PgBouncer before 1.24 opens all connections anew at each RELOAD and ends those that are logging in, of
   * any entry: it takes that for a server that refuses logins, and turns clients away. So ours comes when nobody logs in; two in
   * a row would meet the logins of the first.
   */
  async #untilReloadEndsNoLogin(control: Console): Promise<void> {
    this.#reopens ??= await reopensAtReload(control);
    if (!this.#reopens) return;
    const isPaused = this.#mayBePaused;
    const deadline = performance.now() + (isPaused ? NO_LOGIN_WHILE_PAUSED_MS : NO_LOGIN_BEFORE_RELOAD_MS);
    for (;;) {
      const pools = await control.pools();
      const isBusy = pools.some((pool) => pool.serversInLogin > 0) || (!isPaused && this.#waitForFirstServer(pools));
      if (!isBusy || performance.now() > deadline) return;
      // One thread of PgBouncer answers us and serves all clients.
      await sleep(isPaused ? 2 : 20);
    }
  }

  /**
   * Whether clients of ours wait for a login that is about to begin. Those of others may wait for a server that is down, for
   * as long as that is.
   */
  #waitForFirstServer(pools: readonly ShownPool[]): boolean {
    return this.#ours(pools).some(({ servers, clientsWaiting }) => servers === 0 && clientsWaiting > 0);
  }

  #ours(pools: readonly ShownPool[]): readonly ShownPool[] {
    return pools.filter(({ database }) => this.setup.databases.includes(database));
  }

  /**
   * Returns when no pause of another migration is in force, which a RELOAD would take the settings of; or after a while: one that
   * is left behind ends so. Whose own clients may be waiting does not wait.
   */
  async #letOthersPause(control: Console): Promise<void> {
    if (this.#mayBePaused || this.#settings === 'quiet') return;
    const deadline = performance.now() + OTHERS_PAUSE_MS;
    while (movingOthers(await control.databases(), this.setup.migration).length > 0) {
      if (settingsOfPause(await control.settings()) === undefined || performance.now() > deadline) return;
      await sleep(20);
    }
  }

  /**
   * Returns when no client waits for a first server connection: the pools have been able to log in, or have sent their
   * clients away, which leaves them without one.
   */
  async #served(): Promise<void> {
    const control = await this.control();
    const deadline = performance.now() + SERVED_WITHIN_MS;
    const asked = new Set<string>();
    for (;;) {
      const empty = this.#ours(await control.pools()).filter(({ servers }) => servers === 0);
      for (const pool of empty) if (pool.clientsWaiting > 0) asked.add(keyOf(pool));
      const unserved = empty.filter((pool) => asked.has(keyOf(pool)));
      this.#unserved = unserved;
      const goesOn = unserved.some(({ clientsWaiting, serversInLogin }) => clientsWaiting > 0 || serversInLogin > 0);
      if (!goesOn || performance.now() >= deadline) return;
      await sleep(5);
    }
  }

  #dropPauses(): void {
    for (const console of this.#pauses.splice(0)) console.close();
  }
}

function keyOf({ database, user }: ShownPool): string {
  return JSON.stringify([database, user]);
}

/** Whether two entries lead to one database, by what is written. */
export function isSameTarget(a: ShownDatabase, b: ShownDatabase): boolean {
  return a.host === b.host && a.port === b.port && a.database === b.database;
}
