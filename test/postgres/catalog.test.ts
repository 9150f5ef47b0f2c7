import type pg from 'pg';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { parseTablePattern, schemaFilter, tableFilter } from '../../src/postgres/catalog-pattern.js';
import { readSequences } from '../../src/postgres/catalog-sequences.js';
import { toCatalogSummary } from '../../src/postgres/catalog-summary.js';
import { readUnmovedTables } from '../../src/postgres/catalog-unmoved.js';
import { readFencedTables } from '../../src/postgres/fenced-tables.js';
import { leavesOf, readTables, replicatedRoots, sameTable, type TableInfo } from '../../src/postgres/catalog.js';
import { findTable, readChangedTables } from '../../src/postgres/migrate/changed-table.js';
import { closeSession, openSession, type Session } from '../../src/postgres/session.js';
import { readUniqueIndexes } from '../../src/postgres/unique-indexes.js';
import { readPartitionKeys } from '../../src/postgres/partition-keys.js';
import { formatTableName } from '../../src/plan/table-name.js';
import { asDatabase, testDatabase, withClient, type TestDatabase } from '../support/postgres.js';

const ALL = { include: ['*.*'], exclude: [] };
const LONG = 'x'.repeat(63);

const FIXTURE = `
  CREATE SCHEMA shop;
  CREATE SCHEMA verdigris;
  CREATE TABLE verdigris.owner (id int PRIMARY KEY);
  CREATE EXTENSION citext;
  CREATE TYPE shop.status AS ENUM ('new', 'old');
  CREATE TABLE public.orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, total numeric(10,2) NOT NULL DEFAULT 0,
    doubled numeric GENERATED ALWAYS AS (total * 2) STORED, state shop.status[], note text COLLATE "C");
  ALTER TABLE public.orders ADD COLUMN gone int;
  ALTER TABLE public.orders DROP COLUMN gone;
  CREATE TABLE shop."Order Items" ("select" int, "Pos" int, PRIMARY KEY ("Pos", "select"));
  CREATE TABLE shop."${LONG}" (id serial PRIMARY KEY);
  CREATE TABLE shop.by_index (a int NOT NULL, b text NOT NULL);
  CREATE UNIQUE INDEX by_index_b ON shop.by_index (b) INCLUDE (a);
  ALTER TABLE shop.by_index REPLICA IDENTITY USING INDEX by_index_b;
  CREATE TABLE shop.keyless (a int);
  CREATE TABLE shop.deferred (a int PRIMARY KEY DEFERRABLE);
  CREATE TABLE shop.event (id bigint, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
  CREATE TABLE shop.event_2026 PARTITION OF shop.event FOR VALUES FROM ('2026-01-01') TO ('2027-01-01') PARTITION BY LIST (id);
  CREATE TABLE shop.event_2026_a PARTITION OF shop.event_2026 FOR VALUES IN (1, 2);
  CREATE UNLOGGED TABLE shop.cache (id int PRIMARY KEY);
  CREATE UNLOGGED TABLE shop.event_2026_b PARTITION OF shop.event_2026 FOR VALUES IN (3);
  CREATE TEMPORARY TABLE passing (id int);
  CREATE MATERIALIZED VIEW shop.summary AS SELECT count(*) FROM public.orders;
  CREATE SEQUENCE shop.alone INCREMENT -2 MINVALUE -100 MAXVALUE -1 CYCLE;
  SELECT setval('shop.alone', -7, false);
  INSERT INTO shop."${LONG}" DEFAULT VALUES;
  INSERT INTO public.orders (total) SELECT 1 FROM generate_series(1, 500);
  ANALYZE public.orders;`;

describe('patterns', () => {
  const matches = (pattern: string, schema: string, name: string): boolean =>
    parseTablePattern(pattern).matches({ schema, name });

  it('a star stands for any characters, outside quotes only', () => {
    expect(matches('*.*', 'shop', 'Order Items')).toBe(true);
    expect(matches('shop.order_*', 'shop', 'order_2026')).toBe(true);
    expect(matches('shop.order_*', 'shop', 'orders')).toBe(false);
    expect(matches('shop."a*"', 'shop', 'a*')).toBe(true);
    expect(matches('shop."a*"', 'shop', 'ab')).toBe(false);
  });

  it('names are exact: nothing is folded and no character is special', () => {
    expect(matches('shop.Orders', 'shop', 'orders')).toBe(false);
    expect(matches('shop.a.b'.replace('a.b', '"a.b"'), 'shop', 'axb')).toBe(false);
    expect(matches('shop."we""ird (x|y)[z]"', 'shop', 'we"ird (x|y)[z]')).toBe(true);
    expect(matches('orders', 'public', 'orders')).toBe(true);
    expect(matches('orders', 'shop', 'orders')).toBe(false);
  });

  it('what is excluded wins', () => {
    const moved = tableFilter({ include: ['shop.*'], exclude: ['shop.audit*'] });
    expect(moved({ schema: 'shop', name: 'orders' })).toBe(true);
    expect(moved({ schema: 'shop', name: 'audit_log' })).toBe(false);
  });

  it('say of a schema whether one of its tables may be meant', () => {
    const mayBe = schemaFilter({ include: ['shop.order_*', '*'], exclude: ['public.log', 'staging.*', '"a.b".*'] });
    expect(['shop', 'public', 'staging', 'other'].map(mayBe)).toEqual([true, true, false, false]);
    expect(schemaFilter({ include: ['*.*'], exclude: ['*', 'sh*.load_*'] })('public')).toBe(false);
    expect(schemaFilter({ include: ['*.*'], exclude: ['*', 'sh*.load_*'] })('shop')).toBe(true);
  });

  it('a pattern that is none is refused', () => {
    for (const text of ['', 'a.b.c', '.a', 'shop."open']) expect(() => parseTablePattern(text)).toThrow(RangeError);
  });
});

describe.each(['pg15', 'pg18'] as const)('the catalog of %s', (server) => {
  let db: TestDatabase;
  let session: Session;
  let tables: TableInfo[];

  beforeAll(async () => {
    db = await testDatabase(server, 'catalog');
    await withClient(db.config, (client) => client.query(FIXTURE));
    session = await openSession(asDatabase(db, 'blue'), { purpose: 'test' });
    tables = await readTables(session, ALL);
  });
  afterAll(async () => {
    await closeSession(session);
    await db.drop();
  });
  const table = (name: string): TableInfo | undefined => tables.find((t) => t.name.name === name);

  it('moves ordinary and partitioned tables; leaves out ours, extensions, temporary and unlogged ones', () => {
    expect(tables.map((t) => formatTableName(t.name))).toEqual([
      'public.orders',
      'shop."Order Items"',
      'shop.by_index',
      'shop.deferred',
      'shop.event',
      'shop.event_2026',
      'shop.event_2026_a',
      'shop.keyless',
      `shop.${LONG}`,
    ]);
    expect(table('event_2026')).toMatchObject({ kind: 'partitioned', root: { schema: 'shop', name: 'event' } });
    expect(table('event_2026_a')).toMatchObject({ kind: 'partition', root: { schema: 'shop', name: 'event' } });
    expect(replicatedRoots(tables).map((t) => t.name.name)).not.toContain('event_2026');
  });

  it('fences what is moved, and unlogged tables, which are left behind', async () => {
    const names = (await readFencedTables(session, ALL)).map(formatTableName);
    expect(names).toEqual([...tables.map((t) => formatTableName(t.name)), 'shop.cache', 'shop.event_2026_b']);
  });

  it('describes columns as they are', () => {
    expect(table('orders')?.columns).toEqual([
      {
        name: 'id',
        type: 'bigint',
        notNull: true,
        generated: false,
        virtual: false,
        identity: 'a',
        hasDefault: false,
        collation: null,
      },
      {
        name: 'total',
        type: 'numeric(10,2)',
        notNull: true,
        generated: false,
        virtual: false,
        identity: '',
        hasDefault: true,
        collation: null,
      },
      {
        name: 'doubled',
        type: 'numeric',
        notNull: false,
        generated: true,
        virtual: false,
        identity: '',
        hasDefault: false,
        collation: null,
      },
      {
        name: 'state',
        type: 'shop.status[]',
        notNull: false,
        generated: false,
        virtual: false,
        identity: '',
        hasDefault: false,
        collation: null,
      },
      {
        name: 'note',
        type: 'text',
        notNull: false,
        generated: false,
        virtual: false,
        identity: '',
        hasDefault: false,
        collation: 'C',
      },
    ]);
    expect(table('orders')).toMatchObject({ estimatedRows: 500, owner: 'postgres' });
    expect(table('orders')?.bytes).toBeGreaterThan(0);
  });

  it('a key is the primary key or the index of the replica identity, in the order of the index', () => {
    expect(table('Order Items')?.key).toMatchObject({
      kind: 'primary',
      columns: [{ name: 'Pos' }, { name: 'select' }],
    });
    expect(table('by_index')?.key).toEqual({
      kind: 'replicaIdentity',
      columns: [{ name: 'b', type: 'text', collation: 'default', encoding: null }],
    });
    expect(table('keyless')?.key).toBeNull();
    expect(table('deferred')?.key).toBeNull();
  });

  it('a partition goes with its root', async () => {
    const some = await readTables(session, {
      include: ['shop.event', 'shop.event_2026_a'],
      exclude: ['shop.event_2026'],
    });
    expect(some.map((t) => t.name.name)).toEqual(['event', 'event_2026', 'event_2026_a']);
    expect(await readTables(session, { include: ['shop.event_2026_a'], exclude: [] })).toEqual([]);
  });

  it('whoever asks for one table reads that one, or it with its partitions, and finds what is in the whole', async () => {
    const query = vi.spyOn(session, 'query');
    const rowsRead = async (): Promise<number> => {
      const results = (await Promise.all(query.mock.results.map(({ value }) => value as unknown))) as pg.QueryResult[];
      query.mockClear();
      return results.reduce((sum, { rowCount }) => sum + (rowCount ?? 0), 0);
    };
    try {
      for (const info of tables) {
        const found = await findTable(session, info.name);
        // One row is the search_path.
        const members = tables.filter(({ root }) => sameTable(root, info.root));
        expect(await rowsRead(), info.name.name).toBe(members.length + 1);
        expect(found?.info).toEqual(info);
        const leaves = members.filter(({ kind }) => kind === 'partition');
        expect(found?.leaves).toEqual(info.kind === 'partitioned' ? leaves : [info]);
        const ofRoot = members.filter(({ kind }) => kind !== 'partitioned');
        expect(await leavesOf(session, info.root)).toEqual(ofRoot);
        await rowsRead();
        expect(await readTables(session, ALL, [info.name])).toEqual([info]);
        expect(await rowsRead()).toBe(1);
      }
      const names = tables.map(({ name }) => name);
      expect((await readChangedTables(session, names)).map(({ info }) => info)).toEqual(tables);
      expect(await readTables(session, ALL, [])).toEqual([]);
      expect(await readTables(session, { include: ['*.*'], exclude: ['shop.event'] }, names)).toHaveLength(6);
      for (const name of ['cache', 'summary', 'nowhere']) {
        expect(await findTable(session, { schema: 'shop', name })).toBeUndefined();
      }
      expect(await findTable(session, { schema: 'no such schema', name: LONG })).toBeUndefined();
      expect(await findTable(session, { schema: 'shop', name: `${LONG}x` })).toBeUndefined();
    } finally {
      query.mockRestore();
    }
  });

  it('lists apart what is named and not replicated', async () => {
    expect(await readUnmovedTables(session, ALL)).toEqual([
      { name: { schema: 'shop', name: 'cache' }, kind: 'unlogged', partitionOf: null, extension: null },
      {
        name: { schema: 'shop', name: 'event_2026_b' },
        kind: 'unlogged',
        partitionOf: { schema: 'shop', name: 'event' },
        extension: null,
      },
      { name: { schema: 'shop', name: 'summary' }, kind: 'materializedView', partitionOf: null, extension: null },
    ]);
  });

  it('reads sequences from the sequences: positions that were set and never called included', async () => {
    const sequences = await readSequences(session, ALL);
    expect(sequences.find((s) => s.name === 'alone')).toEqual({
      schema: 'shop',
      name: 'alone',
      lastValue: -7n,
      isCalled: false,
      increment: -2n,
      min: -100n,
      max: -1n,
      cycle: true,
      ownedBy: null,
    });
    expect(sequences.find((s) => s.name === 'orders_id_seq')).toMatchObject({
      lastValue: 500n,
      isCalled: true,
      ownedBy: { schema: 'public', name: 'orders' },
    });
  });

  it('a sequence stays when its table does', async () => {
    const names = (await readSequences(session, { include: ['*.*'], exclude: ['public.orders'] })).map((s) => s.name);
    expect(names).toContain('alone');
    expect(names).not.toContain('orders_id_seq');
  });

  it('the summary for the lint has the same tables', async () => {
    const summary = toCatalogSummary(tables, await readPartitionKeys(session), await readUniqueIndexes(session));
    expect(summary.tables.filter((t) => t.partitionKey?.length !== 0)).toMatchObject([
      { name: 'event', partitionKey: ['at', 'id'] },
    ]);
    expect(summary.tables.find((t) => t.name === 'Order Items')).toMatchObject({
      schema: 'shop',
      key: ['Pos', 'select'],
      partitioned: false,
      uniqueIndexes: ['Order Items_pkey'],
    });
    expect(summary.tables).toHaveLength(tables.length);
  });
});
