import pg from 'pg';
import { describe, expect, inject, it, vi } from 'vitest';
import { readCopyState, readParts } from '../../src/postgres/bootstrap/copy/copy-state.js';
import { CopyOut } from '../../src/postgres/bootstrap/copy/copy-out.js';
import { copyParcel } from '../../src/postgres/bootstrap/copy/copy-parcel.js';
import { CopyWatch } from '../../src/postgres/bootstrap/copy/copy-watch.js';
import { openPace } from '../../src/postgres/bootstrap/copy/pace.js';
import { castFailsInSample, swiftJsonb } from '../../src/postgres/bootstrap/copy/swift-jsonb.js';
import { readTables } from '../../src/postgres/catalog.js';
import { isProgress } from '../../src/progress.js';
import { CopyPair } from './copy-pair.js';
import { LinkProxy } from '../support/link-proxy.js';
import { testedVersion } from '../support/tested-version.js';

const MIGRATIONS = [
  {
    changeType: {
      table: 'notes',
      column: 'body',
      newColumn: 'body_json',
      type: 'jsonb',
      up: 'verdigris.try_jsonb(body)',
      down: 'body_json::text',
    },
  },
];
const DDL = `CREATE TABLE notes (id int, body varchar(500));`;
const KEY = `ALTER TABLE notes ADD PRIMARY KEY (id);`;

/** Texts that are JSON, and texts of which the first look says that they are not. */
const CLEAR = [
  ...['{"a": 1}', '[1, "b", null]', '"text"', '0', '-1.5e3', '42', 'true', 'false', 'null', '{}', '[]', '""'],
  ...['  {"a": 1}', '\t\r\n [1]', ' true\n', '\nnull ', '{"ü": "€"}', '"\\u00e9"'],
  ...['', ' ', '\n', 'legacy note', 'note', 'truely', 'nulls', 'false alarm', 'True', 'NULL', '+1', '.5', 'Infinity'],
  ...['NaN', '\u000b{}', '\u00a0{}', '\ufeff{}', "'x'", '/* */ 1', '€'],
];
/** Texts that only look like JSON: a cast fails on each. */
const MISLEADING = ['{', '{"a": }', '[1', '01', '-', '1 2', '"a', '{"a": 1} x', '"\\u0000"', '"\\ud800"', '"\\x"'];

async function withNotes(
  pg: 'pg15' | 'pg18',
  texts: readonly string[],
  work: (pair: CopyPair) => Promise<void>,
  ddl = DDL,
): Promise<void> {
  const pair = await CopyPair.start([pg, 'pg18'], 'copy_swift', ddl, KEY, MIGRATIONS);
  try {
    await insert(pair, [...texts, null]);
    await work(pair);
  } finally {
    await pair.stop();
  }
}

async function insert(pair: CopyPair, texts: readonly (string | null)[]): Promise<void> {
  await pair.blue.query(
    `INSERT INTO notes SELECT coalesce((SELECT max(id) FROM notes), 0) + n, body
       FROM unnest($1::text[]) WITH ORDINALITY AS t(body, n)`,
    [texts],
  );
}

/** Copies everything and compares what came with what the function gives. */
async function copied(pair: CopyPair): Promise<{ rows: number; wrong: number }> {
  const parcels = await pair.planCopy();
  const holder = pair.hold();
  await pair.phase('ready');
  const results = await pair.copyAll(parcels);
  expect(results.map(({ outcome }) => outcome)).toEqual(parcels.map(() => 'copied'));
  await pair.finish();
  holder.stop();
  await holder.ended;
  const { rows } = await pair.green.query<{ rows: number; wrong: number }>(
    `SELECT count(*)::int AS rows,
            count(*) FILTER (WHERE body_json IS DISTINCT FROM verdigris.try_jsonb(body))::int AS wrong FROM notes`,
  );
  return rows[0] ?? { rows: 0, wrong: -1 };
}

async function swiftForm(pair: CopyPair): Promise<string | undefined> {
  const state = await readCopyState(pair.ourGreen, pair.run.runId);
  return state?.computed['public.notes']?.columns.computed[0]?.swift;
}

describe.each([testedVersion('pg15')])('JSON that a copy from %s computes', (pg) => {
  it('is the same by a cast as by the function, for every text that is JSON and every one that clearly is not', async () => {
    await withNotes(pg, CLEAR, async (pair) => {
      expect(await copied(pair)).toEqual({ rows: CLEAR.length + 1, wrong: 0 });
      expect(await swiftForm(pair)).toBeDefined();
    });
  });

  it('is never lost by the first look: what the function accepts, the cast is asked for', async () => {
    await withNotes(pg, [...CLEAR, ...MISLEADING], async (pair) => {
      const [notes] = await readTables(pair.ourBlue, pair.plan.tables);
      const swift = notes === undefined ? undefined : swiftJsonb('verdigris.try_jsonb(body)', notes);
      // Only rows that the function accepts, so that no cast fails.
      const { rows } = await pair.blue.query<{ missed: number; same: number }>(
        `SELECT count(*) FILTER (WHERE swift IS NULL)::int AS missed, count(*) FILTER (WHERE swift = slow)::int AS same
           FROM (SELECT ${swift ?? ''} AS swift, verdigris.try_jsonb(body) AS slow FROM notes
                  WHERE id IN (SELECT id FROM notes WHERE verdigris.try_jsonb(body) IS NOT NULL OFFSET 0)) n`,
      );
      expect(rows[0]?.missed).toBe(0);
      expect(rows[0]?.same).toBeGreaterThan(15);
    });
  });

  it('is computed by the function from the beginning where the sample has a text that only looks like JSON', async () => {
    await withNotes(pg, [...CLEAR, ...MISLEADING], async (pair) => {
      expect(await copied(pair)).toEqual({ rows: CLEAR.length + MISLEADING.length + 1, wrong: 0 });
      expect(await swiftForm(pair)).toBeUndefined();
    });
  });

  it('is computed by the function after a cast has failed on a text that no sample had', async () => {
    await withNotes(pg, CLEAR, async (pair) => {
      await pair.planCopy();
      expect(await swiftForm(pair)).toBeDefined();
      await insert(pair, ['"\\u0000"']);
      expect(await copied(pair)).toEqual({ rows: CLEAR.length + 2, wrong: 0 });
    });
  });

  it('is the same for a column whose collation is nondeterministic', async () => {
    const ddl = `CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
                 CREATE TABLE notes (id int, body text COLLATE loose);`;
    const work = async (pair: CopyPair): Promise<void> => {
      expect(await copied(pair)).toEqual({ rows: CLEAR.length + 1, wrong: 0 });
      expect(await swiftForm(pair)).toBeDefined();
    };
    await withNotes(pg, CLEAR, work, ddl);
  });
});

describe('the sample in which casts are tried', () => {
  it('is a small part of a large table, whether it has ever been analyzed or not, partitioned or not', async () => {
    const ddl = `CREATE TABLE notes (id int, body text) WITH (autovacuum_enabled = false);
                 CREATE TABLE parts (id int, body text) PARTITION BY LIST (id);
                 CREATE TABLE parts_1 PARTITION OF parts DEFAULT WITH (autovacuum_enabled = false);`;
    const work = async (pair: CopyPair): Promise<void> => {
      const fill = `SELECT n, repeat('x', 1500) FROM generate_series(2, 5001) n`;
      await pair.blue.query(`INSERT INTO notes ${fill}; INSERT INTO parts ${fill}`);
      const asked = vi.spyOn(pair.ourBlue, 'query');
      for (const table of await readTables(pair.ourBlue, pair.plan.tables)) {
        expect(table.bytes).toBe(0);
        asked.mockClear();
        expect(await castFailsInSample(pair.ourBlue, 'verdigris.try_jsonb(body)', table)).toBe(false);
        const percent = /SYSTEM \(([\d.]+)\)/.exec(asked.mock.calls.map(([sql]) => String(sql)).join('\n'))?.[1];
        // About 100 of 1,000 blocks.
        expect(Number(percent)).toBeGreaterThan(5);
        expect(Number(percent)).toBeLessThan(20);
      }
    };
    await withNotes('pg15', [], work, ddl);
  });

  it('is asked without parallel workers, in which PostgreSQL before 17 refuses what the function does', async () => {
    const ddl = `CREATE TABLE notes (id int, body text);
                 CREATE TABLE parts (id int, body text) PARTITION BY LIST (id);
                 CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1);
                 CREATE TABLE parts_2 PARTITION OF parts FOR VALUES IN (2);
                 CREATE TABLE parts_3 PARTITION OF parts FOR VALUES IN (3);`;
    const work = async (pair: CopyPair): Promise<void> => {
      await pair.blue.query(
        `INSERT INTO parts SELECT 1 + n % 3, '{"a": 1}' FROM generate_series(1, 20000) n; ANALYZE parts`,
      );
      const parts = (await readTables(pair.ourBlue, pair.plan.tables)).find(({ name }) => name.name === 'parts');
      if (parts === undefined) throw new Error('there is no table parts');
      await pair.ourBlue.query('SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0');
      expect(await castFailsInSample(pair.ourBlue, 'verdigris.try_jsonb(body)', parts)).toBe(false);
    };
    await withNotes('pg15', [], work, ddl);
  });
});

describe('an "up" that is more than the function', () => {
  it('has no other form', async () => {
    await withNotes('pg15', [], async (pair) => {
      const [notes] = await readTables(pair.ourBlue, pair.plan.tables);
      const calls = ['body || body', 'id', 'none'].map((argument) => `verdigris.try_jsonb(${argument})`);
      for (const up of [...calls, 'try_jsonb(body)', 'verdigris.try_jsonb(body) || body::jsonb']) {
        expect(notes === undefined ? '' : swiftJsonb(up, notes), up).toBeUndefined();
      }
    });
  });
});

/** Takes two seconds for 20,000 rows. */
const SLOW_ROWS = `
  CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END';
  CREATE TRIGGER slow BEFORE INSERT ON public.notes FOR EACH ROW WHEN (NEW.id % 200 = 0) EXECUTE FUNCTION public.slow();
  ALTER TABLE public.notes ENABLE ALWAYS TRIGGER slow`;

describe('a copy beside others', () => {
  it('is made of many small statements, and brings the same rows', async () => {
    const pair = await CopyPair.start(['pg15', 'pg18'], 'copy_small', DDL, KEY, [], {
      bootstrap: { method: 'copy', maxRate: '20MB' },
    });
    try {
      await pair.blue.query(`INSERT INTO notes SELECT n, repeat('x', 400) FROM generate_series(1, 20000) n`);
      const parcels = await pair.planCopy();
      const holder = pair.hold();
      await pair.phase('ready');
      const began = performance.now();
      for (const { id } of parcels) await copyParcel(pair.context(), id);
      const seconds = (performance.now() - began) / 1_000;
      await pair.finish();
      holder.stop();
      await holder.ended;
      expect(await pair.differences()).toEqual([]);
      // 8 MB at 20 MB/s.
      expect(seconds).toBeGreaterThan(0.3);
    } finally {
      await pair.stop();
    }
  });

  it.each([
    ['in one statement', {}],
    ['in many small statements', { maxRate: '3MB', parallel: 1 }],
  ])('tells of each table how far it is, %s: rows, bytes, rates and the time that is left', async (_, slowed) => {
    const pair = await CopyPair.start(['pg15', 'pg18'], 'copy_told', DDL, KEY, [], {
      bootstrap: { method: 'copy', pace: 'full', ...slowed },
    });
    try {
      await pair.blue.query(
        `INSERT INTO notes SELECT n, repeat('x', 400) FROM generate_series(1, 20000) n; ANALYZE notes`,
      );
      await pair.green.query(SLOW_ROWS);
      const parcels = await pair.planCopy();
      const told: object[] = [];
      const holder = pair.hold(told);
      await pair.phase('ready');
      await pair.copyAll(parcels);
      await expect.poll(() => told.filter(isProgress).at(-1)?.done, { timeout: 5_000 }).toBe(20_000);
      holder.stop();
      const notes = told.filter(isProgress).filter(({ object }) => object === 'public.notes');
      const early = notes.find(({ etaSeconds, total, done }) => etaSeconds !== null && done > 1_000 && done < total);
      expect(early?.step).toBe('copy');
      // 20,000 rows, of 9 MB, in some two seconds; of a copy that the machine let stand still for ten, less is right.
      expect(early?.rowsPerSecond).toBeGreaterThan(100);
      expect(early?.rowsPerSecond).toBeLessThan(40_000);
      expect(early?.bytesPerSecond).toBeGreaterThan(50_000);
      expect(early?.bytes).toBeGreaterThan(0);
      expect(early?.bytes).toBeLessThan(notes.at(-1)?.bytes ?? 0);
      expect(early?.etaSeconds).toBeLessThan(300);
    } finally {
      await pair.stop();
    }
  });

  it('tells no more of the part of a piece that has been rolled back', async () => {
    const pair = await CopyPair.start(['pg15', 'pg18'], 'copy_undone', DDL, KEY, [], {
      bootstrap: { method: 'copy', pace: 'full', parallel: 1, maxRate: '3MB' },
    });
    try {
      await pair.blue.query(`INSERT INTO notes SELECT n, repeat('x', 400) FROM generate_series(1, 20000) n`);
      const [parcel] = await pair.planCopy();
      const holder = pair.hold();
      await pair.phase('ready');
      const worker = new AbortController();
      const copying = pair.copyParcel(parcel?.id ?? 0, worker.signal);
      const cut = expect(copying).rejects.toThrow();
      const told = async (): Promise<number[]> =>
        (await new CopyWatch(pair.run.runId).look(pair.ourGreen)).tables.map(({ done }) => done);
      await expect.poll(async () => (await readParts(pair.ourGreen, pair.run.runId)).size, { timeout: 5_000 }).toBe(1);
      expect(await told()).toEqual([expect.any(Number)]);
      worker.abort();
      await cut;
      expect(await told()).toEqual([]);
      holder.stop();
    } finally {
      await pair.stop();
    }
  });

  it('asks for more at a time while it is slow where green is some ms away: each statement waits for it twice', async () => {
    const { port, password } = inject('pg18');
    const link = await LinkProxy.start(port);
    const asked = vi.spyOn(pg.Client.prototype, 'query');
    const servers = ['pg15', { port: link.port, password }] as const;
    const pair = await CopyPair.start(servers, 'copy_far', DDL, KEY, [], {
      bootstrap: { method: 'copy', pace: 'full', parallel: 1, maxRate: '8MB' },
    });
    try {
      await pair.blue.query(
        `INSERT INTO notes SELECT n, repeat('x', 400) FROM generate_series(1, 6000) n; ANALYZE notes`,
      );
      const parcels = await pair.planCopy();
      const holder = pair.hold();
      await pair.phase('ready');
      link.delay(5);
      await pair.copyAll(parcels);
      link.delay(0);
      holder.stop();
      // 2.6 MB: some 80 of 32 KiB, and 20 of 128.
      expect(asked.mock.calls.flat().filter((statement) => statement instanceof CopyOut).length).toBeLessThan(40);
    } finally {
      asked.mockRestore();
      await pair.stop();
      await link.close();
    }
  });

  it('asks for little at a time while it is slow, and for much while nothing slows it down', () => {
    const database = { side: 'blue' } as never;
    const slow = openPace('slow', database, { method: 'copy', parallel: 1, pace: 'full', maxRate: '8MB' }, {});
    const free = openPace('free', database, { method: 'copy', parallel: 1, pace: 'full' }, {});
    expect(slow.bytesAtATime()).toBeLessThanOrEqual(256 * 2 ** 10);
    expect(free.bytesAtATime()).toBeGreaterThanOrEqual(16 * 2 ** 20);
    slow.close();
    free.close();
  });
});
