import pg from 'pg';
import { literal } from '../../postgres/identifier.js';
import { SHOP_GRANTS, SHOP_INDEXES, SHOP_ROLE, SHOP_ROWS, SHOP_TABLES } from './shop-schema.js';

/** The database of the shop, on both servers. */
export const SHOP_DATABASE = 'shop';

export interface ShopServer {
  /** URI of a superuser in any database of the server. */
  readonly uri: string;
  /** The password that the application's role gets. */
  readonly shopPassword: string;
}

/** Makes the role of the application and an empty database `shop`: all that green has before its migration. */
export async function createShopDatabase(server: ShopServer): Promise<void> {
  await withClient(server.uri, async (client) => {
    const role = await client.query('SELECT FROM pg_roles WHERE rolname = $1', [SHOP_ROLE]);
    await client.query(
      `${role.rowCount === 0 ? 'CREATE' : 'ALTER'} ROLE ${SHOP_ROLE} LOGIN PASSWORD ${literal(server.shopPassword)}`,
    );
    const database = await client.query('SELECT FROM pg_database WHERE datname = $1', [SHOP_DATABASE]);
    if (database.rowCount === 0) {
      await client.query(`CREATE DATABASE ${SHOP_DATABASE} TEMPLATE template0 ENCODING 'UTF8'`);
    }
  });
}

/** Whether the shop's tables are there. They come in one transaction: there is never half a shop. */
export async function hasShop(uri: string): Promise<boolean> {
  return withClient(uri, async (client) => {
    const { rows } = await client.query<{ there: boolean }>("SELECT to_regclass('public.orders') IS NOT NULL AS there");
    return rows[0]?.there ?? false;
  });
}

export interface ShopOptions {
  /** Orders, and as many transactions, that are there from the start. Default: 200,000. */
  readonly rows?: number;
}

/** Fills an empty database with the shop, old schema. `uri` is a superuser's, in the database itself. */
export async function createShop(uri: string, options: ShopOptions = {}): Promise<void> {
  await withClient(uri, async (client) => {
    // Rows that are lost with this machine are made anew: no need to wait for the disk.
    await client.query('SET synchronous_commit = off');
    await client.query(
      `BEGIN; ${SHOP_TABLES} ${SHOP_ROWS(options.rows ?? 200_000)} ${SHOP_INDEXES} ${SHOP_GRANTS} COMMIT`,
    );
    await client.query('VACUUM (ANALYZE)');
  });
}

async function withClient<T>(uri: string, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client({ connectionString: uri });
  client.on('error', () => undefined);
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}
