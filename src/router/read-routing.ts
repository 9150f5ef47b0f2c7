import type { Route } from '../postgres/state.js';
import type { BluePosition } from './blue-position.js';
import type { Breaker } from './breaker.js';
import { inCohort } from './cohort.js';
import type { GreenProgress } from './green-progress.js';
import type { Lsn } from './lsn.js';
import type { FallbackReason } from './metrics.js';
import type { Routes } from './routes.js';
import type { SideLink } from './side-link.js';
import { within } from '../timing.js';
import type { TokenStore } from './token-store.js';

/**
 * What a read on green must be able to see:
 * - `strict`: everything that was committed before the read began, whoever wrote it. Blue is asked for its position,
 *   one question for all reads that wait.
 * - `session`: what its own user wrote, as far as this process knows. It asks only when it knows nothing of the user.
 *   Right when all requests of a user come to one process, or when tokens travel with users.
 */
export type Consistency = 'strict' | 'session';

export type ReadChoice =
  | { readonly to: 'green' }
  /** `because` is set when the user belongs to green's cohort and blue has to stand in. */
  | { readonly to: 'writesOn'; readonly because?: FallbackReason };

export interface ReadRoutingOptions {
  readonly routes: Routes;
  readonly tokens: TokenStore;
  readonly bluePosition: BluePosition;
  readonly greenProgress: GreenProgress;
  readonly greenLink: SideLink;
  readonly greenBreaker: Breaker;
  readonly consistency: Consistency;
  readonly catchUpBudgetMs: number;
}

const LOOK_AGAIN_MS = 100;

/** Decides where a read goes. */
export class ReadRouting {
  readonly #options: ReadRoutingOptions;
  #unheardOf = { epoch: 0, until: 0 };

  constructor(options: ReadRoutingOptions) {
    this.#options = options;
  }

  /** Whether the user's reads may go to green while writes are on blue. */
  isGreenReader(user: string | undefined, route: Route): user is string {
    return user !== undefined && route.writesOn === 'blue' && inCohort(route.flag, user, route.greenReadPercent);
  }

  /**
   * Where the user's read goes, if nothing has to be asked to know it: so it is for most reads of most days.
   *
   * @param onlyReads false for one that green must not have.
   */
  atOnce(user: string | undefined, onlyReads: boolean): ReadChoice['to'] | undefined {
    const { routes, tokens, greenLink, greenBreaker, greenProgress, consistency } = this.#options;
    const route = routes.current;
    if (user === undefined) return 'writesOn';
    const position = tokens.positionIn(user, route.epoch);
    if (position === 'later') return undefined;
    if (!onlyReads || !this.isGreenReader(user, route)) return 'writesOn';
    if (position === undefined || consistency !== 'session' || !greenLink.isUp || greenBreaker.isOpen) return undefined;
    return greenProgress.hasReached(route.epoch, position) ? 'green' : undefined;
  }

  /** Waits for green within the budget, and never fails. */
  async choose(user: string | undefined, onlyReads: boolean): Promise<ReadChoice> {
    const { routes, tokens, greenLink, greenBreaker } = this.#options;
    // The user's last write was made under a route that this process has not seen yet.
    if (user !== undefined) await this.#catchUpWith(tokens.epochOf(user));
    const route = routes.current;
    if (!onlyReads || !this.isGreenReader(user, route)) return { to: 'writesOn' };
    if (!greenLink.isUp || greenBreaker.isOpen) return { to: 'writesOn', because: 'error' };
    if (tokens.isUnknown(user)) return { to: 'writesOn', because: 'behind' };
    const reached = await this.#hasCaughtUp(user, route);
    return reached ? { to: 'green' } : { to: 'writesOn', because: 'behind' };
  }

  /**
   * Looks at the route again for a token of a later epoch; once in a while only for an epoch that no side knows, since
   * a token that comes from outside may name any.
   */
  async #catchUpWith(epoch: number): Promise<void> {
    const { routes } = this.#options;
    if (epoch <= routes.current.epoch) return;
    if (epoch === this.#unheardOf.epoch && performance.now() < this.#unheardOf.until) return;
    await routes.refresh();
    if (epoch > routes.current.epoch) this.#unheardOf = { epoch, until: performance.now() + LOOK_AGAIN_MS };
  }

  async #hasCaughtUp(user: string, route: Route): Promise<boolean> {
    const { greenProgress, catchUpBudgetMs } = this.#options;
    const started = performance.now();
    const position = await this.#requiredPosition(user, route);
    if (position === undefined) return false;
    return greenProgress.reached(route.epoch, position, catchUpBudgetMs - (performance.now() - started));
  }

  /** The position that green must have reached; undefined when there is none that is sure to be enough. */
  async #requiredPosition(user: string, route: Route): Promise<Lsn | undefined> {
    const { tokens, bluePosition, consistency, catchUpBudgetMs } = this.#options;
    const token = tokens.get(user);
    // Positions of another epoch are in another log.
    if (consistency === 'session' && token?.epoch === route.epoch) return token.lsn;
    const position = await within(
      bluePosition.now().catch(() => undefined),
      catchUpBudgetMs,
      undefined,
    );
    if (position !== undefined && consistency === 'session') tokens.record(user, { epoch: route.epoch, lsn: position });
    return position;
  }
}
