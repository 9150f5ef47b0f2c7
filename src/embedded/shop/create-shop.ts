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
    await client.query(`CREATE ROLE ${SHOP_ROLE} LOGIN PASSWORD ${literal(server.shopPassword)}`);
    await client.query(`CREATE DATABASE ${SHOP_DATABASE} TEMPLATE template0 ENCODING 'UTF8'`);
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
    await client.query(`BEGIN; ${SHOP_TABLES} ${SHOP_ROWS(options.rows ?? 200_000)} COMMIT`);
    await client.query(SHOP_INDEXES);
    await client.query(SHOP_GRANTS);
    await client.query('VACUUM (ANALYZE)');
  });
}

async function withClient(uri: string, work: (client: pg.Client) => Promise<void>): Promise<void> {
  const client = new pg.Client({ connectionString: uri });
  client.on('error', () => undefined);
  await client.connect();
  try {
    await work(client);
  } finally {
    await client.end();
  }
}
