import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { backfillTable } from '../../src/postgres/migrate/backfill.js';
import { expandTable } from '../../src/postgres/migrate/expand-table.js';
import type { TableWork } from '../../src/postgres/migrate/plan-work.js';
import type { Progress } from '../../src/postgres/migrate/step-context.js';
import { NO_LAG, ReplicatedPair, workOf } from './replicated-pair.js';

const ROWS = 20_000;

const DDL = `
  CREATE TABLE big (id int PRIMARY KEY, body text NOT NULL, touched int NOT NULL DEFAULT 0);
  CREATE TABLE keyed (k0 text, n numeric(6,2), at date, body text, PRIMARY KEY (k0, n, at));
  CREATE TABLE part (id int, region text, body text, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
  CREATE TABLE part_eu PARTITION OF part FOR VALUES IN ('eu');
  CREATE TABLE part_us PARTITION OF part FOR VALUES IN ('us');
  CREATE TABLE empty (id int PRIMARY KEY, body text);
  CREATE TABLE bad (id int PRIMARY KEY, body text);
  CREATE TABLE slow (id int PRIMARY KEY, body text);
  CREATE TABLE held (id int PRIMARY KEY, body text);
  CREATE TABLE short (id int PRIMARY KEY, body text);
  CREATE TABLE ruled (id int PRIMARY KEY, body text);
  CREATE TABLE lacking (id int PRIMARY KEY, body text);
  CREATE TABLE audit (n int);
  CREATE RULE also AS ON UPDATE TO ruled DO ALSO INSERT INTO audit VALUES (1);
  CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.audit VALUES (1); NEW.touched := 1; RETURN NEW; END';
  CREATE TRIGGER audit BEFORE UPDATE ON big FOR EACH ROW EXECUTE FUNCTION audit();
  CREATE FUNCTION slowly(value text) RETURNS text LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.0002); RETURN upper(value); END';`;

const FILL = `
  INSERT INTO big SELECT n, 'body ' || n FROM generate_series(1, ${ROWS}) n;
  INSERT INTO keyed SELECT chr(97 + n % 26) || 'é''"' || n, n / 7.0, date '2026-01-01' + n, 'b' FROM generate_series(1, 3000) n;
  INSERT INTO part SELECT n, CASE n % 2 WHEN 0 THEN 'eu' ELSE 'us' END, 'b' FROM generate_series(1, 2000) n;
  INSERT INTO bad SELECT n, CASE n WHEN 777 THEN 'x' ELSE n::text END FROM generate_series(1, 3000) n;
  INSERT INTO slow SELECT n, 'b' FROM generate_series(1, 2000) n;
  INSERT INTO held SELECT n, 'b' FROM generate_series(1, 1000) n;
  INSERT INTO ruled VALUES (1, 'b');
  INSERT INTO lacking VALUES (1, 'b'), (2, NULL);
  INSERT INTO short VALUES (1, 'abcdef');`;

const MIGRATIONS = [
  { addColumn: { table: 'big', column: 'upper', type: 'text', up: 'upper(body)' } },
  { addColumn: { table: 'big', column: 'chained', type: 'int', up: 'length(upper)' } },
  { addColumn: { table: 'keyed', column: 'label', type: 'varchar(50)', up: `k0 || ' ' || n` } },
  { addColumn: { table: 'part', column: 'label', type: 'text', up: `part.region || part.id` } },
  { addColumn: { table: 'empty', column: 'label', type: 'text', up: 'body' } },
  { addColumn: { table: 'bad', column: 'number', type: 'int', up: 'body::int' } },
  { addColumn: { table: 'slow', column: 'upper', type: 'text', up: 'public.slowly(body)' } },
  { addColumn: { table: 'held', column: 'upper', type: 'text', up: 'upper(body)' } },
  { addColumn: { table: 'ruled', column: 'upper', type: 'text', up: 'upper(body)' } },
  { addColumn: { table: 'lacking', column: 'upper', type: 'text', up: 'upper(body)' } },
  { addColumn: { table: 'short', column: 'cut', type: 'varchar(3)', up: 'body' } },
];

let pair: ReplicatedPair;
let works: ReadonlyMap<string, TableWork>;

function work(name: string): TableWork {
  const found = works.get(name);
  if (found === undefined) throw new Error(`no work for ${name}`);
  return found;
}

async function one<T>(sql: string): Promise<T | undefined> {
  return (await pair.green.query<{ v: T }>(sql)).rows[0]?.v;
}

/** The version of each row: another one after every write of it. */
async function versions(table: string, where = 'true'): Promise<ReadonlyMap<number, string>> {
  const { rows } = await pair.green.query<{ id: number; version: string }>(
    `SELECT id, xmin || ' ' || ctid AS version FROM ${table} WHERE ${where} ORDER BY id`,
  );
  return new Map(rows.map(({ id, version }) => [id, version]));
}

beforeAll(async () => {
  pair = await ReplicatedPair.start('pg15', 'backfill', DDL, FILL);
  const { tables } = await workOf(MIGRATIONS);
  for (const table of tables) await expandTable(pair.context(), table);
  works = new Map(tables.map((table) => [table.table.name, table]));
});
afterAll(() => pair.stop());

describe('backfill', () => {
  it('fills every row once, while blue goes on writing, and fires no trigger of the application', async () => {
    const seen: Progress[] = [];
    let writing = true;
    const writer = (async (): Promise<void> => {
      for (let n = 1; writing; n++) {
        await pair.blue.query(`UPDATE big SET body = 'new ' || $1 WHERE id = $2`, [n, 1 + ((n * 7) % ROWS)]);
        await pair.blue.query(`INSERT INTO big VALUES ($1, 'late')`, [ROWS + n]);
      }
    })();
    const result = await backfillTable(pair.context(seen), work('big'), NO_LAG);
    writing = false;
    await writer;
    await pair.caughtUp();
    expect(result.rows).toBeGreaterThanOrEqual(ROWS);
    expect(
      await one(
        'SELECT count(*)::int AS v FROM big WHERE upper IS DISTINCT FROM upper(body) OR chained IS DISTINCT FROM length(body)',
      ),
    ).toBe(0);
    // Blue's own trigger has set "touched" on the rows that the writer updated; the backfill set none.
    expect(await one(`SELECT count(*)::int AS v FROM big WHERE touched = 1 AND body LIKE 'body%'`)).toBe(0);
    expect(await one('SELECT count(*)::int AS v FROM audit')).toBe(await auditOnBlue());
    expect(seen.at(-1)).toMatchObject({ step: 'backfill', object: 'public.big' });
    expect(seen.at(-1)?.done).toBe(result.rows);
    const early = seen.find(({ done, total, etaSeconds }) => done < total && etaSeconds !== null);
    expect(early?.rowsPerSecond).toBeGreaterThan(0);
    expect(early?.bytes).toBeGreaterThan(0);
    expect(early?.bytes).toBeLessThan(seen.at(-1)?.bytes ?? 0);
    expect(early?.bytesPerSecond).toBeGreaterThan(early?.rowsPerSecond ?? Infinity);
  });

  async function auditOnBlue(): Promise<number | undefined> {
    return (await pair.blue.query<{ n: number }>('SELECT count(*)::int AS n FROM audit')).rows[0]?.n;
  }

  it('a second run, even one that knows nothing of the first, writes nothing', async () => {
    const before = await versions('big');
    expect((await backfillTable(pair.context(), work('big'), NO_LAG)).rows).toBeGreaterThan(0);
    const again = await backfillTable(pair.context([], undefined, 'another run'), work('big'), NO_LAG);
    expect(again.written).toBe(0);
    expect(again.rows).toBeGreaterThanOrEqual(ROWS);
    expect(await versions('big')).toEqual(before);
  });

  it('sets off no rule of the application: where it would, that is told, and no row is blamed', async () => {
    const plain = `plain_${pair.context().runId.replaceAll(/\W/g, '_')}`;
    await pair.green.query(`CREATE ROLE ${plain}`);
    const context = pair.context();
    const connect: typeof context.connect = async (purpose) => {
      const session = await context.connect(purpose);
      await session.query(`SET ROLE ${plain}`);
      return session;
    };
    try {
      await expect(backfillTable({ ...context, connect }, work('ruled'), NO_LAG)).rejects.toThrow(
        /ruled has rule "also" of the application, .* may not set session_replication_role[^]*GRANT SET ON PARAMETER/,
      );
    } finally {
      await pair.green.query(`DROP ROLE ${plain}`);
    }
    await pair.green.query('ALTER TABLE ruled ENABLE ALWAYS RULE also');
    await expect(backfillTable(pair.context(), work('ruled'), NO_LAG)).rejects.toMatchObject({
      type: 'BackfillFailed',
      message: expect.stringContaining('rule "also" ON UPDATE that is ENABLE ALWAYS or REPLICA') as string,
    });
    await pair.green.query('ALTER TABLE ruled ENABLE RULE also');
    const before = await one('SELECT count(*)::int AS v FROM audit');
    expect((await backfillTable(pair.context(), work('ruled'), NO_LAG)).rows).toBe(1);
    expect(await one('SELECT upper AS v FROM ruled')).toBe('B');
    expect(await one('SELECT count(*)::int AS v FROM audit')).toBe(before);
  });

  it('leaves rows as they are whose value is NULL: only these may break a constraint that is NOT VALID', async () => {
    await pair.green.query('ALTER TABLE lacking ADD CHECK (body IS NOT NULL) NOT VALID');
    const before = await versions('lacking', 'id = 2');
    expect(await backfillTable(pair.context(), work('lacking'), NO_LAG)).toMatchObject({ rows: 2, written: 1 });
    expect(await versions('lacking', 'id = 2')).toEqual(before);
  });

  it('composite keys of text, numbers and dates, partitions and empty tables', async () => {
    expect(await backfillTable(pair.context(), work('keyed'), NO_LAG)).toMatchObject({ rows: 3000, written: 3000 });
    expect(await one(`SELECT count(*)::int AS v FROM keyed WHERE label IS DISTINCT FROM k0 || ' ' || n`)).toBe(0);
    expect(await backfillTable(pair.context(), work('part'), NO_LAG)).toMatchObject({ rows: 2000, written: 2000 });
    expect(await one('SELECT count(*)::int AS v FROM part WHERE label IS DISTINCT FROM region || id')).toBe(0);
    expect(await backfillTable(pair.context(), work('empty'), NO_LAG)).toMatchObject({ rows: 0, written: 0 });
  });

  it('names the row on which it failed where a child table has one with the same key', async () => {
    await pair.green.query(
      `CREATE TABLE bad_child (PRIMARY KEY (id)) INHERITS (bad); INSERT INTO bad_child VALUES (777, '1')`,
    );
    try {
      await expect(backfillTable(pair.context(), work('bad'), NO_LAG)).rejects.toThrow(/on the row with "id" = 777: /);
    } finally {
      await pair.green.query('DROP TABLE bad_child');
    }
  });

  it.each([
    ['bad', /backfill of table public\.bad failed on the row with "id" = 777: invalid input syntax for type integer/],
    ['short', /on the row with "id" = 1: value too long for type character varying\(3\)/],
  ])('names the row on which it failed: %s', async (table, message) => {
    await expect(backfillTable(pair.context(), work(table), NO_LAG)).rejects.toThrow(message);
    await expect(backfillTable(pair.context(), work(table), NO_LAG)).rejects.toMatchObject({
      type: 'BackfillFailed',
      retryable: false,
    });
  });

  it('waits while green is too far behind', async () => {
    const seen: Progress[] = [];
    const lags = [9, 9, 0];
    await backfillTable(pair.context(seen, undefined, 'lagging'), work('keyed'), {
      ...NO_LAG,
      lagSeconds: () => Promise.resolve(lags.shift() ?? 0),
    });
    expect(lags).toEqual([]);
    // Told when it begins to wait, not at each look.
    expect(seen.filter(({ note }) => note?.startsWith('waits: 9.0 s behind'))).toHaveLength(1);
  });

  it('gives way to a session that holds a row, and goes on when it is gone', async () => {
    await pair.green.query('BEGIN; SELECT FROM held WHERE id = 10 FOR UPDATE');
    const seen: Progress[] = [];
    const running = backfillTable(pair.context(seen, undefined, 'blocked'), work('held'), NO_LAG);
    while (!seen.some(({ note }) => note?.includes('lock') === true)) await sleep(20);
    await pair.green.query('ROLLBACK');
    expect(await running).toMatchObject({ rows: 1000, written: 1000 });
  });
});

describe('a backfill that is stopped', () => {
  it('by an abort: the statement ends at once, and the next try goes on behind the last batch', async () => {
    const seen: Progress[] = [];
    const stop = new AbortController();
    const running = backfillTable(pair.context(seen, stop.signal, 'stopped'), work('slow'), NO_LAG);
    while ((seen.at(-1)?.done ?? 0) === 0) await sleep(5);
    const aborted = performance.now();
    stop.abort(new Error('cancelled by a person'));
    await expect(running).rejects.toThrow('cancelled by a person');
    expect(performance.now() - aborted).toBeLessThan(10_000);
    const done = seen.at(-1)?.done ?? 0;
    expect(done).toBeGreaterThan(0);
    expect(done).toBeLessThan(2000);
    expect(await one('SELECT count(*)::int AS v FROM slow WHERE upper IS NOT NULL')).toBe(done);
  });

  it('by kill -9 of its process in mid-batch: the next one rewrites no row', async () => {
    const already = (await one<number>('SELECT count(*)::int AS v FROM slow WHERE upper IS NOT NULL')) ?? 0;
    const child = backfillInChild();
    while ((await one<number>('SELECT count(*)::int AS v FROM slow WHERE upper IS NOT NULL')) === already)
      await sleep(20);
    await sleep(100);
    child.kill('SIGKILL');
    await once(child, 'exit');
    // The server notices a dead client when its statement is over.
    while (
      (await one<number>(
        `SELECT count(*)::int AS v FROM pg_stat_activity WHERE application_name = 'verdigris backfill' AND datname = current_database()`,
      )) !== 0
    )
      await sleep(20);
    const done = await versions('slow', 'upper IS NOT NULL');
    expect(done.size).toBeGreaterThan(already);
    expect(done.size).toBeLessThan(2000);
    const result = await backfillTable(pair.context([], undefined, 'stopped'), work('slow'), NO_LAG);
    expect(result).toMatchObject({ rows: 2000, written: 2000 });
    expect(await one('SELECT count(*)::int AS v FROM slow WHERE upper IS NULL')).toBe(0);
    const now = await versions('slow');
    expect([...done].filter(([id, version]) => now.get(id) !== version)).toEqual([]);
  });
});

function backfillInChild(): ChildProcess {
  const script = `
    import { backfillTable } from './src/postgres/migrate/backfill.ts';
    import { openSession } from './src/postgres/session.ts';
    const [database, work] = JSON.parse(process.env.JOB);
    const connect = (purpose) => openSession(database, { purpose });
    await backfillTable({ runId: 'stopped', session: await connect('test'), connect, signal: new AbortController().signal,
      onProgress: () => {} }, work, { batchMs: 250, maxLagSeconds: 5, lagSeconds: async () => 0 });
    process.exit(0);`;
  return spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', script], {
    env: { ...process.env, JOB: JSON.stringify([pair.greenDatabase, work('slow')]) },
    stdio: 'inherit',
  });
}
