import type { Side } from '../../side.js';
import type { ShopDatabase } from './shop-database.js';
import type { AcknowledgedWrite } from './write-ledger.js';

/** A read that does not show what the same user was told before. */
export class StaleRead extends Error {
  override readonly name = 'StaleRead';
}

/** The latest orders of a user. */
export async function listOrders(database: ShopDatabase, userId: number): Promise<Side> {
  const { side } = await database.read(String(userId), 'orders', {
    name: 'orders-of-user',
    text: `SELECT id, status, total, created_at FROM orders WHERE user_id = $1 ORDER BY created_at DESC LIMIT 20`,
    values: [userId],
  });
  return side;
}

export async function readBalance(database: ShopDatabase, userId: number): Promise<Side> {
  const { side } = await database.read(String(userId), 'balance', {
    name: 'balance-of-user',
    text: 'SELECT balance FROM users WHERE id = $1',
    values: [userId],
  });
  return side;
}

/**
 * One transaction of a user: the latest that was acknowledged, when there is one.
 *
 * @throws StaleRead when the database that answers does not have it: the user would miss a payment just made.
 */
export async function readTransaction(
  database: ShopDatabase,
  userId: number,
  latest: AcknowledgedWrite | undefined,
): Promise<Side> {
  const { rows, side } = await database.read<{ reference: string; cents: number }>(String(userId), 'transaction', {
    name: 'transaction-by-id',
    text: 'SELECT id, reference, (amount * 100)::int AS cents, status, payload FROM transactions WHERE id = $1',
    // Users who have bought nothing since the start look at something old.
    values: [latest?.id ?? userId],
  });
  if (latest !== undefined && (rows[0]?.reference !== latest.reference || rows[0].cents !== latest.cents)) {
    throw new StaleRead(`user ${userId} does not see transaction ${latest.id}`);
  }
  return side;
}
