import { MockActivityEnvironment } from '@temporalio/testing';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { rollbackActivities } from '../../activities/rollback.js';
import { planCleaning } from '../../src/postgres/doctor/plan-cleaning.js';
import { whoIsPrimary } from '../../src/postgres/doctor/who-is-primary.js';
import { feedName } from '../../src/postgres/feed.js';
import { readRetainedWal } from '../../src/postgres/retained-wal.js';
import { readSlot } from '../../src/postgres/replication-slot.js';
import { LinkProxy } from '../support/link-proxy.js';
import { MIGRATION, StreamPair } from '../postgres/stream-pair.js';

const FEED = feedName(MIGRATION, 'to_green');

/** The first rows take longer than any test here. */
const NEVER_COPIED = `
  CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(600); RETURN NEW; END';
  CREATE TRIGGER slow BEFORE INSERT ON public.busy FOR EACH ROW EXECUTE FUNCTION public.slow();
  ALTER TABLE public.busy ENABLE ALWAYS TRIGGER slow`;

describe('slots of a first copy that PostgreSQL makes itself', () => {
  let pair: StreamPair;
  let link: LinkProxy;
  let copying: Promise<unknown>;
  let abort: AbortController;

  beforeEach(async () => {
    pair = await StreamPair.start({ blue: 'pg15', green: 'pg18' }, 'CREATE TABLE busy (id int PRIMARY KEY, note text)');
    link = await LinkProxy.start(pair.portOf('blue'));
    await pair.blue.query('INSERT INTO public.busy SELECT g FROM generate_series(1, 10) g');
    await pair.green.query(NEVER_COPIED);
    await pair.publish(['busy']);
    abort = new AbortController();
    copying = pair.replicate({ blueOnPort: link.port, signal: abort.signal }).catch(() => undefined);
    await expect.poll(syncSlots, { timeout: 20_000, interval: 50 }).toHaveLength(1);
  });

  afterEach(async () => {
    abort.abort();
    await copying;
    await link.close();
    await pair.stop();
  });

  async function syncSlots(): Promise<string[]> {
    const { rows } = await pair.blue.query<{ name: string }>(
      `SELECT slot_name AS name FROM pg_replication_slots
        WHERE database = current_database() AND slot_name LIKE 'pg\\_%' AND confirmed_flush_lsn IS NOT NULL`,
    );
    return rows.map(({ name }) => name);
  }

  async function cutLink(): Promise<void> {
    abort.abort();
    await copying;
    link.refuse();
    // It sleeps, and would notice only when it wakes up.
    await pair.green.query(
      'SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_subscription WHERE relid IS NOT NULL AND subname = $1',
      [FEED],
    );
  }

  it('are gone after a rollback for which green could not reach blue', async () => {
    await cutLink();
    const { undoReplication } = rollbackActivities(pair.dependencies);
    await new MockActivityEnvironment().run(undoReplication, pair.ref, { keepGreen: false });
    expect(await pair.replicationObjects('blue')).toEqual([]);
    expect(await pair.replicationObjects('green')).toEqual([]);
  });

  it('are gone from blue when green is lost, and the rollback says that green is not undone', async () => {
    await cutLink();
    const { undoReplication } = rollbackActivities(pair.dependenciesWithout('green'));
    const undoing = new MockActivityEnvironment().run(undoReplication, pair.ref, { keepGreen: false });
    await expect(undoing).rejects.toMatchObject({ type: 'ConnectionFailed' });
    expect(await pair.replicationObjects('blue')).toEqual([]);
  });

  it('are found and cleaned by the doctor without green', async () => {
    await cutLink();
    const slots = await syncSlots();
    const { blue, green } = pair.databases;
    const { found, verdict } = await whoIsPrimary({ blue, green: { ...green, config: { ...green.config, port: 1 } } });
    expect(found.blue).toMatchObject({
      inventory: { slots: expect.arrayContaining([expect.objectContaining({ name: slots[0], origin: 'tablesync' })]) },
    });
    const plan = planCleaning(found, verdict, { state: 'over', why: 'the test says so' }, { release: {} });
    expect(plan).toMatchObject({
      actions: expect.arrayContaining([{ kind: 'dropSlot', side: 'blue', name: slots[0] }]),
    });
  });

  it('count as WAL that the feed holds back, although its own slots go on', async () => {
    await pair.blue.query(
      `CREATE TABLE public.other AS SELECT repeat('x', 500) AS note FROM generate_series(1, 20000)`,
    );
    const ofFeed = async (): Promise<number> => {
      // A slot goes on by the notes of running transactions, which a checkpoint writes.
      await pair.blue.query('CHECKPOINT');
      return (await readSlot(pair.blue, FEED))?.retainedBytes ?? 0;
    };
    await expect.poll(ofFeed, { timeout: 30_000, interval: 200 }).toBeLessThan(1_000_000);
    expect((await readRetainedWal(pair.blue, [FEED])).bytes).toBeGreaterThan(5_000_000);
  });
});
