import { afterEach, describe, expect, it } from 'vitest';
import { byHand, PARALLEL_INDEXES } from '../../bench/data/by-hand.js';
import { createDataSet } from '../../bench/data/data-set.js';
import { testDatabase, withClient } from '../support/postgres.js';

const ROWS = 1_000;

const open: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close();
});

describe('the change by hand, which the benchmark measures beside Verdigris', () => {
  it('gets the same columns and indexes, by a cast that costs no subtransaction a row, four indexes at once', async () => {
    const green = await testDatabase('pg15', 'by hand');
    open.push(() => green.drop());
    await withClient(green.config, (client) => createDataSet(client, ROWS, () => undefined));
    await byHand(green.uri, new AbortController().signal);
    await withClient(green.config, async (client) => {
      const { rows } = await client.query(
        `SELECT count(*)::int AS rows, count(metadata)::int AS metadata, count(payload_json)::int AS json,
                count(*) FILTER (WHERE payload LIKE 'legacy%')::int AS notes,
                count(*) FILTER (WHERE payload LIKE '{%' AND payload_json IS DISTINCT FROM payload::jsonb)::int AS wrong
           FROM public.transactions`,
      );
      const notes = Math.floor(ROWS / 97);
      const absent = Math.floor(ROWS / 89) - Math.floor(ROWS / (97 * 89));
      expect(rows).toEqual([{ rows: ROWS, metadata: ROWS, json: ROWS - notes - absent, notes, wrong: 0 }]);
      const made = await client.query(
        `SELECT (SELECT count(*)::int FROM pg_class WHERE relname LIKE 'idx\\_transactions\\_%') AS indexes,
                (SELECT count(*)::int FROM pg_proc WHERE pronamespace = 'public'::regnamespace) AS functions`,
      );
      expect(made.rows).toEqual([{ indexes: 5, functions: 0 }]);
    });
    expect(PARALLEL_INDEXES).toBe(4);
  });
});
