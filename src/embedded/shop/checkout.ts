import { randomUUID } from 'node:crypto';
import type { KnownSchema } from './known-schema.js';
import type { ShopDatabase } from './shop-database.js';
import { SHOP_PRODUCTS } from './shop-schema.js';
import type { AcknowledgedWrite, IntendedWrite } from './write-ledger.js';

interface Item {
  readonly product: number;
  readonly quantity: number;
  readonly priceCents: number;
}

export interface Checkout extends IntendedWrite {
  readonly items: readonly Item[];
}

/** What a user is about to buy: one to three products. */
export function newCheckout(userId: number): Checkout {
  const items = Array.from({ length: 1 + Math.floor(Math.random() * 3) }, () => {
    const product = 1 + Math.floor(Math.random() * SHOP_PRODUCTS);
    return { product, quantity: 1 + Math.floor(Math.random() * 3), priceCents: (1 + (product % 90)) * 100 };
  });
  const cents = items.reduce((sum, item) => sum + item.priceCents * item.quantity, 0);
  const reference = randomUUID();
  // With the spaces and the order that this code writes, and now and then no JSON: the text must come back as it was.
  const payload =
    Math.random() < 0.02
      ? `call back about ${reference}`
      : `{"source": "shop", "channel":"web", "items":${items.length}}`;
  return { userId, reference, cents, payload, items };
}

/** Books a checkout: the order, its items, the user's balance and the money's transaction, all or nothing. */
export async function checkOut(
  database: ShopDatabase,
  schema: KnownSchema,
  checkout: Checkout,
): Promise<AcknowledgedWrite> {
  const { userId, reference, cents, payload, items } = checkout;
  const total = money(cents);
  const { value: id, side } = await database.transaction(String(userId), 'checkout', async (transaction) => {
    const orders = await transaction.query<{ id: string }>({
      name: 'checkout-order',
      text: 'INSERT INTO orders (user_id, total) VALUES ($1, $2) RETURNING id',
      values: [userId, total],
    });
    const orderId = orders[0]?.id;
    await transaction.query({
      name: 'checkout-items',
      text: `INSERT INTO order_items (order_id, position, product_id, quantity, price)
             SELECT $1, item.position, item.product, item.quantity, item.price
               FROM unnest($2::int[], $3::int[], $4::numeric[]) WITH ORDINALITY AS item (product, quantity, price, position)`,
      values: [
        orderId,
        items.map((item) => item.product),
        items.map((item) => item.quantity),
        items.map((item) => money(item.priceCents)),
      ],
    });
    await transaction.query({
      name: 'checkout-balance',
      text: 'UPDATE users SET balance = balance - $2 WHERE id = $1',
      values: [userId, total],
    });
    const transactions = await transaction.query<{ id: string }>(
      (await schema.hasMetadata(transaction))
        ? {
            name: 'checkout-transaction-with-metadata',
            text: `INSERT INTO transactions (user_id, order_id, reference, amount, payload, metadata)
                   VALUES ($1, $2, $3, $4, $5, $6) RETURNING id`,
            values: [userId, orderId, reference, total, payload, { source: 'shop' }],
          }
        : {
            name: 'checkout-transaction',
            text: `INSERT INTO transactions (user_id, order_id, reference, amount, payload)
                   VALUES ($1, $2, $3, $4, $5) RETURNING id`,
            values: [userId, orderId, reference, total, payload],
          },
    );
    await transaction.query({
      name: 'checkout-paid',
      text: "UPDATE orders SET status = 'paid' WHERE id = $1",
      values: [orderId],
    });
    return transactions[0]?.id ?? '';
  });
  return { userId, reference, cents, payload, id, side, at: new Date() };
}

function money(cents: number): string {
  return (cents / 100).toFixed(2);
}
