import type pg from 'pg';
import { DEFAULT_INDEX_SETTINGS, whileOffline } from '../../src/postgres/migrate/index-settings.js';
import { withClient } from './servers.js';

/*
 * The seed's schema change as an engineer does it by hand on a copy: the article's statements, with both computed
 * columns in one UPDATE a batch and several indexes at a time, which is how it is quickest.
 */

/** Ids of one batch: one transaction. */
const BATCH = 50_000;
/** Indexes that are built at once: as many as Verdigris builds on a green that nobody uses yet. */
export const PARALLEL_INDEXES = whileOffline(DEFAULT_INDEX_SETTINGS).parallel;

const COLUMNS = [
  'ALTER TABLE public.transactions ADD COLUMN metadata jsonb, ADD COLUMN processed_at timestamp, ADD COLUMN version integer DEFAULT 1',
  'ALTER TABLE public.transactions ADD COLUMN payload_json jsonb',
];

/** Some of the text is not JSON: whoever knows the data sees by its first character which, and needs no subtransaction a row. */
const BATCHED_UPDATE = `
UPDATE public.transactions
   SET metadata = jsonb_build_object('legacy', true),
       payload_json = CASE WHEN payload LIKE '{%' THEN payload::jsonb END
 WHERE id BETWEEN $1 AND $2
`;

const INDEXES = [
  'CREATE INDEX idx_transactions_payload_json ON public.transactions USING gin (payload_json jsonb_path_ops)',
  'CREATE INDEX idx_transactions_metadata ON public.transactions USING gin (metadata)',
  'CREATE INDEX idx_transactions_processed_at ON public.transactions (processed_at)',
  'CREATE INDEX idx_transactions_user_created ON public.transactions (user_id, created_at)',
  'CREATE INDEX idx_transactions_unprocessed ON public.transactions (created_at) WHERE processed_at IS NULL',
];

export interface ByHandTimes {
  readonly seconds: number;
  readonly updateSeconds: number;
  readonly indexSeconds: number;
}

/** Changes the schema of the copy at `uri`. */
export async function byHand(uri: string, signal: AbortSignal): Promise<ByHandTimes> {
  const began = performance.now();
  await withClient(uri, async (client) => {
    for (const statement of COLUMNS) await client.query(statement);
    await updateInBatches(client, signal);
  });
  const updated = performance.now();
  const left = [...INDEXES];
  await Promise.all(
    Array.from({ length: PARALLEL_INDEXES }, () => withClient(uri, (client) => buildIndexes(client, left))),
  );
  const indexed = performance.now();
  await withClient(uri, async (client) => {
    await client.query('ALTER TABLE public.transactions ALTER COLUMN metadata SET NOT NULL');
    await client.query('ANALYZE public.transactions');
  });
  return {
    seconds: (performance.now() - began) / 1_000,
    updateSeconds: (updated - began) / 1_000,
    indexSeconds: (indexed - updated) / 1_000,
  };
}

async function updateInBatches(client: pg.Client, signal: AbortSignal): Promise<void> {
  const { rows } = await client.query<{ last: string }>('SELECT coalesce(max(id), 0) AS last FROM public.transactions');
  const last = Number(rows[0]?.last ?? 0);
  for (let first = 1; first <= last; first += BATCH) {
    signal.throwIfAborted();
    await client.query(BATCHED_UPDATE, [first, first + BATCH - 1]);
  }
}

async function buildIndexes(client: pg.Client, left: string[]): Promise<void> {
  for (let statement = left.shift(); statement !== undefined; statement = left.shift()) await client.query(statement);
}
