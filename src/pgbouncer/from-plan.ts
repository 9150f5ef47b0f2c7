import { parseDuration } from '../plan/duration.js';
import type { Plan } from '../plan/schema.js';
import { heldSessions, openTransactions } from '../postgres/locks.js';
import { NewestRoute } from '../postgres/newest-route.js';
import { NO_POOLS, type Pools } from '../postgres/pools.js';
import type { Databases } from '../postgres/session.js';
import { otherSide, type Side } from '../side.js';
import { connectionConfig, type Environment } from '../worker/connections.js';
import type { ClientPool } from './client-pools.js';
import { obstaclesOf, type Obstacle } from './obstacles.js';
import { loginTroubles } from './logins.js';
import { pgBouncerPools } from './pgbouncer-pools.js';
import type { PgBouncers } from './pgbouncer.js';
import { identityOf } from '../postgres/identity.js';
import { compareLookups } from './user-lookup.js';

/** Checks whose warnings are told again before a move, since who comes may have changed. The preflight has told the others. */
const TOLD_AGAIN = ['pgbouncer-logins', 'pgbouncer-auth-query', 'pgbouncer-entries', 'pgbouncer-reach'];

/** Hears what stops nothing, and what people should know. */
export interface Heard {
  /** Before a move: clients who may be refused after it, by the other side or where they are left behind. */
  mayBeRefused(what: string): void;
  /** After a pause: clients that have got no connection to the side that they were led to. */
  unserved(what: string, side: Side, pools: readonly ClientPool[]): void;
  /** One that was not led to the side of the writes, since nothing listens at its address: it may have clients all the same. */
  notTold(what: string, side: Side): void;
}

/** The PgBouncers of a plan; undefined when it names none. @throws VerdigrisError ConnectionUnknown */
export function pgBouncersOf({ name, traffic }: Plan, environment: Environment): PgBouncers | undefined {
  const { pgbouncer } = traffic;
  if (pgbouncer === undefined) return undefined;
  const first = pgbouncer.databases[0] ?? name;
  return {
    migration: name,
    instances: pgbouncer.instances.map(({ connection, file }) => ({
      connection,
      config: connectionConfig('pgbouncer', connection, environment),
      file,
    })),
    databases: pgbouncer.databases,
    aliases: { blue: pgbouncer.blue ?? `${first}_blue`, green: pgbouncer.green ?? `${first}_green` },
    pauseTimeoutMs: parseDuration(pgbouncer.pauseTimeout),
  };
}

/**
 * The poolers of a plan, as its promotion needs them: none, or its PgBouncers. The caller closes them.
 *
 * @param heard told what stops nothing
 */
export function poolsOf(plan: Plan, databases: Databases, environment: Environment, heard?: Heard): Pools {
  const setup = pgBouncersOf(plan, environment);
  return setup === undefined ? NO_POOLS : poolsBefore(setup, databases, heard);
}

/** PgBouncers before these two databases. */
export function poolsBefore(setup: PgBouncers, databases: Databases, heard?: Heard): Pools {
  const route = new NewestRoute(databases, setup.migration);
  const identities = new Map<Side, Promise<string>>();
  const identity = (side: Side): Promise<string> => {
    const known = identities.get(side) ?? route.session(side).then(identityOf);
    identities.set(side, known);
    return known;
  };
  const closed = new AbortController();
  const tell = (found: readonly Obstacle[]): void => {
    if (closed.signal.aborted) return;
    for (const { severity, check, message, remedy } of found)
      if (severity === 'warning' && TOLD_AGAIN.includes(check)) heard?.mayBeRefused(`${message}. ${remedy}`);
  };
  return pgBouncerPools(setup, {
    whereWritesAre: () => route.read(),
    openTransactions: async (side, pids, olderThanMs) =>
      openTransactions(await route.session(side), pids, olderThanMs / 1_000),
    heldSessions: async (side, pids, forMs) => heldSessions(await route.session(side), pids, forMs / 1_000),
    obstacles: async (instance, to) => {
      const sides = [{ side: to, identity: identity(to) }];
      const found = await obstaclesOf(instance, {
        ...{ setup, sides, leadsTo: otherSide(to) },
        loginTroubles: async (users, seenAs) => {
          const [blue, green] = [await route.session('blue'), await route.session('green')];
          return loginTroubles({ blue, green }, to, users, seenAs);
        },
        // By sessions of its own: it becomes another role.
        compareLookups: (lookup, users) => compareLookups(databases, to, lookup, users, closed.signal),
        // The way back waits for nothing that can't stop it.
        ...(to === 'blue' ? { later: (warnings) => void warnings.then(tell) } : {}),
        ...{ copiesSchema: false, isForPause: true },
      });
      tell(found);
      return found.filter(({ severity }) => severity === 'error').map(({ message, remedy }) => `${message}. ${remedy}`);
    },
    unserved: (what, side, pools) => heard?.unserved(what, side, pools),
    notTold: (what, side) => heard?.notTold(what, side),
    close: () => {
      closed.abort();
      return route.close();
    },
  });
}
