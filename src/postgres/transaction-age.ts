/**
 * A row tells 32 bits of the transaction that wrote it, so its age is known for 2^31 transactions: some days of a busy
 * server. Half of that, in transactions, leaves time to look.
 */
export const OLDEST_TOLD_AGE = 1_000_000_000n;
