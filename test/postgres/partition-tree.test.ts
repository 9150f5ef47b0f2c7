import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { leavesOf, readTables } from '../../src/postgres/catalog.js';
import { ALL_TABLES } from '../../src/postgres/catalog-pattern.js';
import { findTable, WITH_PARTITIONS } from '../../src/postgres/migrate/changed-table.js';
import { partitionTree } from '../../src/postgres/partition-tree.js';
import { refusedTruncates } from '../../src/postgres/refused-truncates.js';
import { closeSession, openSession, type Session } from '../../src/postgres/session.js';
import { readGreenPosition } from '../../src/postgres/standby-loss.js';
import { asDatabase, testDatabase, type TestDatabase } from '../support/postgres.js';
import { CopyPair } from './copy-pair.js';

const PARTITIONED = `
  CREATE TABLE event (id int, at date) PARTITION BY RANGE (at);
  CREATE TABLE event_1 PARTITION OF event FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
  CREATE TABLE event_2 PARTITION OF event FOR VALUES FROM ('2026-02-01') TO ('2026-03-01') PARTITION BY LIST (id);
  CREATE TABLE event_2_a PARTITION OF event_2 FOR VALUES IN (1) PARTITION BY HASH (id);
  CREATE TABLE event_2_a_0 PARTITION OF event_2_a FOR VALUES WITH (MODULUS 2, REMAINDER 0);
  CREATE UNLOGGED TABLE event_2_b PARTITION OF event_2 FOR VALUES IN (2);
  CREATE TABLE event_gone PARTITION OF event FOR VALUES FROM ('2026-03-01') TO ('2026-04-01') PARTITION BY LIST (id);
  CREATE TABLE event_gone_a PARTITION OF event_gone FOR VALUES IN (1);`;

const FIXTURE = `${PARTITIONED}
  CREATE SCHEMA verdigris;
  CREATE TABLE hollow (id int) PARTITION BY LIST (id);
  CREATE TABLE plain (id int PRIMARY KEY);
  CREATE TABLE parent (id int);
  CREATE TABLE child (t text) INHERITS (parent);
  CREATE TABLE grandchild () INHERITS (child);
  CREATE FOREIGN DATA WRAPPER elsewhere;
  CREATE SERVER elsewhere FOREIGN DATA WRAPPER elsewhere;
  CREATE FOREIGN TABLE event_far PARTITION OF event FOR VALUES FROM ('2027-01-01') TO ('2027-02-01') SERVER elsewhere;
  CREATE PUBLICATION feed FOR TABLE plain, parent;
  CREATE PUBLICATION feed_2 FOR TABLE event_1, event_2_a WITH (publish_via_partition_root = true);
  INSERT INTO event_1 SELECT 1, '2026-01-05' FROM generate_series(1, 100);
  ANALYZE event_1;`;

describe.each(['pg15', 'pg18'] as const)('the tables of a partitioned one on %s', (server) => {
  let db: TestDatabase;
  let session: Session;
  let app: pg.Client;

  beforeAll(async () => {
    db = await testDatabase(server, 'partition_tree');
    app = new pg.Client(db.config);
    await app.connect();
    await app.query(FIXTURE);
    session = await openSession(asDatabase(db, 'blue'), { purpose: 'test', lockTimeoutMs: 500 });
    await detachHalfway();
  });
  afterAll(async () => {
    await closeSession(session);
    await app.end();
    await db.drop();
  });

  /** DETACH CONCURRENTLY waits for whoever reads the table in its middle, and leaves a partition that is one no more. */
  async function detachHalfway(): Promise<void> {
    const other = new pg.Client(db.config);
    await other.connect();
    await app.query('BEGIN; LOCK TABLE ONLY event IN ACCESS SHARE MODE');
    await other.query(`SET statement_timeout = '300ms'`);
    const detached = other.query('ALTER TABLE event DETACH PARTITION event_gone CONCURRENTLY');
    await expect(detached).rejects.toMatchObject({ code: '57014' });
    await app.query('COMMIT');
    await other.end();
  }

  it('are those of pg_partition_tree(); without one that is being detached, and with nothing that inherits', async () => {
    const answers = async (tree: string): Promise<unknown[]> => {
      const { rows } = await session.query<object>(
        `SELECT c.relname AS of, tree.relid::regclass::text AS name, tree.isleaf, tree.level,
                CASE WHEN tree.level > 0 THEN tree.parentrelid::regclass::text END AS parent
           FROM pg_class c CROSS JOIN LATERAL ${tree} tree
          WHERE c.relnamespace = 'public'::regnamespace AND (c.relkind = 'p' OR c.relispartition) AND c.relkind IN ('r', 'p', 'f')
          ORDER BY 1, 4, 2`,
      );
      return rows;
    };
    const found = await answers(partitionTree('c.oid'));
    expect(found).toEqual(await answers('pg_partition_tree(c.oid)'));
    const below = (name: string): unknown[] =>
      (found as { of: string; name: string }[]).filter(({ of }) => of === name).map((row) => row.name);
    expect(below('event')).toEqual(
      ['event', 'event_1', 'event_2', 'event_far', 'event_2_a', 'event_2_b', 'event_2_a_0'].map((t) => `public.${t}`),
    );
    expect(below('event_gone')).toEqual(['public.event_gone', 'public.event_gone_a']);
    const alone = await session.query<{ relid: number }>(
      `SELECT tree.* FROM unnest('{public.plain,public.parent,public.child,public.hollow}'::regclass[]) t (oid)
         CROSS JOIN LATERAL ${partitionTree('t.oid')} tree`,
    );
    expect(alone.rows).toMatchObject([
      { parentrelid: null, isleaf: true, level: 0 },
      { isleaf: true },
      { isleaf: true },
      { isleaf: false },
    ]);
    expect((await session.query(`SELECT FROM ${partitionTree('NULL::oid')} tree`)).rowCount).toBe(0);
  });

  it('have the rows and bytes of a partitioned table, and of one that inherits only its own', async () => {
    const tables = new Map((await readTables(session, ALL_TABLES)).map((one) => [one.name.name, one]));
    expect(tables.get('event')).toMatchObject({ estimatedRows: 100, bytes: 8192 });
    expect(tables.get('event_1')).toMatchObject({ estimatedRows: 100, bytes: 8192 });
    expect(tables.get('event_2')).toMatchObject({ estimatedRows: 0 });
    expect(tables.get('event_gone_a')?.root.name).toBe('event_gone');
    expect(tables.get('grandchild')).toMatchObject({ kind: 'table', root: { name: 'grandchild' } });
  });

  it('are read while somebody has one to himself, and none is locked in a transaction that stays open', async () => {
    await app.query('BEGIN; LOCK TABLE event_1, event_2_a_0 IN ACCESS EXCLUSIVE MODE');
    try {
      await session.query('BEGIN');
      const event = { schema: 'public', name: 'event' };
      expect((await readTables(session, ALL_TABLES)).length).toBeGreaterThan(10);
      expect((await findTable(session, event))?.leaves.map(({ name }) => name.name)).toEqual([
        'event_1',
        'event_2_a_0',
      ]);
      expect(await leavesOf(session, event)).toHaveLength(2);
      expect((await session.query(WITH_PARTITIONS, ['public.event'])).rowCount).toBe(7);
      expect(await readGreenPosition(session, 'feed')).toMatchObject({ writes: expect.any(Number) as number });
      expect(await refusedTruncates(session, session, undefined)).toEqual([]);
      const { rows } = await session.query<{ name: string }>(
        `SELECT relation::regclass::text AS name FROM pg_locks
          WHERE pid = pg_backend_pid() AND relation >= 16384 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`,
      );
      expect(rows).toEqual([]);
    } finally {
      await session.query('ROLLBACK');
      await app.query('ROLLBACK');
    }
  });
});

it('a copy takes no lock on tables that are not copied: whoever has a partition of one to himself keeps no row waiting', async () => {
  const ddl = `${PARTITIONED} CREATE TABLE orders (id int);`;
  const rows = `INSERT INTO orders SELECT generate_series(1, 1000)`;
  const tables = { include: ['public.orders'], exclude: [] };
  const pair = await CopyPair.start(['pg15', 'pg18'], 'copy_locks', ddl, rows, [], { tables });
  try {
    const parcels = await pair.planCopy();
    pair.hold();
    await pair.phase('ready');
    for (const side of [pair.blue, pair.green]) await side.query('BEGIN; LOCK TABLE event_1 IN ACCESS EXCLUSIVE MODE');
    expect(await pair.copyAll(parcels)).toMatchObject([{ outcome: 'copied', rows: 1000 }]);
    for (const side of [pair.blue, pair.green]) await side.query('ROLLBACK');
  } finally {
    await pair.stop();
  }
});
