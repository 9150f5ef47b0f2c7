import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { backfillTables, type BackfillOptions } from '../../src/postgres/migrate/backfill.js';
import { markBackfilled } from '../../src/postgres/migrate/backfill-progress.js';
import { expandTable } from '../../src/postgres/migrate/expand-table.js';
import type { TableWork } from '../../src/postgres/migrate/plan-work.js';
import type { Progress } from '../../src/postgres/migrate/step-context.js';
import type { Loads } from '../../src/postgres/load.js';
import { LoadMeter } from '../../src/postgres/load.js';
import { NO_LAG, ReplicatedPair, workOf } from '../postgres/replicated-pair.js';

const ROWS = 30_000;

/** `wide` and `hot` are large enough to be cut into ranges; `wide` has rows whose value is NULL for good. */
const DDL = `
  CREATE TABLE wide (id bigint PRIMARY KEY, body text, pad text, n int NOT NULL DEFAULT 0);
  CREATE TABLE hot (id bigint PRIMARY KEY, body text, pad text, n int NOT NULL DEFAULT 0);
  CREATE TABLE marked (id int PRIMARY KEY, body text);
  CREATE TABLE bad (id int PRIMARY KEY, body text, pad text);
  CREATE TABLE race (id int PRIMARY KEY, body text, n int NOT NULL DEFAULT 0);
  CREATE TABLE shared (id int PRIMARY KEY, body text);
  CREATE TABLE small (id int PRIMARY KEY, body text);`;

const FILL = `
  INSERT INTO wide SELECT n, CASE WHEN n % 10 = 0 THEN NULL ELSE 'body ' || n END, repeat('x', 150) FROM generate_series(1, ${ROWS}) n;
  INSERT INTO hot SELECT n, 'body ' || n, repeat('x', 150) FROM generate_series(1, ${ROWS}) n;
  INSERT INTO bad SELECT n, CASE n WHEN 20001 THEN 'x' ELSE n::text END, repeat('x', 150) FROM generate_series(1, ${ROWS}) n;
  INSERT INTO marked SELECT n, 'b' FROM generate_series(1, 100) n;
  INSERT INTO race SELECT n, 'b' || n FROM generate_series(1, 100) n;
  INSERT INTO shared SELECT n, 'b' || n FROM generate_series(1, 1500) n;
  INSERT INTO small SELECT n, 'b' FROM generate_series(1, 100) n;`;

const MIGRATIONS = [
  { addColumn: { table: 'wide', column: 'upper', type: 'text', up: 'upper(body)' } },
  { addColumn: { table: 'hot', column: 'upper', type: 'text', up: 'upper(body)', notNull: true } },
  { addColumn: { table: 'marked', column: 'upper', type: 'text', up: 'upper(body)' } },
  { addColumn: { table: 'bad', column: 'number', type: 'int', up: 'body::int' } },
  { addColumn: { table: 'race', column: 'pairing', type: 'text', up: `upper(body) || '/' || n` } },
  { addColumn: { table: 'shared', column: 'upper', type: 'text', up: 'upper(body)' } },
  { addColumn: { table: 'small', column: 'upper', type: 'text', up: 'upper(body)' } },
];

let pair: ReplicatedPair;
let works: ReadonlyMap<string, TableWork>;

function work(...names: string[]): TableWork[] {
  return names.map((name) => {
    const found = works.get(name);
    if (found === undefined) throw new Error(`no work for ${name}`);
    return found;
  });
}

const TWO_LANES: BackfillOptions = { ...NO_LAG, batchMs: 20, parallel: 2 };

async function one<T>(sql: string): Promise<T | undefined> {
  return (await pair.green.query<{ v: T }>(sql)).rows[0]?.v;
}

const wrongInWide = (): Promise<number | undefined> =>
  one<number>('SELECT count(*)::int AS v FROM wide WHERE upper IS DISTINCT FROM upper(body)');

/** How often each row was written since it arrived: its version's transaction, by key. */
async function versions(table: string): Promise<ReadonlyMap<string, string>> {
  const { rows } = await pair.green.query<{ id: string; version: string }>(
    `SELECT id, xmin || ' ' || ctid AS version FROM ${table} WHERE upper IS NOT NULL`,
  );
  return new Map(rows.map(({ id, version }) => [id, version]));
}

beforeAll(async () => {
  pair = await ReplicatedPair.start('pg15', 'backfill_lanes', DDL, FILL);
  const { tables } = await workOf(MIGRATIONS);
  for (const table of tables) await expandTable(pair.context(), table);
  works = new Map(tables.map((table) => [table.table.name, table]));
});
afterAll(() => pair.stop());

describe('a backfill by several lanes', () => {
  it('killed again and again at whatever moment: every row right in the end, none written twice', async () => {
    let kills = 0;
    let done: ReadonlyMap<string, string> = new Map();
    for (let attempt = 1; ; attempt++) {
      const stop = new AbortController();
      const seen: Progress[] = [];
      const running = backfillTables(pair.context(seen, stop.signal), work('wide', 'small'), TWO_LANES);
      let over = false;
      const outcome = running
        .then(
          () => 'completed' as const,
          () => 'stopped' as const,
        )
        .finally(() => (over = true));
      if (attempt <= 6) {
        for (const batches = attempt; seen.length < batches && !over;) await sleep(1);
        await sleep(Math.random() * 20);
        if (attempt % 2 === 0) stop.abort(new Error('cancelled by a person'));
        else
          await pair.green.query(
            `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'verdigris backfill' AND datname = current_database()`,
          );
      }
      const result = await outcome;
      const now = await versions('wide');
      expect([...done].filter(([id, version]) => now.get(id) !== version)).toEqual([]);
      done = now;
      if (result === 'completed') break;
      kills += 1;
    }
    expect(kills).toBeGreaterThan(1);
    expect(await wrongInWide()).toBe(0);
    const counted = await backfillTables(pair.context(), work('wide'), TWO_LANES);
    expect(counted).toEqual([{ table: 'public.wide', rows: ROWS, written: ROWS - ROWS / 10 }]);
  });

  it('cuts a large table into ranges that share no key and leave none out', async () => {
    const { rows } = await pair.green.query<{ after: [string] | null; up_to: [string]; rows: number }>(
      `SELECT state -> 'after' AS after, state -> 'upTo' AS up_to, (state ->> 'rows')::int AS rows
         FROM verdigris.progress WHERE step = 'backfill range' AND object LIKE 'public.wide %' ORDER BY (state ->> 'number')::int`,
    );
    expect(rows.length).toBeGreaterThanOrEqual(4);
    expect(rows.map(({ after }) => after)).toEqual([null, ...rows.slice(0, -1).map(({ up_to }) => up_to)]);
    expect(rows.at(-1)?.up_to).toEqual([String(ROWS)]);
    for (const range of rows) expect(range.rows).toBeGreaterThan(ROWS / rows.length / 3);
  });

  it('a second run, where many values are NULL for good, writes no row', async () => {
    const before = await one<string>(`SELECT string_agg(xmin || ' ' || ctid, ',' ORDER BY id) AS v FROM wide`);
    await pair.green.query(`DELETE FROM verdigris.progress WHERE step LIKE 'backfill%' AND object LIKE 'public.wide%'`);
    const [result] = await backfillTables(pair.context(), work('wide'), TWO_LANES);
    expect(result).toMatchObject({ rows: ROWS, written: 0 });
    expect(await one<string>(`SELECT string_agg(xmin || ' ' || ctid, ',' ORDER BY id) AS v FROM wide`)).toBe(before);
  });

  it('a table whose rows came with their values is answered at once', async () => {
    await markBackfilled(pair.ourGreen, 'run', [{ schema: 'public', name: 'marked' }]);
    const [result] = await backfillTables(pair.context(), work('marked'), TWO_LANES);
    expect(result).toEqual({ table: 'public.marked', rows: 0, written: 0 });
    expect(await one('SELECT count(*)::int AS v FROM marked WHERE upper IS NOT NULL')).toBe(0);
  });

  it('names a row that fails, stops all lanes, and goes on when the row was corrected', async () => {
    await expect(backfillTables(pair.context(), work('bad'), TWO_LANES)).rejects.toMatchObject({
      type: 'BackfillFailed',
      retryable: false,
      message: expect.stringMatching(/public\.bad failed on the row with "id" = 20001: invalid input syntax/) as string,
    });
    const already = (await one<number>('SELECT count(*)::int AS v FROM bad WHERE number IS NOT NULL')) ?? 0;
    expect(already).toBeGreaterThan(0);
    await pair.blue.query(`UPDATE bad SET body = '20001' WHERE id = 20001`);
    await pair.caughtUp();
    const [result] = await backfillTables(pair.context(), work('bad'), TWO_LANES);
    expect(result?.rows).toBe(ROWS);
    expect(await one('SELECT count(*)::int AS v FROM bad WHERE number IS DISTINCT FROM id')).toBe(0);
  });
});

describe('a backfill beside others', () => {
  it('a row that somebody changes while the batch waits for it gets the value of its new content', async () => {
    const writer = new pg.Client(pair.greenDatabase.config);
    await writer.connect();
    // As replication writes: a column that nothing is computed from, so that the trigger leaves the new one alone.
    await writer.query(`SET session_replication_role = replica`);
    await writer.query(`BEGIN; ALTER TABLE race DISABLE TRIGGER verdigris_up_down; UPDATE race SET n = 7, body = 'now' WHERE id = 50;
                        ALTER TABLE race ENABLE ALWAYS TRIGGER verdigris_up_down; COMMIT`);
    await writer.query(`BEGIN; SET LOCAL verdigris.internal = 'on'; UPDATE race SET n = n + 1 WHERE id = 10`);
    const running = backfillTables(pair.context(), work('race'), TWO_LANES);
    await sleep(100);
    await writer.query('COMMIT');
    expect(await running).toEqual([{ table: 'public.race', rows: 100, written: 99 }]);
    await writer.end();
    expect(
      await one(`SELECT count(*)::int AS v FROM race WHERE pairing IS DISTINCT FROM upper(body) || '/' || n`),
    ).toBe(0);
  });

  it('a worker that was taken for dead and one that took its place write no row twice and lose no cursor', async () => {
    const options = { ...TWO_LANES, batchMs: 3 };
    const [first, other] = await Promise.all([
      backfillTables(pair.context(), work('shared'), options),
      backfillTables(pair.context(), work('shared'), options),
    ]);
    // Both end, and what is counted with each batch says that every row was written once.
    expect([first, other].flat().map(({ rows, written }) => [rows, written])).toEqual([
      [1500, 1500],
      [1500, 1500],
    ]);
    expect(await one('SELECT count(*)::int AS v FROM shared WHERE upper IS DISTINCT FROM upper(body)')).toBe(0);
  });

  it('never stops the apply worker: blue writes the same rows in the opposite order', async () => {
    let writing = true;
    let transactions = 0;
    const writer = (async (): Promise<void> => {
      for (let from = ROWS; writing; from = from > 2_000 ? from - 1_000 : ROWS) {
        await pair.blue.query(
          `DO $$ BEGIN FOR i IN REVERSE ${from}..${from - 1_000} LOOP UPDATE hot SET body = 'new ' || i, n = n + 1 WHERE id = i; END LOOP; END $$`,
        );
        transactions += 1;
      }
    })();
    const [result] = await backfillTables(pair.context(), work('hot'), TWO_LANES);
    writing = false;
    await writer;
    await pair.caughtUp();
    expect(transactions).toBeGreaterThan(3);
    expect(result?.rows).toBe(ROWS);
    expect(await one('SELECT count(*)::int AS v FROM hot WHERE upper IS DISTINCT FROM upper(body)')).toBe(0);
    expect(await one<number>('SELECT sum(apply_error_count)::int AS v FROM pg_stat_subscription_stats')).toBe(0);
  });

  it('waits while a side is busier than the plan allows, and says which', async () => {
    const quiet = { transactionsPerSecond: 10, activeSessions: 1 };
    const busy: Loads[] = [
      { blue: { ...quiet, transactionsPerSecond: 4_000.4 }, green: quiet },
      { blue: quiet, green: { ...quiet, activeSessions: 9 } },
      { blue: quiet, green: quiet },
    ];
    const seen: Progress[] = [];
    await backfillTables(pair.context(seen, undefined, 'busy'), work('small'), {
      ...TWO_LANES,
      pauseAbove: {
        transactionsPerSecond: 3_000,
        activeSessions: 5,
        load: () => Promise.resolve(busy.shift() ?? { blue: quiet, green: quiet }),
      },
    });
    expect(seen.flatMap(({ note }) => note ?? [])).toEqual([
      'waits: blue runs 4000 transactions a second of others, at most 3000 are allowed',
      'waits: 9 sessions of others are at work on green, at most 5 are allowed',
    ]);
  });

  it('counts the transactions of the application, and neither ours nor those of replication', async () => {
    const meter = new LoadMeter({ blue: pair.ourBlue, green: pair.ourGreen }, () => 0);
    await meter.measure();
    let loads = await meter.measure();
    // Sessions report what they have done about once a second.
    for (let look = 0; look < 100 && loads.blue.transactionsPerSecond < 100; look++) {
      for (let n = 0; n < 40; n++) await pair.blue.query('UPDATE small SET body = $1 WHERE id = 1', [`v${look} ${n}`]);
      await pair.caughtUp();
      loads = await meter.measure();
    }
    expect(loads.blue.transactionsPerSecond).toBeGreaterThan(100);
    expect(loads.green.transactionsPerSecond).toBeLessThan(loads.blue.transactionsPerSecond / 2);
    const asleep = pair.green.query('SELECT pg_sleep(0.5)');
    await sleep(200);
    loads = await meter.measure();
    expect(loads.green.activeSessions).toBe(1);
    await asleep;
  });
});
