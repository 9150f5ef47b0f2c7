import { Console } from './console.js';
import type { PgBouncers } from './pgbouncer.js';

/** The clients of one PgBouncer that come to one entry as one user: they share their server connections. */
export interface ClientPool {
  readonly pooler: string;
  readonly database: string;
  readonly user: string;
}

/**
 * Those of the pools that have no server connection. Clients that are refused come and go, so that nobody waits says
 * nothing; nor does a PgBouncer that does not answer.
 */
export async function unservedOf(setup: PgBouncers, pools: readonly ClientPool[]): Promise<ClientPool[]> {
  const served = await Promise.all(
    setup.instances
      .filter(({ connection }) => pools.some(({ pooler }) => pooler === connection))
      .map(async (pooler): Promise<ClientPool[]> => {
        const console = await Console.open(pooler).catch(() => undefined);
        try {
          const shown = (await console?.pools().catch(() => undefined)) ?? [];
          return shown.filter(({ servers }) => servers > 0).map((pool) => ({ ...pool, pooler: pooler.connection }));
        } finally {
          console?.close();
        }
      }),
  );
  return pools.filter(
    ({ pooler, database, user }) =>
      !served.flat().some((one) => one.pooler === pooler && one.database === database && one.user === user),
  );
}
