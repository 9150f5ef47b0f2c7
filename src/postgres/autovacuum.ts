import { AUTOVACUUM, type Blocker } from './blockers.js';
import type { Session } from './session.js';

/*
 * PostgreSQL cancels an autovacuum for whoever waits for its lock, but not before they have waited for their own
 * deadlock_timeout (1 s by default). With a shorter lock_timeout, as ours have, we would wait for the end of the vacuum of
 * a large table: for hours. So our tries have a deadlock_timeout that is shorter still, where the role may set it
 * (superusers, and GRANT SET ON PARAMETER). Where it may not, one try is longer than the server's.
 *
 * A vacuum that prevents wraparound yields to nobody.
 */

/**
 * Shorter than each of our tries, ms. In a circle it is all the more we who give up, never the application, since whoever
 * looks for one did so in a try that ends before the others look.
 */
const YIELDS_AFTER_MS = 20;

/** What a vacuum needs to end when it was cancelled, ms. */
const ENDS_WITHIN_MS = 200;

/**
 * For one lock: the first is enough as a rule. Whoever comes after queues behind a longer try, too, unless the work asks
 * first for a lock that is in nobody's way but the vacuum's.
 */
const LONGER_TRIES = 2;

/** An expression that sets deadlock_timeout for our tries, if the role may; null if not. `local`: for the transaction. */
export function autovacuumYields(local: boolean): string {
  return `(SELECT set_config('deadlock_timeout', '${YIELDS_AFTER_MS}', ${String(local)})
            WHERE has_parameter_privilege('deadlock_timeout', 'SET'))`;
}

/** An expression that gives deadlock_timeout back what it had, a parameter such as `$2`: only where it was set, which needs the right. */
export function autovacuumYieldsAsBefore(had: string): string {
  return `(SELECT set_config('deadlock_timeout', ${had}, false) WHERE current_setting('deadlock_timeout') <> ${had})`;
}

/** The lock_timeout of one try after the other for one lock: longer when nothing but an autovacuum was in the way. */
export class LockTimeouts {
  #longer = 0;

  /**
   * @param briefMs that of every other try, ms
   * @param longestMs of a longer one: where the autovacuum would yield only later, all tries are brief
   */
  constructor(
    private readonly session: Session,
    private readonly briefMs: number,
    private readonly longestMs: number,
  ) {}

  /**
   * For the next try, ms.
   *
   * @param waitedFor who was in the way of the last one
   */
  async next(waitedFor: readonly Blocker[]): Promise<number> {
    const onlyAutovacuum = waitedFor.length > 0 && waitedFor.every(({ kind }) => kind === AUTOVACUUM);
    if (!onlyAutovacuum || this.#longer === LONGER_TRIES) return this.briefMs;
    const yieldsAfter = await yieldsAfterMs(this.session);
    const longer = yieldsAfter + ENDS_WITHIN_MS;
    if (yieldsAfter < this.briefMs || longer > this.longestMs) return this.briefMs;
    this.#longer++;
    return longer;
  }
}

/** How long ours has to wait until an autovacuum is cancelled for it. */
async function yieldsAfterMs(session: Session): Promise<number> {
  const { rows } = await session.query<{ ms: number }>(
    `SELECT CASE WHEN has_parameter_privilege(name, 'SET') THEN ${YIELDS_AFTER_MS} ELSE setting::int END AS ms
       FROM pg_settings WHERE name = 'deadlock_timeout'`,
  );
  return rows[0]?.ms ?? 1_000;
}
