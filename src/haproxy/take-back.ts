import { reasonOf } from '../failure-text.js';
import { within } from '../timing.js';
import { bring } from './bring.js';
import type { Haproxies, Haproxy } from './haproxy.js';
import type { ShareReader } from './share.js';

/** What a move that must not wait waits at most. */
const WAIT_MS = 1_000;
/** How long the process goes on trying to reach a HAProxy; how soon at first, and how seldom at last. */
const TRY_FOR_MS = 60 * 60_000;
const TRY_AFTER_MS = 1_000;
const TRY_AT_LEAST_EVERY_MS = 10_000;

/** Who has not got there at once. */
export interface NotYet {
  /** The plan's names of them. */
  readonly connections: readonly string[];
  /** What they have said, for people. */
  readonly warning: string;
}

/** The latest attempt for each HAProxy that has not got there yet. */
const owed = new Map<string, symbol>();

/**
 * Brings all of them to the share in force, for a step that must not fail or wait by one of them: after a second this
 * returns, and the process goes on trying with those that have not got there.
 *
 * @param later reads the share by sessions of its own, long after the caller's are closed
 * @returns those that have not got there; undefined when all are there
 */
export async function bringOrWarn(
  setup: Haproxies,
  share: ShareReader,
  later: ShareReader,
): Promise<NotYet | undefined> {
  const late = await Promise.all(
    setup.instances.map(async (haproxy) => {
      const mine = Symbol(haproxy.connection);
      owed.set(keyOf(setup, haproxy), mine);
      const attempt = bring(setup, haproxy, share).then(() => undefined, reasonOf);
      const why = await within(
        attempt,
        WAIT_MS,
        `HAProxy "${haproxy.connection}" has not answered within ${WAIT_MS} ms`,
      );
      if (why === undefined) {
        if (owed.get(keyOf(setup, haproxy)) === mine) owed.delete(keyOf(setup, haproxy));
        return [];
      }
      void keepTrying({ setup, haproxy, later, mine });
      return [{ connection: haproxy.connection, why }];
    }),
  );
  const all = late.flat();
  if (all.length === 0) return undefined;
  return {
    connections: all.map(({ connection }) => connection),
    warning: `${all.map(({ why }) => why).join('; ')}\nUntil they are told, they share connections as before (or, once restarted, as configured); this worker goes on trying.`,
  };
}

interface Owed {
  readonly setup: Haproxies;
  readonly haproxy: Haproxy;
  readonly later: ShareReader;
  readonly mine: symbol;
}

/** Until it is told, somebody else in this process tells it, or the time is over. */
async function keepTrying({ setup, haproxy, later, mine }: Owed): Promise<void> {
  const until = performance.now() + TRY_FOR_MS;
  let afterMs = TRY_AFTER_MS;
  const key = keyOf(setup, haproxy);
  while (performance.now() < until) {
    await new Promise<void>((resolve) => setTimeout(resolve, afterMs).unref());
    afterMs = Math.min(1.5 * afterMs, TRY_AT_LEAST_EVERY_MS);
    if (owed.get(key) !== mine) return;
    const isThere = await bring(setup, haproxy, later).then(
      () => true,
      () => false,
    );
    if (isThere) break;
  }
  if (owed.get(key) === mine) owed.delete(key);
}

function keyOf(setup: Haproxies, haproxy: Haproxy): string {
  return `${setup.migration} ${haproxy.connection}`;
}
