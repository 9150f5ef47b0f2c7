import { MockActivityEnvironment } from '@temporalio/testing';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { watchSchemaActivities } from '../../activities/watch-schema.js';
import { feedName } from '../../src/postgres/feed.js';
import { measureLag } from '../../src/postgres/marker.js';
import { MIGRATION, StreamPair } from './stream-pair.js';

const DDL = `
  CREATE TABLE orders (id int PRIMARY KEY, amount int);
  CREATE TABLE tags (id int PRIMARY KEY)`;
const FEED = feedName(MIGRATION, 'to_green');

describe("a feed in binary form, and DDL that changes a column's type", () => {
  let pair: StreamPair;
  let activities: ReturnType<typeof watchSchemaActivities>;

  beforeAll(async () => {
    pair = await StreamPair.start({ blue: 'pg15', green: 'pg18' }, DDL);
    await pair.publish(['orders', 'tags']);
    await pair.replicate();
    activities = watchSchemaActivities(pair.dependencies);
    await new MockActivityEnvironment().run(() => activities.beginSchemaWatch(pair.ref, 'blue'));
  });

  beforeEach(async () => {
    for (const name of [FEED, `${FEED}_2`]) await pair.green.query(`ALTER SUBSCRIPTION ${name} SET (binary = true)`);
    await arrives();
  });

  afterAll(() => pair.stop());

  it('goes on after the resume when the change was made on both sides', async () => {
    await pair.green.query('ALTER TABLE public.orders ALTER COLUMN amount TYPE bigint');
    await pair.blue.query('INSERT INTO public.orders VALUES (1, 1)');
    await pair.blue.query('ALTER TABLE public.orders ALTER COLUMN amount TYPE bigint');
    await pair.blue.query('INSERT INTO public.orders VALUES (2, 5000000000)');
    expect(await accept()).toMatchObject({ refused: null, accepted: expect.stringMatching(/bigint/) as string });
    await arrives();
    expect(await forms()).toEqual([false, false]);
  });

  it('goes on after the resume when the change was taken back', async () => {
    await pair.blue.query('ALTER TABLE public.tags ALTER COLUMN id TYPE bigint');
    await pair.blue.query('INSERT INTO public.tags VALUES (1)');
    await pair.blue.query('ALTER TABLE public.tags ALTER COLUMN id TYPE int');
    expect(await accept()).toMatchObject({ refused: null });
    await arrives();
  });

  it('goes on as text as soon as the change is noticed, but not for another one', async () => {
    await pair.blue.query('CREATE INDEX ON public.orders (amount)');
    expect(await noticed()).toMatch(/index orders_amount_idx is new/);
    expect(await forms()).toEqual([true, true]);
    await pair.blue.query('ALTER TABLE public.tags ALTER COLUMN id TYPE bigint');
    expect(await noticed()).toMatch(/column id was \(integer\), is \(bigint\)/);
    await pair.blue.query('INSERT INTO public.tags VALUES (2)');
    await arrives();
    expect(await forms()).toEqual([false, false]);
  });

  it('is applied as its owner after the resume where policies were forced on the owner of a table', async () => {
    const force = 'ALTER TABLE public.orders ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY';
    for (const side of [pair.green, pair.blue]) await side.query(force);
    expect(await asOwner()).toBe(0);
    await accept();
    expect(await asOwner()).toBe(1);
    await pair.blue.query('INSERT INTO public.orders VALUES (3, 3)');
    await arrives();
  });

  const accept = (): Promise<unknown> => new MockActivityEnvironment().run(() => activities.acceptSchema(pair.ref));

  async function noticed(): Promise<string> {
    const watch = (): Promise<{ what: string }> => activities.watchSchema(pair.ref, 'blue');
    const { what } = (await new MockActivityEnvironment().run(watch)) as { what: string };
    return what;
  }

  /** All that blue has written. */
  async function arrives(): Promise<void> {
    expect(await measureLag(pair.blue, pair.green, 'to_green', 20_000)).toBeLessThan(20_000);
    const all = `SELECT (SELECT json_agg(o ORDER BY id) FROM public.orders o) AS orders, (SELECT json_agg(t ORDER BY id) FROM public.tags t) AS tags`;
    expect((await pair.green.query(all)).rows).toEqual((await pair.blue.query(all)).rows);
  }

  /** Streams whose rows are applied as the owner of the subscription. */
  async function asOwner(): Promise<number> {
    const { rowCount } = await pair.green.query(
      `SELECT FROM pg_subscription
        WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND subrunasowner`,
    );
    return rowCount ?? -1;
  }

  /** Whether each stream goes in binary form. */
  async function forms(): Promise<boolean[]> {
    const { rows } = await pair.green.query<{ subbinary: boolean }>(
      `SELECT subbinary FROM pg_subscription
        WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY subname`,
    );
    return rows.map(({ subbinary }) => subbinary);
  }
});
