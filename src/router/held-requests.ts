import type pg from 'pg';
import { otherSide, type Side } from '../side.js';
import type { Route } from '../postgres/state.js';
import { WriteMovedError, WriteTimeoutError } from './errors.js';
import { FenceMet, isFence, NothingSent } from './failure.js';
import type { Routes } from './routes.js';
import type { SidePool } from './side-pool.js';
import { pause } from './timing.js';

/** Both sides are closed for a few milliseconds in a promotion: look again soon, but not all at once. */
const CLOSED_PAUSE_MS = [2, 5] as const;
/** A server that can't be reached takes longer to come back. */
const AWAY_PAUSE_MS = [20, 60] as const;

/** One try of a request on the side that is thought to have writes. */
export type Attempt<T> = (client: pg.PoolClient, side: Side, route: Route) => Promise<T>;

export interface Answered<T> {
  readonly value: T;
  readonly side: Side;
}

/**
 * Runs requests on the side that has writes, and holds them while none has: a promotion is seen as latency only.
 *
 * A request that met the fence did nothing, so it is run again, whole, on the other side, in turn until one takes it. A
 * request whose connection was lost before anything was sent is tried again too. Everything else is the caller's.
 */
export class HeldRequests {
  readonly #routes: Routes;
  readonly #pools: Readonly<Record<Side, SidePool>>;
  readonly #timeoutMs: number;

  constructor(routes: Routes, pools: Readonly<Record<Side, SidePool>>, timeoutMs: number) {
    this.#routes = routes;
    this.#pools = pools;
    this.#timeoutMs = timeoutMs;
  }

  /**
   * @param onSide told which side each try goes to.
   * @param onFence told once when the request meets the fence.
   * @throws WriteMovedError at the fence when `mayRunAgain` is false.
   * @throws WriteTimeoutError when no side has taken it in time.
   */
  async run<T>(
    attempt: Attempt<T>,
    options: { mayRunAgain: boolean; onSide: (side: Side) => void; onFence: () => void },
  ): Promise<Answered<T>> {
    const started = performance.now();
    let side = this.#routes.current.writesOn;
    let fences = 0;
    for (;;) {
      const route = this.#routes.current;
      options.onSide(side);
      let last: unknown;
      try {
        const value = await this.#try(side, route, attempt);
        if (side !== route.writesOn) await this.#routes.settle(route, side);
        return { value, side };
      } catch (error) {
        if (error instanceof FenceMet) {
          fences += 1;
          if (fences === 1) options.onFence();
          if (!options.mayRunAgain) {
            await this.#routes.refresh();
            throw new WriteMovedError(side, error.cause);
          }
          void this.#routes.refresh();
          side = otherSide(side);
          if (fences > 1) await pause(...CLOSED_PAUSE_MS);
        } else if (error instanceof NothingSent) {
          await pause(...AWAY_PAUSE_MS);
          await this.#routes.refresh();
          // Having met the fence, the request belongs to the other side, whichever of the two is away.
          side = fences > 0 ? otherSide(side) : this.#routes.current.writesOn;
        } else {
          throw error;
        }
        last = error.cause;
      }
      const held = performance.now() - started;
      if (held > this.#timeoutMs) throw new WriteTimeoutError(held, last);
    }
  }

  async #try<T>(side: Side, route: Route, attempt: Attempt<T>): Promise<T> {
    try {
      return await this.#pools[side].use('writer', (client) => attempt(client, side, route));
    } catch (error) {
      throw isFence(error) ? new FenceMet(error) : error;
    }
  }
}
