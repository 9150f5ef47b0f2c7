import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startPostgres, type EmbeddedPostgres } from '../../src/embedded/postgres-server.js';
import { backfillTables } from '../../src/postgres/migrate/backfill.js';
import { expandTable } from '../../src/postgres/migrate/expand-table.js';
import type { TableWork } from '../../src/postgres/migrate/plan-work.js';
import type { Progress, StepContext } from '../../src/postgres/migrate/step-context.js';
import { closeSession, openSession, type Database, type Session } from '../../src/postgres/session.js';
import { installState } from '../../src/postgres/state.js';
import { NO_LAG, workOf } from '../postgres/replicated-pair.js';

/*
 * On a server of its own: one test kills it, and what others do there is seen by the backfill.
 */

const ROWS = 60_000;
const NAMES = ['busy', 'crash'];

let server: EmbeddedPostgres;
let database: Database;
let watcher: pg.Client;
let works: ReadonlyMap<string, TableWork>;

beforeAll(async () => {
  server = await startPostgres({ version: 18, name: 'backfill-beside' });
  database = {
    side: 'green',
    connection: 'test',
    config: { connectionString: server.uri() },
    peerConninfo: '',
  };
  watcher = await watch();
  for (const name of NAMES) {
    await watcher.query(`CREATE TABLE ${name} (id bigint PRIMARY KEY, body text, pad text)`);
    await watcher.query(
      `INSERT INTO ${name} SELECT n, 'body ' || n, repeat('x', 120) FROM generate_series(1, ${ROWS}) n`,
    );
  }
  const ours = await openSession(database, { purpose: 'test' });
  await installState(ours, 'green');
  const { tables } = await workOf(
    NAMES.map((table) => ({ addColumn: { table, column: 'upper', type: 'text', up: 'upper(body)' } })),
  );
  for (const table of tables) await expandTable(contextOf(ours), table);
  works = new Map(tables.map((table) => [table.table.name, table]));
  await closeSession(ours);
});
afterAll(async () => {
  await watcher.end().catch(() => undefined);
  await server.stop();
});

/** Named like ours, so that it does not count as somebody who is at work. */
async function watch(): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: server.uri(), application_name: 'verdigris test' });
  client.on('error', () => undefined);
  await client.connect();
  return client;
}

function contextOf(session: Session, seen: Progress[] = []): StepContext {
  return {
    runId: 'beside',
    session,
    connect: (purpose) => openSession(database, { purpose }),
    signal: new AbortController().signal,
    onProgress: (progress) => seen.push(progress),
  };
}

function work(name: string): TableWork[] {
  return [works.get(name)].filter((found) => found !== undefined);
}

/** Backfills with two lanes, and gives up the session that it has for it. */
async function backfill(name: string, seen: Progress[] = []): Promise<{ rows: number; written: number } | undefined> {
  const session = await openSession(database, { purpose: 'test' });
  try {
    const [result] = await backfillTables(contextOf(session, seen), work(name), { ...NO_LAG, parallel: 2 });
    return result;
  } finally {
    await closeSession(session);
  }
}

describe('a backfill beside others', () => {
  it('works with one lane and in short batches as long as a session of the application is at work', async () => {
    const application = new pg.Client({ connectionString: server.uri(), application_name: 'shop' });
    await application.connect();
    let over = false;
    const busy = (async (): Promise<void> => {
      while (!over) await application.query('SELECT pg_sleep(0.05)');
    })();
    const batches: number[] = [];
    const watching = (async (): Promise<void> => {
      while (!over) {
        const { rows } = await watcher.query<{ n: number }>(
          `SELECT count(*)::int AS n FROM pg_stat_activity
            WHERE application_name = 'verdigris backfill' AND state = 'active' AND query LIKE '%verdigris_written%'`,
        );
        batches.push(rows[0]?.n ?? 0);
        await sleep(1);
      }
    })();
    const seen: Progress[] = [];
    const result = await backfill('busy', seen).finally(() => {
      over = true;
    });
    await Promise.all([busy, watching]);
    await application.end();
    expect(result).toMatchObject({ rows: ROWS, written: ROWS });
    expect(Math.max(...batches)).toBe(1);
    // 10 ms a batch: at most a few thousand rows, on whatever machine. At 250 ms they would be all of a range.
    const sizes = seen.map(({ done }, i) => done - (seen[i - 1]?.done ?? 0));
    expect(sizes.length).toBeGreaterThan(20);
    expect(Math.max(...sizes)).toBeLessThan(ROWS / 5);
  });

  it('has no row before its cursor empty, and none behind it filled, when the server crashes in between', async () => {
    let result;
    let crashes = 0;
    while (result === undefined) {
      const seen: Progress[] = [];
      let isOver = false;
      const running = backfill('crash', seen)
        .catch(() => undefined)
        .finally(() => (isOver = true));
      if (crashes < 3) {
        while (seen.length < 6 && !isOver) await sleep(1);
        server.kill('SIGKILL', 'all');
        crashes += 1;
      }
      result = await running;
      if (result !== undefined) break;
      await server.restart();
      watcher = await watch();
      const { rows } = await watcher.query(
        `SELECT range.object, id, upper FROM crash
           JOIN (SELECT object, (state -> 'after' ->> 0)::bigint AS after, (state -> 'cursor' ->> 0)::bigint AS cursor,
                        (state -> 'upTo' ->> 0)::bigint AS up_to
                   FROM verdigris.progress WHERE step = 'backfill range' AND state ->> 'table' = 'public.crash') range
             ON id > coalesce(after, 0) AND id <= up_to
          WHERE (id <= coalesce(cursor, 0)) <> (upper IS NOT NULL)`,
      );
      expect(rows).toEqual([]);
    }
    expect(crashes).toBe(3);
    expect(result).toMatchObject({ rows: ROWS, written: ROWS });
    const { rows } = await watcher.query('SELECT FROM crash WHERE upper IS DISTINCT FROM upper(body)');
    expect(rows).toHaveLength(0);
  });
});
