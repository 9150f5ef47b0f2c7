import type pg from 'pg';
import { otherSide, type Side } from '../side.js';
import type { Route } from '../postgres/state.js';
import { CommitOutcomeUnknownError, WriteMovedError, WriteTimeoutError } from './errors.js';
import { FenceMet, isFence, NothingSent, timedOutAtFence } from './failure.js';
import type { Routes } from './routes.js';
import type { SidePool } from './side-pool.js';
import { pause } from '../timing.js';

/** Both sides are closed for a few milliseconds in a promotion: look again soon, but not all at once. */
const CLOSED_PAUSE_MS = [2, 5] as const;
/** How long to wait for what a side has announced to be read from it. */
const READING_MS = 50;
/** How long to wait for the news that a side is open before it is tried all the same. */
const OPENING_MS = [20, 30] as const;
/** For how long a fence that was met holds back the requests behind, unless there is news of the route. */
const REFUSED_MS = 20;
/** A server that can't be reached takes longer to come back. */
const AWAY_PAUSE_MS = [20, 60] as const;

/** `not safe`: parts of it may have been committed before it met the fence. */
export type RunsAgain = 'yes' | 'not wanted' | 'not safe';

/** A request for the side that has writes. */
export interface HeldRequest<T> {
  /** A read never waits for a side to be opened: it is answered by one that is closed to writes, too. */
  readonly kind: 'read' | 'write';
  /** One try, on the side that is thought to have writes. */
  readonly attempt: (client: pg.PoolClient, side: Side, route: Route) => Promise<T>;
  /** Whether it may be run again, whole, when it has met the fence. Asked then only. */
  runsAgain(): RunsAgain;
  /** Told once when the request meets the fence. */
  onFence(): void;
  /** The side of the last try. */
  tried: Side;
  /** When its last try began to work: until then it had waited. */
  workedFrom: number | undefined;
}

/**
 * Runs requests on the side that has writes, and holds them while none has: a promotion is seen as latency only.
 *
 * A request that met the fence did nothing, so it is run again, whole, on the other side, in turn until one takes it. A
 * request whose connection was lost before anything was sent is tried again too, and one that has a lock_timeout or a
 * statement_timeout of its own which ended its wait at the fence. Everything else is the caller's.
 */
export class HeldRequests {
  readonly #routes: Routes;
  readonly #pools: Readonly<Record<Side, SidePool>>;
  readonly #timeoutMs: number;
  /** The route under which its own side has refused a write, and when. */
  #refused: { readonly route: Route; readonly at: number } | undefined;

  constructor(routes: Routes, pools: Readonly<Record<Side, SidePool>>, timeoutMs: number) {
    this.#routes = routes;
    this.#pools = pools;
    this.#timeoutMs = timeoutMs;
  }

  /**
   * @throws WriteMovedError at the fence when the request may not be run again.
   * @throws WriteTimeoutError when no side has taken it in time.
   */
  async run<T>(request: HeldRequest<T>, started: number): Promise<T> {
    const { current: route, news } = this.#routes;
    try {
      return await (request.kind === 'read'
        ? this.#try(request, route, route.writesOn, this.#timeoutMs)
        : this.#tryUnlessOvertaken(request, route));
    } catch (error) {
      const failure = fenceOf(error);
      return this.#runAgain(request, started + workOf(request, failure), failure, route, news);
    }
  }

  /**
   * @param started when its wait began, less what was no wait.
   * @param failure what ended the first try, on the side that has writes by `first`.
   * @param known the count of news at that try.
   */
  async #runAgain<T>(
    request: HeldRequest<T>,
    started: number,
    failure: unknown,
    first: Route,
    known: number,
  ): Promise<T> {
    let next = first.writesOn;
    let since = known;
    let fences = 0;
    let waits = 0;
    // Of the last try: what it has worked, and the route that it was made under.
    let worked = 0;
    let under = first;
    let noWait = 0;
    for (let last = failure; ;) {
      if (last instanceof FenceMet && last.how === 'waited') {
        if (request.runsAgain() !== 'yes') throw last.cause;
        waits += 1;
        if (waits === 1 && fences === 0) request.onFence();
        await pause(...CLOSED_PAUSE_MS);
        await this.#routes.refresh();
        next = this.#routes.current.writesOn;
      } else if (last instanceof FenceMet) {
        fences += 1;
        if (fences === 1 && waits === 0) request.onFence();
        if (last.how === 'swallowed') await this.#refuseUnlessMoved(next, last);
        const again = request.runsAgain();
        if (again !== 'yes') {
          await this.#routes.refresh();
          throw new WriteMovedError(next, again === 'not wanted', last.cause);
        }
        next = await this.#afterFence(next, since, fences);
      } else if (last instanceof Overtaken) {
        next = await this.#afterFence(next, since, 1);
      } else if (last instanceof NothingSent) {
        await pause(...AWAY_PAUSE_MS);
        await this.#routes.refresh();
        // Having met the fence, the request belongs to the other side, whichever of the two is away.
        next = fences > 0 ? otherSide(next) : this.#routes.current.writesOn;
      } else {
        throw last;
      }
      // Only where writes have moved meanwhile: on a side that stays closed it would be tried again and again, without end.
      if (under.epoch !== this.#routes.current.epoch) noWait += worked;
      const held = performance.now() - started - noWait;
      if (held >= this.#timeoutMs) throw new WriteTimeoutError(held, last.cause);
      const { current: route, news } = this.#routes;
      since = news;
      try {
        const value = await this.#try(request, route, next, this.#timeoutMs - held);
        if (next !== route.writesOn) await this.#routes.settle(route, next);
        return value;
      } catch (error) {
        last = fenceOf(error);
        worked = workOf(request, last);
        under = route;
      }
    }
  }

  /**
   * Where to go from a side that was seen closed: where the route leads, once that side is open. The other side when
   * nothing was learned since the try, or when the route has always led there.
   */
  async #afterFence(met: Side, since: number, fences: number): Promise<Side> {
    const routes = this.#routes;
    // A side that is silent must not hold anybody up.
    if (routes.news === since) await Promise.race([routes.refresh(), pause(...CLOSED_PAUSE_MS)]);
    // News that was only heard of: this side, which has just answered, says in a moment where writes went.
    if (routes.news !== since && routes.current.writesOn === met) await routes.reread(met, READING_MS);
    if (routes.isAboutToOpen(routes.current.writesOn)) {
      const [from, to] = OPENING_MS;
      await routes.opened(routes.current.writesOn, from + Math.random() * (to - from));
      return routes.current.writesOn;
    }
    if (routes.news !== since) return routes.current.writesOn;
    if (fences > 1) await pause(...CLOSED_PAUSE_MS);
    return routes.current.writesOn === met ? otherSide(met) : routes.current.writesOn;
  }

  /**
   * A statement met the fence, its function swallowed that, and the statement was committed. While writes are on the
   * other side, the fence has been closed ever since and nothing was written. Otherwise they have come back meanwhile,
   * and a later part of the statement may have been written: whether it was is not known.
   */
  async #refuseUnlessMoved(side: Side, fence: FenceMet): Promise<void> {
    await this.#routes.refresh();
    if (this.#routes.current.writesOn === side) throw new CommitOutcomeUnknownError(side, fence.cause);
  }

  #try<T>(request: HeldRequest<T>, route: Route, side: Side, leftMs: number): Promise<T> {
    const attempt = (client: pg.PoolClient): Promise<T> => {
      request.workedFrom = performance.now();
      return request.attempt(client, side, route);
    };
    request.tried = side;
    return this.#pools[side].use('writer', attempt, undefined, leftMs);
  }

  /** A write that comes, or gets its connection, after the fence was met would only meet it too. */
  async #tryUnlessOvertaken<T>(request: HeldRequest<T>, route: Route): Promise<T> {
    const side = route.writesOn;
    const attempt = async (client: pg.PoolClient): Promise<T> => {
      this.#refuseOvertaken(route);
      request.workedFrom = performance.now();
      try {
        return await request.attempt(client, side, route);
      } catch (error) {
        const met = fenceOf(error);
        if (met instanceof FenceMet && met.how !== 'waited') this.#refused = { route, at: performance.now() };
        throw error;
      }
    };
    this.#refuseOvertaken(route);
    request.tried = side;
    return this.#pools[side].use('writer', attempt, undefined, this.#timeoutMs);
  }

  /** @throws Overtaken when a write that was made under this route has no chance on its side now. */
  #refuseOvertaken(route: Route): void {
    const { current } = this.#routes;
    const hasMoved = current.writesOn !== route.writesOn || this.#routes.isAboutToOpen(route.writesOn);
    const isRefused = this.#refused?.route === current && performance.now() - this.#refused.at < REFUSED_MS;
    if (hasMoved || isRefused) throw new Overtaken();
  }
}

/** The request has not been tried: its side has been seen closed since. */
class Overtaken extends Error {
  override readonly name = 'Overtaken';

  constructor() {
    super('writes may have left this side');
  }
}

/** A statement's own error that is the fence's says so; anything else stays what it is. */
function fenceOf(error: unknown): unknown {
  if (timedOutAtFence(error)) return new FenceMet(error, 'waited');
  return isFence(error) ? new FenceMet(error) : error;
}

/** What the last try has worked before it met the fence, for minutes perhaps: that was no wait, as all else is. */
function workOf({ workedFrom }: HeldRequest<unknown>, failure: unknown): number {
  if (!(failure instanceof FenceMet) || workedFrom === undefined) return 0;
  const until = failure.how === 'waited' ? failure.since : performance.now();
  return until === undefined ? 0 : until - workedFrom;
}
