import { MockActivityEnvironment } from '@temporalio/testing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { promoteActivities } from '../../activities/promote.js';
import { verifyActivities, type VerificationResult } from '../../activities/verify.js';
import { watchSchemaActivities, type SchemaNews } from '../../activities/watch-schema.js';
import { tableFilter } from '../../src/postgres/catalog-pattern.js';
import { armFence } from '../../src/postgres/fence.js';
import { measureLag } from '../../src/postgres/marker.js';
import {
  maybeEmptied,
  partitionFilesSql,
  readPartitionFiles,
  readPartitions,
  rememberFiles,
} from '../../src/postgres/partition-files.js';
import { FENCE_CLOSED, FENCE_OPEN } from '../../src/postgres/state.js';
import type { Side } from '../../src/side.js';
import { testedVersion } from '../support/tested-version.js';
import { StreamPair } from './stream-pair.js';

const DDL = `
  CREATE TABLE plain (id int PRIMARY KEY);
  CREATE TABLE late (id int PRIMARY KEY) PARTITION BY RANGE (id);
  CREATE TABLE late_1 PARTITION OF late DEFAULT;
  CREATE TABLE event (id int, month int, PRIMARY KEY (id, month)) PARTITION BY LIST (month);
  CREATE TABLE event_1 PARTITION OF event FOR VALUES IN (1);
  CREATE TABLE event_2 PARTITION OF event FOR VALUES IN (2) PARTITION BY RANGE (id);
  CREATE TABLE event_2_low PARTITION OF event_2 FOR VALUES FROM (0) TO (5);
  CREATE TABLE event_2_high PARTITION OF event_2 FOR VALUES FROM (5) TO (100)`;
const ROWS = `INSERT INTO public.event SELECT n, m FROM generate_series(1, 9) n, generate_series(1, 2) m`;

describe.each([testedVersion('pg15')])('TRUNCATE of one partition, which is not replicated, on %s', (server) => {
  let pair: StreamPair;
  let activities: ReturnType<typeof watchSchemaActivities> &
    ReturnType<typeof verifyActivities> &
    ReturnType<typeof promoteActivities>;
  let passes = 0;

  beforeAll(async () => {
    pair = await StreamPair.start({ blue: server, green: 'pg18' }, DDL);
    await pair.publish(['plain', 'late', 'event']);
    await pair.replicate();
    const { dependencies } = pair;
    activities = {
      ...watchSchemaActivities(dependencies),
      ...verifyActivities(dependencies),
      ...promoteActivities(dependencies),
    };
    await act(() => activities.beginSchemaWatch(pair.ref, 'blue'));
  });

  afterAll(() => pair.stop());

  it('is noticed on blue by the other file of the partition; a comparison that finds rows too many names it', async () => {
    await pair.blue.query(ROWS);
    expect(await verified('blue')).toMatchObject({ differingRows: 0 });
    await pair.blue.query('TRUNCATE public.event_1');
    expect(await measureLag(pair.blue, pair.green, 'to_green', 20_000)).toBeLessThan(20_000);
    expect(await rowsOn('green')).toBe(18);
    const news = await noticed('blue');
    expect(news).toMatchObject({ emptied: { partitions: ['public.event_1'] } });
    expect(news.what).toMatch(/^blue: public\.event_1 may have been emptied since rows were compared/);
    const found = await verified('blue');
    expect(found).toMatchObject({ differingRows: 9, emptied: ['public.event_1'] });
    // As long as nobody has mended it.
    expect(await verified('blue')).toMatchObject({ differingRows: 9, emptied: ['public.event_1'] });
    await armFence(pair.green, [{ schema: 'public', name: 'event_1' }]);
    await pair.green.query(`SELECT setval('verdigris.fence', ${FENCE_CLOSED})`);
    await expect(pair.green.query('TRUNCATE public.event_1')).rejects.toMatchObject({ code: '25006' });
    // As docs/ddl.md says.
    await pair.green.query(
      `BEGIN; ALTER TABLE public.event_1 DISABLE TRIGGER _verdigris_fence_truncate; TRUNCATE public.event_1;
       ALTER TABLE public.event_1 ENABLE ALWAYS TRIGGER _verdigris_fence_truncate; COMMIT`,
    );
    await expect(pair.green.query('TRUNCATE public.event_1')).rejects.toMatchObject({ code: '25006' });
    await pair.green.query(`SELECT setval('verdigris.fence', ${FENCE_OPEN})`);
    const mended = await verified('blue');
    expect(mended.differingRows).toBe(0);
    expect(mended.emptied).toBeUndefined();
  });

  it('is told from what leaves the same trace by a comparison alone', async () => {
    for (const sql of ['VACUUM FULL public.event_2_low', 'TRUNCATE public.event_2', `TRUNCATE public.event; ${ROWS}`]) {
      await pair.blue.query(sql);
      expect((await noticed('blue')).emptied?.partitions, sql).toContain('public.event_2_low');
      const { differingRows, emptied } = await verified('blue');
      expect([differingRows, emptied], sql).toEqual(
        sql === 'TRUNCATE public.event_2' ? [9, ['public.event_2_high', 'public.event_2_low']] : [0, undefined],
      );
    }
  });

  it('has only its table compared again, and only the files of that one are remembered', async () => {
    const names = ['public.event_2_high', 'public.event_2_low'];
    await pair.blue.query('TRUNCATE public.event_2');
    await pair.green.query('TRUNCATE public.event_2');
    await pair.blue.query('VACUUM FULL public.late_1');
    expect(await verified('blue')).toMatchObject({ tables: 3, differingRows: 0 });
    await pair.blue.query(`TRUNCATE public.event; ${ROWS}`);
    expect(await lookedAt()).toEqual(['public.event_1', ...names]);
    expect(await act(() => activities.lookAtSchema(pair.ref))).toEqual({
      what: null,
      emptied: ['public.event_1', ...names],
    });
    expect(await verified('blue', 'emptied')).toMatchObject({ tables: 1, rowsVerified: 18, differingRows: 0 });
    expect(await lookedAt()).toEqual([]);
    expect(await act(() => activities.lookAtSchema(pair.ref))).toEqual({ what: null });
    // Rows that are only on green are found as often as it is asked, and spoil nothing that was compared before.
    await pair.blue.query('TRUNCATE public.event_2');
    for (let i = 0; i < 2; i++) {
      expect(await verified('blue', 'emptied')).toMatchObject({ tables: 1, differingRows: 9, emptied: names });
    }
    expect(await lookedAt()).toEqual(names);
    await pair.green.query('TRUNCATE public.event_2');
    expect(await verified('blue')).toMatchObject({ scope: 'changed', differingRows: 0 });
    await pair.blue.query(`TRUNCATE public.event; ${ROWS}`);
    expect(await verified('blue', 'emptied')).toMatchObject({ tables: 1, differingRows: 0 });
  });

  it('sends no row of a file that is known to whoever looks while writers wait', async () => {
    const known = await readPartitions(pair.blue, () => true);
    expect(known.length).toBeGreaterThan(3);
    const others = async (): Promise<string[]> =>
      (await pair.blue.query<{ name: string }>(partitionFilesSql(known))).rows.map(({ name }) => name);
    expect(await others()).toEqual([]);
    await pair.blue.query('VACUUM FULL public.late_1');
    expect(await others()).toEqual(['late_1']);
    expect(await verified('blue', 'emptied')).toMatchObject({ tables: 1, differingRows: 0 });
  });

  it('is nothing to a run of every table when a temporary table is emptied, or a partition of an unlogged one', async () => {
    const every = tableFilter({ include: ['*.*'], exclude: [] });
    const before = await readPartitionFiles(pair.blue, every);
    await pair.blue.query('CREATE TEMP TABLE short (id int) PARTITION BY RANGE (id)');
    await pair.blue.query('CREATE TEMP TABLE short_1 PARTITION OF short DEFAULT');
    await pair.blue.query('TRUNCATE short_1');
    if (server === 'pg15') {
      // 18 refuses such a table.
      await pair.blue.query('CREATE UNLOGGED TABLE public.lost (id int) PARTITION BY RANGE (id)');
      await pair.blue.query('CREATE TABLE public.lost_1 PARTITION OF public.lost DEFAULT');
      await pair.blue.query('TRUNCATE public.lost_1');
    }
    expect(await readPartitionFiles(pair.blue, every)).toEqual(before);
    await pair.blue.query('DROP TABLE IF EXISTS short, public.lost');
  });

  it('on green is seen before writes go back, whether a watch has told it or not', async () => {
    await pair.replicateBack(['plain', 'late', 'event']);
    const everything = tableFilter(pair.ref.plan.tables);
    // As the promotion does.
    await rememberFiles(pair.green, 'run-1', 'compared', await readPartitionFiles(pair.green, everything));
    await act(() => activities.beginSchemaWatch(pair.ref, 'green'));
    expect(await act(() => activities.maybeEmptied(pair.ref))).toEqual([]);
    await pair.green.query('TRUNCATE public.event_1');
    expect(await measureLag(pair.green, pair.blue, 'to_blue', 20_000)).toBeLessThan(20_000);
    expect(await rowsOn('blue')).toBe(18);
    expect(await act(() => activities.maybeEmptied(pair.ref))).toEqual(['public.event_1']);
    expect(await noticed('green')).toMatchObject({ emptied: { partitions: ['public.event_1'] } });
    // Blue would bring its rows back: found as often as it is asked.
    for (let i = 0; i < 2; i++)
      expect(await verified('green', 'emptied')).toMatchObject({ tables: 1, differingRows: 9 });
    expect(await act(() => activities.maybeEmptied(pair.ref))).toEqual(['public.event_1']);
    // From now on the comparison tells it.
    expect(await verified('green')).toMatchObject({ differingRows: 9 });
    expect(await act(() => activities.maybeEmptied(pair.ref))).toEqual([]);
    // Nothing is brought back of what leaves the same trace.
    for (const table of ['event_2_low', 'late_1']) await pair.green.query(`VACUUM FULL public.${table}`);
    expect(await act(() => activities.maybeEmptied(pair.ref))).toEqual(['public.event_2_low', 'public.late_1']);
    await pair.blue.query('DELETE FROM public.event WHERE month = 1');
    expect(await verified('green', 'emptied')).toMatchObject({ tables: 2, differingRows: 0 });
    expect(await act(() => activities.maybeEmptied(pair.ref))).toEqual([]);
  });

  async function lookedAt(): Promise<readonly string[]> {
    return (await maybeEmptied(pair.blue, 'run-1', tableFilter(pair.ref.plan.tables))).partitions;
  }

  function act<T>(work: () => Promise<T>): Promise<T> {
    return new MockActivityEnvironment().run(work) as Promise<T>;
  }

  function verified(source: Side, only?: 'emptied'): Promise<VerificationResult> {
    passes += 1;
    return act(() => activities.verify(pair.ref, source, 'changed', `pass ${passes}`, only));
  }

  function noticed(side: Side, told?: string): Promise<SchemaNews> {
    return act(() => activities.watchSchema(pair.ref, side, told));
  }

  async function rowsOn(side: Side): Promise<number> {
    const { rows } = await pair[side].query<{ n: number }>('SELECT count(*)::int AS n FROM public.event');
    return rows[0]?.n ?? 0;
  }
});
