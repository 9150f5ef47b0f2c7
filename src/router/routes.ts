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
  #links: readonly SideLink[] = [];
  #current: Route;
  /** A side that has taken a write in this epoch, although no row that could be read says so yet. */
  #proven: { readonly epoch: number; readonly side: Side } | undefined;

  constructor(migration: string) {
    this.#migration = migration;
    this.#current = allOnBlue(migration);
  }

  get current(): Route {
    return this.#current;
  }

  use(links: readonly SideLink[]): void {
    this.#links = links;
  }

  onChange(listener: (route: Route, before: Route) => void): void {
    this.#listeners.push(listener);
  }

  /** Takes in what a look at one side found. */
  see(side: Side, seen: Sighting): void {
    this.#seen[side] = seen;
    this.#adopt(this.#judge());
  }

  /** Looks at both sides now. Never fails: a side that doesn't answer says nothing. */
  async refresh(): Promise<void> {
    await within(Promise.allSettled(this.#links.map((link) => link.look())), REFRESH_MS, undefined);
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
    for (const listener of this.#listeners) listener(next, before);
  }
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
