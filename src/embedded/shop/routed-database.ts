import type { PoolConfig, QueryResultRow } from 'pg';
import { createRouter, type Side } from '../../router/index.js';
import type { ShopDatabase, Statement } from './shop-database.js';

export interface RoutedDatabaseOptions {
  /** The plan's name. */
  readonly migration: string;
  readonly blue: PoolConfig;
  readonly green: PoolConfig;
}

/** The shop's databases behind the router, as any application would use it. */
export async function routedDatabase(options: RoutedDatabaseOptions): Promise<ShopDatabase> {
  const router = createRouter(options);
  await router.ready();
  return {
    read: async <R extends QueryResultRow>(user: string, endpoint: string, statement: Statement) => {
      const { rows, side } = await router.read<R>(user, statement, undefined, { endpoint });
      return { rows, side };
    },
    transaction: async (user, endpoint, work) => {
      let side: Side = 'blue';
      const value = await router.transaction(user, { endpoint }, (transaction) => {
        // The last run is the one that counts.
        side = transaction.side;
        return work({
          side,
          query: async <R extends QueryResultRow>(statement: Statement) => (await transaction.query<R>(statement)).rows,
        });
      });
      return { value, side };
    },
    metrics: () => router.metrics.metrics(),
    close: () => router.close(),
  };
}
