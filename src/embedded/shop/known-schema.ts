import type { Side } from '../../side.js';
import type { ShopTransaction } from './shop-database.js';

const LOOK_AGAIN_MS = 5_000;

/**
 * Which of its schemas the application meets. Its code was deployed before the migration and supports both, as the rule
 * "deploy code first" asks: it writes the new column wherever there is one.
 */
export class KnownSchema {
  readonly #seen: Partial<Record<Side, { readonly hasMetadata: boolean; readonly at: number }>> = {};

  /** Whether `transactions` has the column `metadata` on the transaction's side; looked up every few seconds. */
  async hasMetadata(transaction: ShopTransaction): Promise<boolean> {
    const { side } = transaction;
    const seen = this.#seen[side];
    if (seen !== undefined && performance.now() - seen.at < LOOK_AGAIN_MS) return seen.hasMetadata;
    const rows = await transaction.query<{ present: boolean }>({
      name: 'has-metadata',
      text: `SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'transactions'::regclass
                               AND attname = 'metadata' AND NOT attisdropped) AS present`,
      values: [],
    });
    const hasMetadata = rows[0]?.present ?? false;
    this.#seen[side] = { hasMetadata, at: performance.now() };
    return hasMetadata;
  }
}
