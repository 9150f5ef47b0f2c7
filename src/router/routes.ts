import type { Side } from '../side.js';
import type { Route } from '../postgres/state.js';
import type { SideLink, Sighting } from './side-link.js';
import { within } from '../timing.js';

/** How long a fresh look at both routes may take: a side that is away must not hold anybody up. */
const REFRESH_MS = 300;

/** The route as long as no run has written one: everything on blue. */
export function allOnBlue(migration: string): Route {
  return {
    migration,
    epoch: 0,
    generation: 0,
    writesOn: 'blue',
    greenReadPercent: 0,
    flag: 'use-green-db',
    opening: null,
  };
}

/**
 * The route as this process knows it, put together from the rows of both sides: the row with the highest epoch is the
 * truth, within an epoch the one with the highest generation. An epoch that is over never comes back, whatever a side
 * says that was cut off or restored.
 */
export class Routes {
  readonly #migration: string;
  readonly #seen: Partial<Record<Side, Sighting>> = {};
  readonly #listeners: ((route: Route, before: Route) => void)[] = [];
  #waiting: (() => void)[] = [];
  /** A side that has announced something in this epoch. */
  #heard: { readonly epoch: number; readonly side: Side } | undefined;
  #news = 0;
  #links: readonly SideLink[] = [];
  #current: Route;
  /** The last epoch with writes on green, until they are back on blue in a later one. */
  #onGreenIn: number | undefined;
  #backOnBlueIn: number | undefined;
  /** A side that has taken a write in this epoch, although no row that could be read says so yet. */
  #proven: { readonly epoch: number; readonly side: Side } | undefined;

  constructor(migration: string) {
    this.#migration = migration;
    this.#current = allOnBlue(migration);
  }

  get current(): Route {
    return this.#current;
  }

  /** Whether writes have come back from green in this epoch, as far as this process has seen. */
  get isBackOnBlue(): boolean {
    return this.#backOnBlueIn === this.#current.epoch && this.#current.writesOn === 'blue';
  }

  /** Counts what has been learned of either side: as long as it is the same, nothing is new. */
  get news(): number {
    return this.#news;
  }

  use(links: readonly SideLink[]): void {
    this.#links = links;
  }

  onChange(listener: (route: Route, before: Route) => void): void {
    this.#listeners.push(listener);
  }

  /** Takes in what a look at one side found. */
  see(side: Side, seen: Sighting): void {
    const before = this.#seen[side];
    this.#seen[side] = seen;
    if (!isSameSighting(seen, before)) this.#news += 1;
    this.#adopt(this.#judge());
    this.#wake();
  }

  /**
   * A side has announced a change. What has changed is read from its row; but a side that is about to open says nothing
   * else, and whoever waits for it need not wait for the answer, too.
   */
  hear(side: Side): void {
    this.#heard = { epoch: this.#current.epoch, side };
    this.#news += 1;
    this.#wake();
  }

  #wake(): void {
    if (this.#waiting.length === 0) return;
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const look of waiting) look();
  }

  /**
   * Whether writes have been given to this side and it is known not to take them yet: the other side's row says so, and
   * this side's own row is still of before. It is opened a few milliseconds after the decision.
   */
  isAboutToOpen(side: Side): boolean {
    const own = this.#seen[side];
    if (this.#current.writesOn !== side || own === undefined || own === 'none') return false;
    if (this.#heard?.side === side && this.#heard.epoch === this.#current.epoch) return false;
    // Without a link nobody would hear of the opening.
    return own.epoch < this.#current.epoch && this.#links.some((link) => link.side === side && link.isUp);
  }

  /** Returns when the side is no longer about to open, or after `ms`: the news may not come. */
  async opened(side: Side, ms: number): Promise<void> {
    const deadline = performance.now() + ms;
    while (this.isAboutToOpen(side)) {
      const left = deadline - performance.now();
      if (left <= 0) return;
      await within(new Promise<void>((resolve) => this.#waiting.push(resolve)), left, undefined);
    }
  }

  /** Looks at both sides now. Never fails: a side that doesn't answer says nothing. */
  async refresh(): Promise<void> {
    await within(Promise.allSettled(this.#links.map((link) => link.look())), REFRESH_MS, undefined);
  }

  /** Looks at one side now; returns after `ms` at the latest, and never fails. */
  async reread(side: Side, ms: number): Promise<void> {
    const looks = this.#links.filter((link) => link.side === side).map((link) => link.look());
    await within(Promise.allSettled(looks), ms, undefined);
  }

  /**
   * A write that started under the route `before` was taken by `side`, which that route did not name. Whoever reads
   * after this write must find it, so the route is brought up to date before the write is answered.
   */
  async settle(before: Route, side: Side): Promise<void> {
    await this.refresh();
    if (this.#current.epoch !== before.epoch || this.#current.writesOn === side) return;
    this.#proven = { epoch: before.epoch, side };
    this.#adopt(this.#current);
  }

  #judge(): Route {
    const rows = (['blue', 'green'] as const).flatMap((side) => {
      const seen = this.#seen[side];
      return seen === undefined || seen === 'none' ? [] : [{ side, route: seen }];
    });
    const current = this.#current;
    if (rows.length === 0) return this.#withoutRows();
    const newest = rows.reduce((a, b) => (isNewer(a, b) ? a : b)).route;
    const best = rank(newest, current) < 0 ? current : newest;
    const ofWrites = this.#seen[best.writesOn];
    // The side that has writes knows no run any more: it was rolled back, and green is of no use.
    if (ofWrites === 'none' && best.writesOn === 'blue') return { ...best, greenReadPercent: 0, opening: null };
    const knowsOpening = ofWrites !== undefined && ofWrites !== 'none' && ofWrites.epoch === best.epoch;
    return knowsOpening ? { ...best, opening: ofWrites.opening } : best;
  }

  /** No side has a row. After a promotion that says nothing new: writes stay where they are. */
  #withoutRows(): Route {
    const bothAnswered = this.#seen.blue !== undefined && this.#seen.green !== undefined;
    if (this.#current.writesOn === 'green') return this.#current;
    if (bothAnswered) return allOnBlue(this.#migration);
    return this.#seen.blue === 'none' ? { ...this.#current, greenReadPercent: 0, opening: null } : this.#current;
  }

  #adopt(route: Route): void {
    const { side } = this.#proven?.epoch === route.epoch ? this.#proven : { side: route.writesOn };
    const next: Route =
      side === route.writesOn ? route : { ...route, writesOn: side, greenReadPercent: side === 'green' ? 100 : 0 };
    const before = this.#current;
    if (isEqual(next, before)) return;
    this.#current = next;
    this.#noteMove(next);
    for (const listener of this.#listeners) listener(next, before);
  }

  /** A side that is proven is known before its epoch is. */
  #noteMove({ writesOn, epoch }: Route): void {
    if (writesOn === 'green') {
      this.#onGreenIn = epoch;
    } else if (this.#onGreenIn !== undefined) {
      this.#backOnBlueIn = epoch;
      if (epoch !== this.#onGreenIn) this.#onGreenIn = undefined;
    }
  }
}

function isSameSighting(one: Sighting, other: Sighting | undefined): boolean {
  if (other === undefined || one === 'none' || other === 'none') return one === other;
  return isEqual(one, other);
}

type Row = { readonly side: Side; readonly route: Route };

function isNewer(a: Row, b: Row): boolean {
  const order = rank(a.route, b.route);
  // Equal in rank: the side that has writes is where the route is changed.
  return order === 0 ? a.side === a.route.writesOn : order > 0;
}

function rank(a: Route, b: Route): number {
  return a.epoch === b.epoch ? a.generation - b.generation : a.epoch - b.epoch;
}

function isEqual(a: Route, b: Route): boolean {
  return (
    rank(a, b) === 0 &&
    a.writesOn === b.writesOn &&
    a.greenReadPercent === b.greenReadPercent &&
    a.flag === b.flag &&
    a.opening === b.opening
  );
}
