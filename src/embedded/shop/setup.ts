import { parseArgs } from 'node:util';
import { createShop, createShopDatabase, hasShop, SHOP_DATABASE } from './create-shop.js';

/*
 * Makes the shop on servers that somebody else runs (docker-compose.yml): its database with rows on blue, an empty one
 * on green. Runs again without harm: what is there stays.
 *
 *   SHOP_BLUE_ADMIN_URL, SHOP_GREEN_ADMIN_URL   superusers' addresses
 *   SHOP_PASSWORD                               the password of the application's role
 *   --rows N                                    orders, and as many transactions
 */

const { values: options } = parseArgs({ options: { rows: { type: 'string', default: '200000' } } });

const shopPassword = required('SHOP_PASSWORD');
const blue = required('SHOP_BLUE_ADMIN_URL');
await createShopDatabase({ uri: blue, shopPassword });
await createShopDatabase({ uri: required('SHOP_GREEN_ADMIN_URL'), shopPassword });

const shop = new URL(blue);
shop.pathname = `/${SHOP_DATABASE}`;
if (await hasShop(shop.href)) console.log('The shop is there already.');
else {
  await createShop(shop.href, { rows: Number(options.rows) });
  console.log(`The shop is there, with ${options.rows} orders.`);
}

function required(variable: string): string {
  const value = process.env[variable];
  if (value === undefined || value === '') throw new Error(`set ${variable}`);
  return value;
}
