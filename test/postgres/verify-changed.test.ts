import type pg from 'pg';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseTableName } from '../../src/plan/table-name.js';
import { expandTable } from '../../src/postgres/migrate/expand-table.js';
import type { Work } from '../../src/postgres/migrate/plan-work.js';
import type { Progress } from '../../src/postgres/migrate/step-context.js';
import { compareChanged } from '../../src/postgres/verify/compare-changed.js';
import { SideSessions } from '../../src/postgres/verify/side-sessions.js';
import { readTablePairs } from '../../src/postgres/verify/table-pairs.js';
import type { Verification } from '../../src/postgres/verify/verify-tables.js';
import { ReplicatedPair, workOf, type Comparison } from './replicated-pair.js';

const ROWS = 6_000;
const TABLES = ['tx', 'named', 'part'];
const SMALL = 40;

const DDL = `
  CREATE TABLE tx (id bigint PRIMARY KEY, amount numeric(12, 2), note text);
  CREATE TABLE named (name text COLLATE "en-x-icu" PRIMARY KEY, body text);
  CREATE TABLE part (id int, region text, body text, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
  CREATE TABLE part_eu PARTITION OF part FOR VALUES IN ('eu');
  CREATE TABLE part_us PARTITION OF part FOR VALUES IN ('us');
  ${Array.from({ length: SMALL }, (_, i) => `CREATE TABLE small_${i} (id int PRIMARY KEY, body text);`).join('\n')}`;

const FILL = `
  INSERT INTO tx SELECT n, n / 7.0, 'n' || n FROM generate_series(1, ${ROWS}) n;
  INSERT INTO named SELECT 'n' || n, 'b' FROM generate_series(1, ${ROWS}) n;
  INSERT INTO part SELECT n, CASE n % 2 WHEN 0 THEN 'eu' ELSE 'us' END, 'b' FROM generate_series(1, ${ROWS}) n;
  ${Array.from({ length: SMALL }, (_, i) => `INSERT INTO small_${i} VALUES (${i}, 'b');`).join('\n')}`;

describe('verification of what has changed, 15 to 18', () => {
  let pair: ReplicatedPair;
  let work: Work;
  let passes = 0;

  beforeAll(async () => {
    pair = await ReplicatedPair.start('pg15', 'changed', DDL, FILL);
    await pair.blue.query('ANALYZE');
    work = await workOf([{ addColumn: { table: 'tx', column: 'shout', type: 'text', up: 'upper(note)' } }]);
    for (const table of work.tables) await expandTable(pair.context(), table);
    await pair.green.query('UPDATE tx SET shout = upper(note)');
  });
  afterAll(() => pair.stop());

  function verify(options: Partial<Comparison> = {}, tables: readonly string[] = TABLES): Promise<Verification> {
    const partSize = { rows: 500, bytes: 64 * 1024 };
    return pair.verify({ pass: `pass ${++passes}`, tables, work, partSize, ...options });
  }

  async function onGreen(sql: string): Promise<void> {
    await pair.green.query(`BEGIN; SET LOCAL session_replication_role = replica; ${sql}; COMMIT`);
  }

  async function onBlueOnly(sql: string): Promise<void> {
    await pair.blue.query(`BEGIN; SET LOCAL session_replication_role = replica; ${sql}; COMMIT`);
  }

  const found = (result: Verification): string[] =>
    result.differing.map(({ table, key, kind }) => `${table} ${key} ${kind}`).sort();

  it('is one of all rows where no earlier pass is known, also after one that has found something', async () => {
    expect(await verify({ scope: 'changed' })).toMatchObject({ scope: 'all', differingRows: 0 });
    expect(await verify({ scope: 'changed' })).toMatchObject({ scope: 'changed', rowsVerified: 3 * ROWS });
    await onGreen(`UPDATE tx SET amount = 0 WHERE id = 1`);
    expect(await verify()).toMatchObject({ scope: 'all', differingRows: 1 });
    await onGreen(`UPDATE tx SET amount = round(1 / 7.0, 2) WHERE id = 1`);
    expect(await verify({ scope: 'changed' })).toMatchObject({ scope: 'all', differingRows: 0 });
  });

  it('is one of all rows where blue does not know the last pass: it was put back to before it', async () => {
    expect((await verify({ scope: 'changed' })).differingRows).toBe(0);
    expect(await verify({ scope: 'changed' })).toMatchObject({ scope: 'changed', differingRows: 0 });
    await pair.blue.query(
      `UPDATE verdigris.progress SET state = '{"ids": ["an earlier one"]}' WHERE step = 'verified' AND object = 'pass ended'`,
    );
    expect(await verify({ scope: 'changed' })).toMatchObject({ scope: 'all', differingRows: 0 });
    // One that was stopped before green had noted it changes nothing.
    await pair.blue.query(
      `UPDATE verdigris.progress SET state = jsonb_set(state, '{ids}', '["one more"]' || (state -> 'ids'))
        WHERE step = 'verified' AND object = 'pass ended'`,
    );
    expect(await verify({ scope: 'changed' })).toMatchObject({ scope: 'changed', differingRows: 0 });
  });

  it('reads unchanged rows by their keys only', async () => {
    // A difference with an old xmin can't come about: the transactions that wrote it would have been seen.
    const { rows } = await pair.green.query<{ before: string }>('SELECT pg_current_xact_id()::text AS before');
    expect(BigInt(rows[0]?.before ?? '0')).toBeGreaterThan(0n);
    // Another test's transaction that has been open since before the last pass would make the next one look at more.
    for (const side of [pair.blue, pair.green]) await olderTransactionsEnded(side);
    expect(await verify({ scope: 'changed' })).toMatchObject({ scope: 'changed', differingRows: 0 });
    await pair.blue.query(`UPDATE tx SET note = 'again' WHERE id % 100 = 0; DELETE FROM part WHERE id % 500 = 0`);
    await pair.caughtUp();
    const found = await verify({ scope: 'changed' });
    expect(found.differingRows).toBe(0);
    // Whoever else had a transaction open when the last pass began makes it look at a few rows more, never at fewer.
    expect(found.derivedChecked).toBeGreaterThanOrEqual(ROWS / 100);
    expect(found.derivedChecked).toBeLessThan(ROWS / 10);
  });

  it('counts the changed rows before it fetches their keys', async () => {
    const sides = { source: pair.blueDatabase, target: pair.greenDatabase, direction: 'to_green' as const };
    const sessions = await SideSessions.open({ ...sides, signal: new AbortController().signal });
    try {
      const [sized] = await readTablePairs(sessions, [parseTableName('tx')], work);
      let largest = 0;
      for (const session of [sessions.source, sessions.target]) {
        const query = session.query.bind(session) as (...args: unknown[]) => Promise<pg.QueryResult>;
        const measured = async (...args: unknown[]): Promise<pg.QueryResult> => {
          const result = await query(...args);
          largest = Math.max(largest, JSON.stringify(result.rows).length);
          return result;
        };
        Object.assign(session, { query: measured });
      }
      const moment = { xid: '3', timeline: '' };
      const rows = { where: 'true', values: [], read: 'all' } as const;
      if (sized === undefined) throw new Error('no such table');
      expect(await compareChanged(sessions, sized.pair, rows, { blue: moment, green: moment })).toBe('too many');
      expect(largest).toBeLessThan(1_000);
    } finally {
      await sessions.close();
    }
  });

  it('finds a row changed, deleted or added on green only, and an update, an insert and a delete that never arrived', async () => {
    await onGreen(`UPDATE tx SET amount = amount + 0.01 WHERE id = 11; UPDATE tx SET shout = 'x' WHERE id = 12;
                   DELETE FROM tx WHERE id = 13; INSERT INTO tx VALUES (-7, 1, 'x', 'X');
                   DELETE FROM named WHERE name = 'n99'; INSERT INTO named VALUES ('n99x', 'b');
                   UPDATE part SET body = NULL WHERE region = 'us' AND id = 77`);
    // Taken out of the publication for a moment: what blue writes then never arrives.
    await pair.withoutPublishing('named', () =>
      onBlueOnly(`UPDATE named SET body = 'lost' WHERE name = 'n5'; INSERT INTO named VALUES ('lost', 'b');
                  DELETE FROM named WHERE name = 'n6'`),
    );
    const expected = [
      'public.named "name" = lost missing',
      'public.named "name" = n5 different',
      'public.named "name" = n6 extra',
      'public.named "name" = n99 missing',
      'public.named "name" = n99x extra',
      'public.part "region" = us, "id" = 77 different',
      'public.tx "id" = -7 extra',
      'public.tx "id" = 11 different',
      'public.tx "id" = 12 derived',
      'public.tx "id" = 13 missing',
    ];
    const changed = await verify({ scope: 'changed' });
    expect(changed.scope).toBe('changed');
    expect(found(changed)).toEqual(expected);
    // The last pass has found something, so the next one looks at everything, and finds the same.
    expect(found(await verify({ scope: 'changed' }))).toEqual(expected);
  });

  it('many small tables need few connections and little time, and a wait is said', async () => {
    const tables = Array.from({ length: SMALL }, (_, i) => `small_${i}`);
    const { rows: before } = await pair.green.query<{ n: string }>(SESSIONS);
    const seen: Progress[] = [];
    const asked: (string | undefined)[] = ['green is behind'];
    const started = performance.now();
    const result = await verify(
      { mayWork: () => Promise.resolve(asked.pop()), onProgress: (progress) => seen.push(progress), parallel: 3 },
      tables,
    );
    expect(result).toMatchObject({ tables: SMALL, rowsVerified: SMALL, differingRows: 0 });
    expect(performance.now() - started).toBeLessThan(30_000);
    expect(seen.some(({ note }) => note === 'waits: green is behind')).toBe(true);
    // Statistics of sessions are written when they end.
    await sleep(100);
    const { rows: after } = await pair.green.query<{ n: string }>(SESSIONS);
    expect(Number(after[0]?.n) - Number(before[0]?.n)).toBeLessThan(15);
  });

  const SESSIONS = 'SELECT sessions::text AS n FROM pg_stat_database WHERE datname = current_database()';

  it('goes on behind the finished ranges when its sessions are killed, for text keys and buckets, too', async () => {
    await onGreen(`TRUNCATE named; TRUNCATE part`);
    for (const table of ['named', 'part']) await pair.copyToGreen(table);
    for (const [kill, table] of [
      [2, 'named'],
      [9, 'named'],
      [5, 'part'],
    ] as const) {
      const pass = `killed ${kill} ${table}`;
      let parts = 0;
      const running = verify(
        {
          pass,
          parallel: 1,
          // So that it is not over before its sessions have ended.
          rest: 0.95,
          onProgress: () => {
            if (++parts === kill) {
              void pair.blue.query(
                `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'verdigris verify' AND datname = current_database()`,
              );
            }
          },
        },
        [table],
      );
      await expect(running).rejects.toThrow();
      const { rows } = await pair.green.query<{ rows: string }>(
        `SELECT sum((state->>'rows')::int)::text AS rows FROM verdigris.progress
          WHERE step = $1 AND object LIKE '%#%'`,
        [`verify ${pass}`],
      );
      const done = Number(rows[0]?.rows);
      expect(done).toBeGreaterThan(0);
      const seen: Progress[] = [];
      const resumed = await verify({ pass, parallel: 1, onProgress: (progress) => seen.push(progress) }, [table]);
      const { rows: count } = await pair.blue.query<{ n: string }>(`SELECT count(*)::text AS n FROM ${table}`);
      expect(resumed).toMatchObject({ rowsVerified: Number(count[0]?.n), differingRows: 0 });
      // Each part is told once: the parts before the kill are not among those after it.
      expect(seen[0]?.done).toBeGreaterThan(done);
    }
  });

  it('goes the other way round after the promotion, from where the way there has left off', async () => {
    await onGreen(`TRUNCATE tx`);
    await pair.copyToGreen('tx');
    await onGreen(`UPDATE tx SET shout = upper(note)`);
    expect(await verify()).toMatchObject({ differingRows: 0 });
    await pair.promoteGreen();
    await pair.green.query(
      `UPDATE tx SET note = 'promoted' WHERE id = 20; INSERT INTO tx (id, note) VALUES (-20, 'x')`,
    );
    const back = {
      source: pair.greenDatabase,
      target: pair.blueDatabase,
      direction: 'to_blue',
      scope: 'changed',
    } as const;
    expect(await verify(back)).toMatchObject({ scope: 'changed', differingRows: 0, derivedChecked: 0 });
    await onBlueOnly(`UPDATE tx SET note = 'behind its back' WHERE id = 21; DELETE FROM tx WHERE id = 22`);
    expect(found(await verify(back))).toEqual(['public.tx "id" = 21 different', 'public.tx "id" = 22 missing']);
  });
});

/** Waits until every transaction that is open on the server now, in whatever database, has ended. */
async function olderTransactionsEnded(client: pg.Client): Promise<void> {
  const { rows } = await client.query<{ now: string }>('SELECT pg_snapshot_xmax(pg_current_snapshot())::text AS now');
  await expect
    .poll(
      async () => {
        const { rows: ended } = await client.query<{ over: boolean }>(
          'SELECT pg_snapshot_xmin(pg_current_snapshot()) >= $1::xid8 AS over',
          [rows[0]?.now],
        );
        return ended[0]?.over;
      },
      { timeout: 30_000 },
    )
    .toBe(true);
}
