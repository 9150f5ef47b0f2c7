import pg from 'pg';
import type { Side } from '../../side.js';
import type { AcknowledgedWrite, IntendedWrite, WriteLedger } from './write-ledger.js';

/** What the databases hold, against what the application was told. */
export interface AuditResult {
  /** The side that was looked at: the one that serves. */
  readonly side: Side;
  readonly acknowledgedWrites: number;
  /** Acknowledged writes that are not there, or not whole: amount, payload, order, items. */
  readonly lostWrites: number;
  /** Acknowledged writes that are there more than once. */
  readonly duplicatedWrites: number;
  /** Writes that were reported as failed and are there all the same. */
  readonly phantomWrites: number;
  /** Users whose balance is not the sum of their transactions: an update was lost, or came twice. */
  readonly wrongBalances: number;
  /** A few references of what is wrong, to look at. */
  readonly examples: readonly string[];
}

interface AuditedRow {
  reference: string;
  times: number;
  cents: number;
  payload: string | null;
  whole: boolean;
}

const BATCH = 2_000;

/** Looks for every acknowledged write, one by one, in the database that serves. */
export async function audit(ledger: WriteLedger, side: Side, config: pg.ClientConfig): Promise<AuditResult> {
  const client = new pg.Client(config);
  client.on('error', () => undefined);
  await client.connect();
  try {
    const lost: string[] = [];
    const duplicated: string[] = [];
    for (const batch of batches(ledger.acknowledged)) {
      const rows = await rowsOf(client, batch);
      for (const write of batch) {
        const row = rows.get(write.reference);
        if (row === undefined || !isWhole(row, write)) lost.push(write.reference);
        else if (row.times > 1) duplicated.push(write.reference);
      }
    }
    const phantom: string[] = [];
    for (const batch of batches(ledger.failed)) phantom.push(...(await rowsOf(client, batch)).keys());
    return {
      side,
      acknowledgedWrites: ledger.acknowledged.length,
      lostWrites: lost.length,
      duplicatedWrites: duplicated.length,
      phantomWrites: phantom.length,
      wrongBalances: await wrongBalances(client),
      examples: [...lost, ...duplicated, ...phantom].slice(0, 10),
    };
  } finally {
    await client.end();
  }
}

function isWhole(row: AuditedRow, write: AcknowledgedWrite): boolean {
  return row.whole && row.cents === write.cents && row.payload === write.payload;
}

async function rowsOf(client: pg.Client, writes: readonly IntendedWrite[]): Promise<Map<string, AuditedRow>> {
  const { rows } = await client.query<AuditedRow>(
    `SELECT t.reference::text, count(*)::int AS times, min(t.amount * 100)::int AS cents, min(t.payload) AS payload,
            bool_and(o.status = 'paid' AND o.total = t.amount AND o.user_id = t.user_id
                     AND (SELECT sum(i.price * i.quantity) FROM public.order_items i WHERE i.order_id = o.id) = t.amount)
              AS whole
       FROM public.transactions t JOIN public.orders o ON o.id = t.order_id
      WHERE t.reference = ANY ($1::uuid[])
      GROUP BY t.reference`,
    [writes.map((write) => write.reference)],
  );
  return new Map(rows.map((row) => [row.reference, row]));
}

async function wrongBalances(client: pg.Client): Promise<number> {
  const { rows } = await client.query<{ wrong: number }>(
    `SELECT count(*)::int AS wrong
       FROM public.users u
       LEFT JOIN (SELECT user_id, sum(amount) AS spent FROM public.transactions GROUP BY user_id) t ON t.user_id = u.id
      WHERE u.balance <> -coalesce(t.spent, 0)`,
  );
  return rows[0]?.wrong ?? 0;
}

function* batches<T>(all: readonly T[]): Generator<readonly T[]> {
  for (let from = 0; from < all.length; from += BATCH) yield all.slice(from, from + BATCH);
}
