import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import { feedName } from '../../src/postgres/feed.js';
import { literal } from '../../src/postgres/identifier.js';
import { measureLag } from '../../src/postgres/marker.js';
import { closeSession, openSession, type Session } from '../../src/postgres/session.js';
import { readSlotReader, SlotReaders } from '../../src/postgres/slot-readers.js';
import { installState } from '../../src/postgres/state.js';
import {
  disableSubscription,
  enableSubscription,
  ensureSubscription,
  readSubscription,
} from '../../src/postgres/subscription.js';
import { FeedErrors } from '../../src/postgres/stuck-feed.js';
import { LinkProxy } from '../support/link-proxy.js';
import { asDatabase, testDatabase, withClient, type TestDatabase } from '../support/postgres.js';
import { CopyPair } from '../postgres/copy-pair.js';
import { MIGRATION, StreamPair } from '../postgres/stream-pair.js';

const FEED = feedName(MIGRATION, 'to_green');
const DDL = 'CREATE TABLE busy (id int PRIMARY KEY, note text)';
const ANOTHER = {
  type: 'ReplicationBroken',
  message: expect.stringMatching(/read by another subscriber .*from 127.0.0.1/) as string,
};

const WITHIN = { timeout: 20_000, interval: 20 };

const open: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close();
});

/** The green of an earlier run of the same name, which comes back with its subscription. */
async function earlierGreen(name: string, conninfo: string, ddl = DDL): Promise<Session> {
  const own: TestDatabase = await testDatabase('pg18', 'earlier green');
  open.push(() => own.drop());
  await withClient(own.config, (client) => client.query(ddl));
  const session = await openSession(asDatabase(own, 'green'), { purpose: 'test' });
  open.push(() => closeSession(session));
  await installState(session, 'green');
  await ensureSubscription(session, { name, conninfo, copyData: false, enabled: true, publisherVersion: 15 });
  return session;
}

async function streamPair(): Promise<StreamPair> {
  const pair = await StreamPair.start({ blue: 'pg15', green: 'pg18' }, DDL);
  open.push(() => pair.stop());
  await pair.publish(['busy']);
  return pair;
}

/** Looks until it is refused, as whoever waits for green does. */
async function looks(errors: { refuse(): Promise<void> }, forMs: number): Promise<void> {
  for (const until = performance.now() + forMs; performance.now() < until;) {
    await errors.refuse();
    await sleep(300);
  }
}

describe('a slot that somebody else reads from', () => {
  it(
    'ends a run whose green waits for its first rows, with the address of whoever has it',
    { timeout: 60_000 },
    async () => {
      const pair = await streamPair();
      await pair.makeSlots();
      await earlierGreen(FEED, pair.databases.blue.peerConninfo);
      await expect.poll(() => readSlotReader(pair.blue, FEED)).toBeDefined();
      await pair.blue.query('INSERT INTO public.busy VALUES (1)');
      await expect(pair.replicate()).rejects.toMatchObject(ANOTHER);
    },
  );

  it('ends a run whose green has followed before, and is late since', { timeout: 60_000 }, async () => {
    const pair = await streamPair();
    await pair.replicate();
    await disableSubscription(pair.green, FEED);
    await earlierGreen(FEED, pair.databases.blue.peerConninfo);
    await expect.poll(() => readSlotReader(pair.blue, FEED)).toBeDefined();
    await enableSubscription(pair.green, FEED);
    expect(await measureLag(pair.blue, pair.green, 'to_green', 500)).toBe(Number.POSITIVE_INFINITY);
    const feed = {
      ...{ databases: pair.databases, run: { runId: 'run-1', migration: MIGRATION } },
      ...{ plan: pair.ref.plan, signal: new AbortController().signal },
    };
    // Markers are what an idle application writes.
    const writing = setInterval(
      () => void pair.blue.query('INSERT INTO public.busy SELECT max(id) + 1 FROM public.busy').catch(() => undefined),
      500,
    );
    open.push(() => Promise.resolve(clearInterval(writing)));
    await expect(looks(new FeedErrors(feed, pair.blue, pair.green), 30_000)).rejects.toMatchObject(ANOTHER);
  });

  it('ends the copy: what it takes is missing behind the snapshots', { timeout: 60_000 }, async () => {
    const pair = await CopyPair.start(['pg15', 'pg18'], 'read by another', DDL, 'INSERT INTO busy VALUES (1)');
    open.push(() => pair.stop());
    await pair.planCopy();
    const { ended } = pair.hold();
    await pair.phase('ready');
    await earlierGreen(feedName(pair.run.migration, 'to_green'), pair.blueDatabase.peerConninfo);
    await expect(ended).rejects.toMatchObject(ANOTHER);
  });

  it('is not what a worker of green has left that its server still waits for', { timeout: 60_000 }, async () => {
    const pair = await streamPair();
    const link = await LinkProxy.start(pair.portOf('blue'));
    open.push(() => link.close());
    await pair.replicate({ blueOnPort: link.port });
    await expect.poll(() => readSlotReader(pair.blue, FEED)).toBeDefined();
    const before = await readSlotReader(pair.blue, FEED);
    link.swallow('toServer');
    // Its worker begins anew and gets through now, but the slot is taken by the one before.
    await pair.green.query(`ALTER SUBSCRIPTION ${FEED} CONNECTION ${literal(pair.databases.blue.peerConninfo)}`);
    await expect.poll(async () => (await readSubscription(pair.green, FEED))?.applyPid ?? null, WITHIN).toBeNull();
    const readers = new SlotReaders(pair.blue, pair.green, [FEED]);
    await looks({ refuse: () => readers.refuseOthers() }, 8_000);
    expect(await readSlotReader(pair.blue, FEED)).toMatchObject({ pid: before?.pid });
    // What was kept back arrives, and its end with it.
    link.restore();
    await looks({ refuse: () => readers.refuseOthers() }, 3_000);
    expect(await measureLag(pair.blue, pair.green, 'to_green', 20_000)).toBeLessThan(20_000);
  });
});
