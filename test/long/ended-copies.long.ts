import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { tablesync } from '../../src/postgres/bootstrap/tablesync.js';
import { feedName } from '../../src/postgres/feed.js';
import { ensureSlot } from '../../src/postgres/replication-slot.js';
import { CopyPair } from '../postgres/copy-pair.js';

/** More than lies in buffers on the way: blue's COPY is not over before green has taken most of it. */
const DDL = 'CREATE TABLE item (id int PRIMARY KEY, body text)';
const ROWS = `INSERT INTO item SELECT n, repeat('x', 20000) FROM generate_series(1, 3000) n`;

/** Green takes some three seconds at least. */
const SLOW = `
  CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM pg_sleep(0.001); RETURN NEW; END$$;
  CREATE TRIGGER slow BEFORE INSERT ON item FOR EACH ROW EXECUTE FUNCTION slow();
  ALTER TABLE item ENABLE ALWAYS TRIGGER slow`;

describe("PostgreSQL's own copy of a table that a limit of time ends", () => {
  let pair: CopyPair;

  beforeEach(async () => {
    pair = await CopyPair.start(['pg15', 'pg18'], 'ended_copies', DDL, ROWS);
    await pair.planCopy();
    await ensureSlot(pair.ourBlue, feedName(pair.run.migration, 'to_green'));
    await pair.green.query(SLOW);
  });
  afterEach(() => pair.stop());

  const synchronize = (): Promise<unknown> =>
    tablesync.run({
      databases: { blue: pair.blueDatabase, green: pair.greenDatabase },
      ...{ migration: pair.run.migration, direction: 'to_green', streams: 1, maxRetainedWal: 1e12 },
      signal: AbortSignal.timeout(45_000),
      report: () => undefined,
    });

  /** What is to be done is in the error, word for word. */
  async function mendAsTold(failure: unknown, side: 'blue' | 'green'): Promise<void> {
    const told = new RegExp(`\nNext step: on ${side}: (ALTER ROLE [^;]*);`).exec(String(failure))?.[1] ?? '';
    await pair[side].query(told);
    await synchronize();
    await pair.caughtUp();
    expect(await pair.differences()).toEqual([]);
  }

  it('holds with the statement_timeout of blue, and goes on when it is gone', async () => {
    await pair.blue.query(`ALTER DATABASE ${pair.run.runId} SET statement_timeout = '500ms'`);
    const failure = await synchronize().catch((error: unknown) => error);
    expect(failure).toMatchObject({
      ...{ type: 'BackfillFailed', retryable: false },
      message: expect.stringContaining(
        'table public.item can\'t end: it takes longer than the statement_timeout of 0.5 s that user "postgres" has on blue',
      ) as string,
    });
    await mendAsTold(failure, 'blue');
  });

  it('holds with the transaction_timeout of green, whose workers are ended without counting an error', async () => {
    const { rows } = await pair.green.query<{ name: string }>('SELECT current_database() AS name');
    await pair.green.query(`ALTER DATABASE ${rows[0]?.name ?? ''} SET transaction_timeout = '1s'`);
    const failure = await synchronize().catch((error: unknown) => error);
    expect(failure).toMatchObject({
      ...{ type: 'BackfillFailed', retryable: false },
      message: expect.stringContaining('the transaction_timeout of 1 s that user "postgres" has on green') as string,
    });
    await mendAsTold(failure, 'green');
  });
});
