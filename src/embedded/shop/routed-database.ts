import pg from 'pg';
import type { Side } from '../../side.js';
import type { ShopDatabase } from './shop-database.js';

export async function routedDatabase(
  options: { migration: string } & Record<Side, pg.PoolConfig>,
): Promise<ShopDatabase> {
  const pool = new pg.Pool(options.blue);
  pool.on('error', () => undefined);
  return {
    read: async (_user, _endpoint, statement) => ({ rows: (await pool.query(statement)).rows, side: 'blue' }),
    transaction: async (_user, _endpoint, work) => {
      const client = await pool.connect();
      try {
        await client.query('BEGIN');
        const value = await work({ query: async (statement) => (await client.query(statement)).rows });
        await client.query('COMMIT');
        return { value, side: 'blue' };
      } catch (error) {
        await client.query('ROLLBACK');
        throw error;
      } finally {
        client.release();
      }
    },
    metrics: () => Promise.resolve(''),
    close: () => pool.end(),
  };
}
